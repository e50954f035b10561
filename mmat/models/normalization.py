"""Convert images from one network's preprocessing to another's."""
from typing import Optional, Tuple

import torch
import torch.nn as nn
import torch.nn.functional as F
from torch import Tensor

# Means of ImageNet in BGR order, on the scales 0 to 255 and 0 to 1; networks with these expect BGR images.
_BGR_MEANS = torch.tensor([[103.53, 116.28, 123.675], [0.406, 0.456, 0.485]])


class InputAdapter:
    """Convert images normalised by one data preprocessor into the input of a network with another.

    It swaps the channels if the two networks use another channel order, renormalises, and resizes.

    Args:
        source (nn.Module): Data preprocessor that made the images.
        target (nn.Module): Data preprocessor of the network.
        size (tuple, optional): Height and width of the network's input. Defaults to None: unchanged.
    """

    def __init__(self, source: nn.Module, target: nn.Module, size: Optional[Tuple[int, int]] = None):
        self.swaps_channels = orders_differ(source, target)
        self._affine = renormalization(source, target, self.swaps_channels)
        self._size = size

    def __call__(self, images: Tensor) -> Tensor:
        """Convert a batch, shape (N, C, H, W); differentiable. Resizing is bilinear and antialiased."""
        if self.swaps_channels and images.shape[1] == 3:
            images = images.flip(1)
        if self._affine is not None:
            # Kept on the images' device: a copy at each step would make the host wait for a GPU.
            self._affine = tuple(value.to(images.device) for value in self._affine)
            scale, shift = (value.to(images.dtype) for value in self._affine)
            images = images * scale + shift
        if self._size is not None and tuple(images.shape[-2:]) != self._size:
            images = F.interpolate(images, self._size, mode='bilinear', antialias=True, align_corners=False)
        return images


def renormalization(source: nn.Module, target: nn.Module, swapped: bool = False) -> Optional[tuple]:
    """Compute the affine map from one preprocessor's normalisation to another's.

    Args:
        source (nn.Module): Data preprocessor with ``mean`` and ``std`` buffers, or without: no normalisation.
        target (nn.Module): Likewise.
        swapped (bool): Whether the images' channels were reversed after ``source``. Defaults to False.

    Returns:
        tuple | None: ``(scale, shift)`` of shape (C or 1, 1, 1) to multiply by and add; None if both are equal.
    """
    (mean, std), (target_mean, target_std) = _statistics(source), _statistics(target)
    if swapped:
        mean, std = mean.flip(0), std.flip(0)
    scale, shift = std / target_std, (mean - target_mean) / target_std
    return None if (scale == 1).all() and (shift == 0).all() else (scale, shift)


def _statistics(preprocessor: nn.Module) -> tuple:
    mean, std = getattr(preprocessor, 'mean', None), getattr(preprocessor, 'std', None)
    if mean is None or std is None:
        return torch.zeros(1, 1, 1), torch.ones(1, 1, 1)
    return mean.detach().cpu(), std.detach().cpu()


def orders_differ(source: nn.Module, target: nn.Module) -> bool:
    """Whether two networks expect another channel order after their preprocessors, given the same images."""
    loaded = 'rgb' if 'rgb' in (loaded_order(source), loaded_order(target)) else 'bgr'
    orders = [_network_order(preprocessor, loaded) for preprocessor in (source, target)]
    return orders[0] != orders[1]


def loaded_order(preprocessor: nn.Module) -> Optional[str]:
    """Return the channel order of the images that a data preprocessor takes, 'rgb' or 'bgr'; None if unknown.

    mmat's datasets in memory are RGB. Images from files are BGR, as mmcv reads them, and are converted by most
    preprocessors. One that does not convert takes images in either order, unless its mean is ImageNet's in BGR order.
    """
    order = getattr(preprocessor, 'channel_order', None)
    if order is not None:
        return order
    if _converts(preprocessor):
        return 'bgr'
    mean = _statistics(preprocessor)[0].flatten()
    is_bgr = len(mean) == 3 and any(torch.allclose(mean, each, rtol=1e-3) for each in _BGR_MEANS)
    return 'bgr' if is_bgr else None


def _network_order(preprocessor: nn.Module, loaded: str) -> str:
    """Channel order after a preprocessor, for images in the order ``loaded`` unless it is known to take the other."""
    return 'rgb' if _converts(preprocessor) else loaded_order(preprocessor) or loaded


def _converts(preprocessor: nn.Module) -> bool:
    return bool(getattr(preprocessor, 'to_rgb', False) or getattr(preprocessor, '_channel_conversion', False))
