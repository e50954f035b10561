"""Transformer tokens as activations on a grid."""
import math
from functools import lru_cache
from typing import Optional, Tuple

from torch import Tensor

from mmat.errors import UserError


@lru_cache
def token_grid(count: int, image_size: Tuple[int, int]) -> Optional[Tuple[int, int]]:
    """Infer the rows and columns of square patches from their number.

    Args:
        count (int): Number of patches.
        image_size (tuple): Height and width of the image, in pixels.

    Returns:
        tuple | None: Rows and columns, with ``rows * columns == count``. None if no patch size gives this number.
    """
    height, width = image_size

    def fits(rows, columns):
        # True if some patch size gives both numbers, with incomplete patches at the edges cropped or padded.
        cropped = max(height / (rows + 1), width / (columns + 1)) < min(height / rows, width / columns)
        below = [size / (number - 1) for size, number in zip(image_size, (rows, columns)) if number > 1]
        return cropped or max(height / rows, width / columns) < min(below, default=math.inf)

    grids = [(rows, count // rows) for rows in range(1, count + 1) if count % rows == 0 and fits(rows, count // rows)]
    return min(grids, key=lambda grid: abs(grid[0] * width - grid[1] * height), default=None)


def tokens_to_features(tokens: Tensor, image_size: Tuple[int, int], prefix: int = 0) -> Tensor:
    """Arrange the tokens of a transformer layer as activations. Class and other extra tokens are dropped.

    Args:
        tokens (Tensor): Shape (N, prefix + patches, C), patches in row-major order; or (N, patches, C) for layers
            before the class token is added.
        image_size (tuple): Height and width of the image, in pixels.
        prefix (int): Number of leading extra tokens, such as the class token. Defaults to 0.

    Returns:
        Tensor: Shape (N, C, rows, columns).

    Raises:
        UserError: The tokens are not 3-D, or their number matches no grid of patches.
    """
    if tokens.dim() != 3:
        raise UserError(f'Tokens must have the shape (N, tokens, C), got {tuple(tokens.shape)}.')
    count = tokens.shape[1]
    for skipped in dict.fromkeys((prefix, 0)):
        grid = token_grid(count - skipped, tuple(image_size)) if count > skipped else None
        if grid:
            return tokens[:, skipped:].transpose(1, 2).unflatten(2, grid)
    raise UserError(f'No grid of square patches in an image of {image_size[0]} x {image_size[1]} pixels matches '
                    f'{count} tokens with {prefix} extra.')
