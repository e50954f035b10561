from .affine_resnet import AffineResNet
from .attention_resnet import AttentionResNet
from .attention_vgg import AttentionVGG
from .cifar_resnet import CIFARResNet
from .cifar_vgg import CIFARVGG
from .nin import NIN
from .wide_resnet import WideResNet

__all__ = ['AffineResNet', 'AttentionResNet', 'AttentionVGG', 'CIFARResNet', 'CIFARVGG', 'NIN', 'WideResNet']
