from .attention_resnet import AttentionResNet
from .attention_vgg import AttentionVGG
from .nin import NIN
from .wide_resnet import WideResNet

__all__ = ['AttentionResNet', 'AttentionVGG', 'NIN', 'WideResNet']
