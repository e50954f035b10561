import pytest
import torch

from mmat.attention import tokens_to_features
from mmat.attention.tokens import token_grid
from mmat.errors import UserError


@pytest.mark.parametrize('size, patch', [
    ((224, 224), 16), ((224, 320), 16), ((384, 128), 32), ((32, 32), 4), ((14, 28), 14)
])
def test_the_grid_of_whole_patches(size, patch):
    rows, columns = size[0] // patch, size[1] // patch
    assert token_grid(rows * columns, size) == (rows, columns)


@pytest.mark.parametrize('patch', [7, 11, 16, 30])
@pytest.mark.parametrize('size', [(230, 320), (101, 97), (224, 224), (64, 200)])
def test_the_grid_of_patches_that_do_not_divide_the_image(size, patch):
    for rounded in ([side // patch for side in size], [-(-side // patch) for side in size]):
        assert token_grid(rounded[0] * rounded[1], size) == tuple(rounded)


@pytest.mark.parametrize('count', [2, 3, 12, 195, 197])
def test_a_square_image_has_square_grids_only(count):
    assert token_grid(count, (224, 224)) is None


def test_tokens_are_in_row_major_order_and_the_class_token_is_dropped():
    # Token i, channel c holds 10 i + c; the first is the class token.
    tokens = (10 * torch.arange(7.)[:, None] + torch.arange(2.))[None].repeat(3, 1, 1)
    features = tokens_to_features(tokens, (20, 30), prefix=1)
    assert features.shape == (3, 2, 2, 3)
    assert features[1].tolist() == [[[10., 20., 30.], [40., 50., 60.]], [[11., 21., 31.], [41., 51., 61.]]]


def test_layers_before_the_class_token():
    tokens = torch.arange(4.).view(1, 4, 1)
    assert tokens_to_features(tokens, (8, 8), prefix=1).flatten().tolist() == [0, 1, 2, 3]


def test_two_prefix_tokens():
    tokens = torch.arange(6.).view(1, 6, 1)
    assert tokens_to_features(tokens, (8, 8), prefix=2).flatten().tolist() == [2, 3, 4, 5]


def test_gradients_reach_the_patches_alone():
    tokens = torch.randn(1, 5, 3, requires_grad=True)
    tokens_to_features(tokens, (8, 8), prefix=1).sum().backward()
    assert tokens.grad[0].tolist() == [[0.] * 3] + [[1.] * 3] * 4


def test_token_counts_without_a_grid_are_refused():
    with pytest.raises(UserError, match=r'32 x 32.*\b8 tokens.*\b1\b'):
        tokens_to_features(torch.zeros(1, 8, 4), (32, 32), prefix=1)
    with pytest.raises(UserError, match=r'\(N, tokens, C\).*\(1, 8\)'):
        tokens_to_features(torch.zeros(1, 8), (32, 32))
