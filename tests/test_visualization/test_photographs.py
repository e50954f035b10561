import numpy as np
import pytest
import torch
import torch.nn.functional as F
from mmengine.dataset import Compose
from mmpretrain.registry import TRANSFORMS

from mmat.attention import overlay_attention
from mmat.visualization import Photograph, photograph_of, render_attention_grid, take_photograph, with_photographs

PACK = dict(type='mmpretrain.PackInputs')
WIDE, TALL = (420, 640, 3), (640, 420, 3)


def pipeline(*steps):
    """A function from an image to the network's input."""
    steps = Compose([TRANSFORMS.build(step) for step in (*steps, PACK)])
    return lambda image: steps(dict(img=image, img_shape=image.shape[:2], ori_shape=image.shape[:2]))['inputs']


def noise(*shape):
    return np.random.default_rng(0).integers(0, 256, shape, dtype=np.uint8)


def resize_edge(scale):
    return dict(type='mmpretrain.ResizeEdge', scale=scale, edge='short')


def crop(size):
    return dict(type='mmpretrain.CenterCrop', crop_size=size)


@pytest.mark.parametrize('shape, steps, box', [
    (WIDE, [], (0, 0, 640, 420)),
    (WIDE, [dict(type='mmpretrain.Resize', scale=(32, 32))], (0, 0, 640, 420)),
    (TALL, [dict(type='mmpretrain.Resize', scale=(32, 32))], (0, 0, 420, 640)),
    # Two thirds, and the middle of the result.
    (WIDE, [resize_edge(280), crop(224)], (320 - 168, 210 - 168, 320 + 168, 210 + 168)),
    (TALL, [resize_edge(280), crop(224)], (210 - 168, 320 - 168, 210 + 168, 320 + 168)),
    # Enlarged.
    ((21, 32, 3), [resize_edge(210), crop(180)], (16 - 9, 10.5 - 9, 16 + 9, 10.5 + 9)),
    # Mirrored.
    (WIDE, [crop(200), dict(type='mmpretrain.RandomFlip', prob=1.)], (420, 110, 220, 310)),
    (WIDE, [crop(200), dict(type='mmpretrain.RandomFlip', prob=1., direction='vertical')], (220, 310, 420, 110)),
    # Padded at the right and below.
    (WIDE, [dict(type='mmcv.Pad', size=(700, 700))], (0, 0, 700, 700)),
    # Other values.
    (WIDE, [crop(200), dict(type='mmcv.Normalize', mean=[100., 110., 120.], std=[3., 50., 60.])], (220, 110, 420, 310)),
    (WIDE, [crop(200), dict(type='mmcv.RandomGrayscale', prob=1., keep_channels=True)], (220, 110, 420, 310)),
])
def test_the_part_that_the_network_sees(shape, steps, box):
    image = noise(*shape)
    before = image.copy()
    photograph = take_photograph(image, pipeline(*steps))
    assert photograph.box == pytest.approx(box, abs=1)
    assert np.array_equal(image, before)
    torch.testing.assert_close(photograph.image, torch.from_numpy(image).permute(2, 0, 1) / 255)


def test_a_random_crop_is_the_next_one():
    prepare, image = pipeline(dict(type='mmpretrain.RandomCrop', crop_size=(150, 250))), noise(*WIDE)
    for seed in range(3):
        np.random.seed(seed)
        left, top, right, bottom = (round(edge) for edge in take_photograph(image, prepare).box)
        seen = prepare(image)
        assert (bottom - top, right - left) == seen.shape[1:]
        # Up to one pixel.
        assert any(torch.equal(seen, torch.from_numpy(image[y:y + 150, x:x + 250]).permute(2, 0, 1))
                   for y in range(max(top - 1, 0), top + 2) for x in range(max(left - 1, 0), left + 2))


@pytest.mark.parametrize('steps', [
    [crop(1)], [dict(type='mmpretrain.Rotate', angle=30., prob=1.)],
    [dict(type='mmpretrain.Solarize', thr=100, prob=1.)]])
def test_another_change_of_the_image_gives_none(steps):
    assert take_photograph(noise(*WIDE), pipeline(*steps)) is None


def test_colours_and_gray():
    image = noise(6, 9, 3)
    rgb = torch.from_numpy(image).permute(2, 0, 1) / 255
    assert torch.equal(take_photograph(image, pipeline(), is_bgr=True).image, rgb.flip(0))
    for shape in ((6, 9), (6, 9, 1)):
        gray = take_photograph(image[..., 0].reshape(shape), pipeline(), is_bgr=True)
        assert torch.equal(gray.image, rgb[:1].expand(3, -1, -1)) and gray.box == (0, 0, 9, 6)
    assert take_photograph(image.astype(np.float32), pipeline()) is None


def test_a_large_photograph_is_reduced():
    image = np.zeros((1000, 1600, 3), np.uint8)
    image[:, 800:] = 255
    photograph = take_photograph(image, pipeline(crop(500)))
    assert photograph.image.shape == (3, 400, 640)
    assert (photograph.image[..., :310] == 0).all() and (photograph.image[..., 330:] == 1).all()
    assert photograph.box == pytest.approx((0.4 * 550, 0.4 * 250, 0.4 * 1050, 0.4 * 750), abs=1)


