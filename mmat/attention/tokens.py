"""Tokens of transformers as activations on a grid."""
import math
from functools import lru_cache
from typing import Optional, Tuple

from torch import Tensor


@lru_cache
def token_grid(count: int, image_size: Tuple[int, int]) -> Optional[Tuple[int, int]]:
    """How many rows and columns of square patches an image was cut into.

    Args:
        count (int): Patches.
        image_size (tuple): Height and width of the image, in pixels.

    Returns:
        tuple | None: Rows and columns, ``rows * columns == count``; None where no size of patch gives as many.
    """
    height, width = image_size

    def fits(rows, columns):
        # Is there a side of the patches that gives both numbers, with what is left at the edges cut off, or filled up?
        cut_off = max(height / (rows + 1), width / (columns + 1)) < min(height / rows, width / columns)
        below = [size / (number - 1) for size, number in zip(image_size, (rows, columns)) if number > 1]
        return cut_off or max(height / rows, width / columns) < min(below, default=math.inf)

    grids = [(rows, count // rows) for rows in range(1, count + 1) if count % rows == 0 and fits(rows, count // rows)]
    return min(grids, key=lambda grid: abs(grid[0] * width - grid[1] * height), default=None)


def tokens_to_features(tokens: Tensor, image_size: Tuple[int, int], prefix: int = 0) -> Tensor:
    """Lay the tokens of a transformer's layer out as activations; tokens that are no patch are dropped.

    Args:
        tokens (Tensor): Shape (N, prefix + patches, C), patches by rows; or (N, patches, C) in layers that the class
            token has not joined yet.
        image_size (tuple): Height and width of the image, in pixels.
        prefix (int): Tokens that are no patch and come first, such as the class token. Defaults to 0.

    Returns:
        Tensor: Shape (N, C, rows, columns).

    Raises:
        ValueError: Tokens that are not 3-D, or whose number is that of no grid of patches.
    """
    if tokens.dim() != 3:
        raise ValueError(f'tokens have the shape (N, tokens, C), got {tuple(tokens.shape)}')
    count = tokens.shape[1]
    for skipped in dict.fromkeys((prefix, 0)):
        grid = token_grid(count - skipped, tuple(image_size)) if count > skipped else None
        if grid:
            return tokens[:, skipped:].transpose(1, 2).unflatten(2, grid)
    raise ValueError(f'{count} tokens, of which {prefix} are no patch, are no grid of square patches of an image of '
                     f'{image_size[0]} x {image_size[1]} pixels')
