"""Images as a network sees them."""
import torch.nn as nn
from torch import Tensor


def denormalize(preprocessor: nn.Module, batch: dict, training: bool = False) -> Tensor:
    """A batch after a network's data preprocessor, its normalisation undone.

    Args:
        preprocessor (nn.Module): With ``mean`` and ``std`` where it normalises.
        batch (dict): As the loader gives it; ``inputs`` are on the scale of pictures, 0 to 255, or, where they are
            floating point and none is above 1, 0 to 1.
        training (bool): Whether the preprocessor augments. Defaults to False.

    Returns:
        Tensor: RGB in [0, 1], shape (N, 3, H, W), float32, on the CPU.
    """
    images = batch['inputs']
    unit = all(image.is_floating_point() and image.max() <= 1 for image in images)
    inputs = preprocessor(batch, training)['inputs']
    mean, std = getattr(preprocessor, 'mean', None), getattr(preprocessor, 'std', None)
    if mean is not None:
        inputs = inputs * std + mean
    inputs = inputs.float().cpu() / (1 if unit else 255)
    return (inputs if inputs.shape[1] == 3 else inputs[:, :1].expand(-1, 3, -1, -1)).clamp(0, 1)
