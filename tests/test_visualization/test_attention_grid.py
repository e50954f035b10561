import numpy as np
import pytest
import torch
from PIL import Image

from mmat.visualization import draw_attention_grid, render_attention_grid


def test_the_picture_shows_every_map(tmp_path):
    images = torch.zeros(2, 3, 8, 8)
    images[0, 0] = 1  # one red, one black
    maps = torch.zeros(2, 4, 4)
    maps[:, 0, 0] = 1
    path = tmp_path / 'new' / 'grid.png'
    draw_attention_grid(images, dict(teacher=dict(a=maps, b=maps), student=dict(a=maps)), path, ['one', 'two'], 'below')
    picture = np.asarray(Image.open(path).convert('RGB')).astype(int)
    red = (picture == [255, 0, 0]).all(-1)
    # The red image appears once; its overlays are blends.
    rows, columns = np.where(red)
    side = columns.max() - columns.min() + 1
    assert red.sum() == side * (rows.max() - rows.min() + 1)
    # Three maps and the image in each of two rows: about eight squares are not white.
    assert (picture != 255).any(-1).sum() > 7.5 * side**2


def test_the_bottom_of_the_ramp_is_dark_and_the_top_is_red(tmp_path):
    maps = torch.tensor([[[0., 0.], [0., 1.]]])
    draw_attention_grid(torch.zeros(1, 3, 2, 2), dict(n=dict(l=maps)), tmp_path / 'grid.png')
    picture = np.asarray(Image.open(tmp_path / 'grid.png').convert('RGB')).astype(int)
    ramp_top, ramp_bottom = (0.55 * 255 * np.array(c) for c in ([0.60, 0.04, 0.02], [0.19, 0.07, 0.23]))
    for colour in (ramp_top, ramp_bottom):
        assert (np.abs(picture - colour).max(-1) <= 1).any()


@pytest.mark.parametrize('networks, titles, caption', [
    (dict(net=1), (), ''),
    (dict(student=2, teacher=1), ['one', 'two', 'three'], 'below'),
    # No attention maps: the images alone.
    ({}, (), ''),
])
def test_the_array_equals_the_file(networks, titles, caption, tmp_path):
    torch.manual_seed(0)
    images = torch.rand(3, 3, 8, 8)
    attention = {name: {f'map{i}': torch.rand(3, 4, 4) for i in range(count)} for name, count in networks.items()}
    draw_attention_grid(images, attention, tmp_path / 'grid.png', titles, caption)
    array = render_attention_grid(images, attention, titles, caption)
    assert array.dtype == np.uint8
    np.testing.assert_array_equal(array, np.asarray(Image.open(tmp_path / 'grid.png').convert('RGB')))
    np.testing.assert_array_equal(array, render_attention_grid(images, attention, titles, caption))
    # A copy, independent of the canvas.
    assert array.base is None and array.flags.writeable


def test_the_array_is_rgb():
    images = torch.tensor([1., 0.5, 0.]).view(1, 3, 1, 1).expand(1, 3, 8, 8)
    array = render_attention_grid(images, {}).reshape(-1, 3)
    colours = {tuple(colour) for colour in array.tolist()}
    assert {(255, 255, 255), (255, 127, 0)} <= colours and not {(0, 127, 255), (255, 0, 127)} & colours


def test_titles_and_caption_are_drawn():
    images, attention = torch.zeros(1, 3, 8, 8), dict(net=dict(layer=torch.rand(1, 4, 4)))
    plain = render_attention_grid(images, attention)
    for words in (dict(titles=['dog']), dict(caption='below')):
        assert (render_attention_grid(images, attention, **words) != plain).any()
