from .cifar import CIFAR10, CIFAR100
from .digits import Digits
from .in_memory import BatchedSamples, InMemoryDataset, keep_batch

__all__ = ['BatchedSamples', 'CIFAR10', 'CIFAR100', 'Digits', 'InMemoryDataset', 'keep_batch']
