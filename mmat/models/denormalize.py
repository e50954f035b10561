"""Undo the normalisation of a data preprocessor."""
import torch.nn as nn
from torch import Tensor


def denormalize(preprocessor: nn.Module, batch: dict, training: bool = False) -> Tensor:
    """Preprocess a batch and undo the normalisation, to show the images that a network receives.

    Args:
        preprocessor (nn.Module): Data preprocessor, with ``mean`` and ``std`` if it normalises.
        batch (dict): A batch of the data loader. ``inputs`` are in 0 to 255, or in 0 to 1 if they are floating point
            and none exceeds 1.
        training (bool): Apply the training augmentation. Defaults to False.

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
