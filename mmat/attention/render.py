"""Attention maps as images."""
import torch
import torch.nn.functional as F
from torch import Tensor

from mmat.errors import UserError

# Control points of a perceptually ordered blue - green - yellow - red colour ramp, evenly spaced from 0 to 1.
_RAMP = torch.tensor([[0.19, 0.07, 0.23], [0.27, 0.46, 0.96], [0.10, 0.85, 0.79], [0.50, 0.99, 0.36],
                      [0.91, 0.83, 0.22], [0.97, 0.44, 0.10], [0.60, 0.04, 0.02]])


def colorize(values: Tensor) -> Tensor:
    """Map values in [0, 1], shape (N, H, W), to RGB colours in [0, 1], shape (N, 3, H, W)."""
    ramp = _RAMP.to(values)
    position = values.clamp(0, 1) * (len(ramp) - 1)
    low = position.floor().long().clamp(max=len(ramp) - 2)
    fraction = (position - low).unsqueeze(-1)
    return (ramp[low] * (1 - fraction) + ramp[low + 1] * fraction).permute(0, 3, 1, 2)


def overlay_attention(attention: Tensor, images: Tensor, opacity: float = 0.55) -> Tensor:
    """Overlay attention maps on their images.

    Each map is stretched to [0, 1], upsampled bilinearly, coloured and blended with its image.

    Args:
        attention (Tensor): Maps of shape (N, h, w).
        images (Tensor): RGB images in [0, 1], shape (N, 3, H, W).
        opacity (float): Weight of the colour in the blend, from 0 to 1. Defaults to 0.55.

    Returns:
        Tensor: RGB in [0, 1], shape (N, 3, H, W), float32.

    Raises:
        UserError: The shapes do not match.
    """
    if attention.dim() != 3 or images.dim() != 4 or images.shape[1] != 3 or len(attention) != len(images):
        raise UserError('An overlay needs maps (N, h, w) and as many images (N, 3, H, W), got '
                        f'{tuple(attention.shape)} and {tuple(images.shape)}.')
    attention = attention.detach().float()
    low, high = attention.amin((1, 2), keepdim=True), attention.amax((1, 2), keepdim=True)
    # A constant map gets the lowest colour of the ramp.
    attention = (attention - low) / torch.where(high > low, high - low, 1)
    attention = F.interpolate(attention[:, None], images.shape[-2:], mode='bilinear', align_corners=False)[:, 0]
    return images.float() * (1 - opacity) + colorize(attention) * opacity
