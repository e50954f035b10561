import pytest
import torch

from mmat.attention import overlay_attention
from mmat.attention.render import colorize
from mmat.errors import UserError

# The ends and the middle of the colour ramp.
BOTTOM, MIDDLE, TOP = [0.19, 0.07, 0.23], [0.50, 0.99, 0.36], [0.60, 0.04, 0.02]


def pixels(rows):
    """Rows of RGB triples as an image batch (1, 3, H, W)."""
    return torch.tensor([rows]).permute(0, 3, 1, 2)


def close(result, expected):
    torch.testing.assert_close(result, expected, rtol=0, atol=1e-6)


def test_colorize_runs_from_blue_over_green_to_red():
    close(colorize(torch.tensor([[[0., 0.5, 1.]]])), pixels([[BOTTOM, MIDDLE, TOP]]))


def test_colorize_blends_neighbouring_colours():
    # A quarter of the way from the first colour, (0.19, 0.07, 0.23), to the second, (0.27, 0.46, 0.96).
    close(colorize(torch.tensor([[[0.25 / 6]]])), pixels([[[0.21, 0.1675, 0.4125]]]))


def test_colorize_clamps_values_outside_the_range():
    close(colorize(torch.tensor([[[-3., 7.]]])), pixels([[BOTTOM, TOP]]))


def test_overlay_stretches_each_map_to_its_own_range():
    attention = torch.tensor([[[5., 6., 7.]], [[-100., 0., 100.]]])
    result = overlay_attention(attention, torch.zeros(2, 3, 1, 3), opacity=1)
    close(result, pixels([[BOTTOM, MIDDLE, TOP]]).expand(2, -1, -1, -1))


@pytest.mark.parametrize('opacity, expected', [
    (0, [0.8, 0.4, 0.2]),
    (1, TOP),
    # A quarter of the image, three of the colour.
    (0.75, [0.65, 0.13, 0.065]),
])
def test_overlay_blends_by_opacity(opacity, expected):
    image = torch.tensor([0.8, 0.4, 0.2]).view(1, 3, 1, 1).expand(1, 3, 1, 2)
    result = overlay_attention(torch.tensor([[[0., 1.]]]), image, opacity=opacity)
    close(result[0, :, 0, 1], torch.tensor(expected))


def test_overlay_enlarges_bilinearly():
    # Pixel centres of the doubled map lie at -1/4, 1/4, 3/4 and 5/4 of the way from its left value to its right one.
    result = overlay_attention(torch.tensor([[[0., 4.]]]), torch.zeros(1, 3, 2, 4), opacity=1)
    close(result, colorize(torch.tensor([[[0., 0.25, 0.75, 1.]]])).expand(1, 3, 2, 4))


def test_a_constant_map_gets_the_lowest_colour():
    result = overlay_attention(torch.full((1, 2, 2), 8.), torch.zeros(1, 3, 2, 2), opacity=1)
    close(result, pixels([[BOTTOM, BOTTOM], [BOTTOM, BOTTOM]]))


@pytest.mark.parametrize('dtype', [torch.float16, torch.bfloat16, torch.float64])
def test_result_is_float32_in_range_and_without_a_graph(dtype):
    torch.manual_seed(0)
    attention = torch.rand(2, 3, 3).to(dtype).requires_grad_()
    result = overlay_attention(attention, torch.rand(2, 3, 7, 9).to(dtype))
    assert result.dtype == torch.float32 and result.shape == (2, 3, 7, 9)
    assert not result.requires_grad
    assert result.min() >= 0 and result.max() <= 1


@pytest.mark.parametrize('attention, images', [
    ((2, 1, 4, 4), (2, 3, 8, 8)),
    ((4, 4), (1, 3, 8, 8)),
    ((2, 4, 4), (3, 8, 8)),
    ((2, 4, 4), (2, 1, 8, 8)),
    ((2, 4, 4), (3, 3, 8, 8)),
])
def test_refuses_shapes_that_do_not_fit(attention, images):
    with pytest.raises(UserError, match=r'\(N, h, w\).*\(N, 3, H, W\)') as error:
        overlay_attention(torch.zeros(attention), torch.zeros(images))
    assert str(attention) in str(error.value) and str(images) in str(error.value)
