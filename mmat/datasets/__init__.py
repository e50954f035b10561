from .cifar import CIFAR10, CIFAR100
from .cub import CUB, CropBoundingBox
from .digits import Digits
from .image_files import LoadImage
from .in_memory import BatchedSamples, InMemoryDataset, keep_batch
from .indoor_scenes import IndoorScenes67

__all__ = [
    'BatchedSamples', 'CIFAR10', 'CIFAR100', 'CUB', 'CropBoundingBox', 'Digits', 'InMemoryDataset', 'IndoorScenes67',
    'LoadImage', 'keep_batch'
]
