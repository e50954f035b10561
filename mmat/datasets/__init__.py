from .cifar import CIFAR10, CIFAR100
from .cub import CUB, CropBoundingBox
from .digits import Digits
from .in_memory import BatchedSamples, InMemoryDataset, keep_batch

__all__ = [
    'BatchedSamples', 'CIFAR10', 'CIFAR100', 'CUB', 'CropBoundingBox', 'Digits', 'InMemoryDataset', 'keep_batch'
]
