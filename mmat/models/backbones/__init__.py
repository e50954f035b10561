from .nin import NIN
from .wide_resnet import WideResNet

__all__ = ['NIN', 'WideResNet']
