"""Pictures of attention maps."""
import torch
import torch.nn.functional as F
from torch import Tensor

# Control points of a perceptually ordered blue - green - yellow - red ramp, at equal steps from 0 to 1.
_RAMP = torch.tensor([[0.19, 0.07, 0.23], [0.27, 0.46, 0.96], [0.10, 0.85, 0.79], [0.50, 0.99, 0.36],
                      [0.91, 0.83, 0.22], [0.97, 0.44, 0.10], [0.60, 0.04, 0.02]])


def colorize(values: Tensor) -> Tensor:
    """Colour values in [0, 1], shape (N, H, W), as RGB in [0, 1], shape (N, 3, H, W)."""
    ramp = _RAMP.to(values)
    position = values.clamp(0, 1) * (len(ramp) - 1)
    low = position.floor().long().clamp(max=len(ramp) - 2)
    part = (position - low).unsqueeze(-1)
    return (ramp[low] * (1 - part) + ramp[low + 1] * part).permute(0, 3, 1, 2)


def overlay_attention(attention: Tensor, images: Tensor, opacity: float = 0.55) -> Tensor:
    """Lay attention maps over their images: upsampled bilinearly, stretched to [0, 1] per image, coloured.

    Args:
        attention (Tensor): Maps of shape (N, h, w).
        images (Tensor): RGB images in [0, 1], shape (N, 3, H, W).
        opacity (float): Share of the colour in the blend, from 0 to 1. Defaults to 0.55.

    Returns:
        Tensor: RGB in [0, 1], shape (N, 3, H, W), float32.

    Raises:
        ValueError: Shapes that do not fit each other.
    """
    if attention.dim() != 3 or images.dim() != 4 or images.shape[1] != 3 or len(attention) != len(images):
        raise ValueError('overlay_attention takes maps (N, h, w) and as many images (N, 3, H, W), got '
                         f'{tuple(attention.shape)} and {tuple(images.shape)}')
    attention = attention.detach().float()
    low, high = attention.amin((1, 2), keepdim=True), attention.amax((1, 2), keepdim=True)
    # A flat map has no contrast to stretch: it is drawn at the bottom of the ramp.
    attention = (attention - low) / torch.where(high > low, high - low, 1)
    attention = F.interpolate(attention[:, None], images.shape[-2:], mode='bilinear', align_corners=False)[:, 0]
    return images.float() * (1 - opacity) + colorize(attention) * opacity