@pytest.mark.parametrize('box, mirrored', [
    ((0, 0, 40, 30), []), ((8, 5, 28, 25), []), ((28, 5, 8, 25), [2]), ((8, 25, 28, 5), [1]), ((28, 25, 8, 5), [1, 2])])
def test_an_overlay_covers_the_box_alone(box, mirrored):
    torch.manual_seed(0)
    image, attention = torch.rand(3, 30, 40), torch.rand(4, 4)
    result = Photograph(image, box).overlay(attention)
    left, right = sorted(box[::2])
    top, bottom = sorted(box[1::2])
    inside = torch.zeros(30, 40, dtype=torch.bool)
    inside[top:bottom, left:right] = True
    assert torch.equal(result[:, ~inside], image[:, ~inside])
    expected = overlay_attention(attention[None].flip(mirrored), image[None, :, top:bottom, left:right])[0]
    torch.testing.assert_close(result[:, top:bottom, left:right], expected)


def test_an_overlay_of_a_padded_image_covers_the_image():
    torch.manual_seed(0)
    image, attention = torch.rand(3, 20, 40), torch.rand(4, 4)
    result = Photograph(image, (0, -10, 40, 30)).overlay(attention)
    padded = F.pad(image, (0, 0, 10, 10))
    torch.testing.assert_close(result, overlay_attention(attention[None], padded[None])[0, :, 10:30])


# Datasets

class Files:
    """Three BGR images, and a pipeline that loads and crops them."""

    def __init__(self, steps):
        self.images = noise(3, 40, 60, 3)
        self.pipeline = Compose([self.load, *(TRANSFORMS.build(step) for step in (*steps, PACK))])

    def get_data_info(self, index):
        return dict(index=index)

    def load(self, data):
        image = self.images[data['index']]
        return dict(data, img=image, img_shape=image.shape[:2], ori_shape=image.shape[:2])


def test_photographs_of_a_dataset():
    photograph = photograph_of(Files([crop(20)]), 1, is_bgr=True)
    assert photograph.box == pytest.approx((20, 10, 40, 30), abs=1)
    rgb = noise(3, 40, 60, 3)[1][..., ::-1].copy()
    assert torch.equal(photograph.image, torch.from_numpy(rgb).permute(2, 0, 1) / 255)
    assert photograph_of(torch.utils.data.TensorDataset(torch.rand(3)), 1, is_bgr=True) is None


def test_reading_photographs_leaves_random_states():
    np.random.seed(0)
    dataset = Files([dict(type='mmpretrain.RandomCrop', crop_size=20)])
    state = np.random.get_state()
    photograph_of(dataset, 0, is_bgr=True)
    assert all(np.array_equal(one, other) for one, other in zip(state, np.random.get_state()))


def test_inputs_replace_missing_photographs():
    images, photograph = torch.rand(2, 3, 8, 6), Photograph(torch.rand(3, 5, 5), (0, 0, 5, 5))
    first, second = with_photographs(images, [None, photograph])
    assert torch.equal(first.image, images[0]) and first.box == (0, 0, 6, 8) and second is photograph


# Drawing

@pytest.mark.parametrize('height, width', [(420, 640), (640, 420), (200, 300)])
def test_a_photograph_is_drawn_at_its_own_size(height, width):
    torch.manual_seed(0)
    photograph = Photograph(torch.randint(0, 256, (3, height, width)) / 255, (0, 0, width, height))
    picture = render_attention_grid([photograph], dict(net=dict(layer=torch.rand(1, 4, 4))))
    expected = (photograph.image.permute(1, 2, 0) * 255).round().numpy().astype(np.uint8)
    found = [(top, left) for top in range(picture.shape[0] - height + 1) for left in range(60)
             if np.array_equal(picture[top, left:left + 9], expected[0, :9])]
    (top, left), = found
    assert np.array_equal(picture[top:top + height, left:left + width], expected)
    assert picture.shape[0] < height + 120 and 2 * width < picture.shape[1] < 2 * width + 120


@pytest.mark.parametrize('shape, drawn', [((16, 32), (64, 128)), ((2, 1), (128, 64))])
def test_a_small_image_is_enlarged_in_proportion(shape, drawn):
    image = torch.zeros(1, 3, *shape)
    image[:, 0] = 1
    picture = render_attention_grid(image, {})
    rows, columns = np.where((picture == [255, 0, 0]).all(-1))
    assert (np.ptp(rows) + 1, np.ptp(columns) + 1) == drawn and len(rows) == drawn[0] * drawn[1]


def test_photographs_of_several_shapes_share_a_grid():
    images = [torch.zeros(3, *shape) for shape in ((640, 320), (100, 200), (8, 8))]
    for image in images:
        image[0] = 1
    picture = render_attention_grid([Photograph.whole(image) for image in images], {})
    red = (picture == [255, 0, 0]).all(-1)
    edges = np.flatnonzero(np.diff(np.pad(red.any(1), 1).astype(int))).reshape(-1, 2)
    widths = [int(red[start:stop].any(0).sum()) for start, stop in edges]
    assert list(zip((stop - start for start, stop in edges), widths)) == [(256, 128), (100, 200), (128, 128)]
