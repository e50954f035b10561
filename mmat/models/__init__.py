from .at_heads import (
    ActivationATHead,
    BaseATHead,
    FlipSymmetryHead,
    FullActivationHead,
    GradientATHead,
    GradientNormHead,
    NetworkOutputs,
    SoftTargetHead,
    WeightSchedule,
)
from .attention_maps import attention_layers, get_attention_maps
from .backbones import CIFARVGG, NIN, AffineResNet, AttentionResNet, AttentionVGG, CIFARResNet, WideResNet
from .build import build_network, network_config
from .data_preprocessor import BatchPreprocessor
from .distillers import Distiller
from .heads import ConcatClsHead, IndependentClsHead, LinearClsHead
from .necks import AttentionWeights, BaseAttentionNeck, GridAttentionNeck, SpatialAttentionNeck

__all__ = [
    'ActivationATHead', 'AffineResNet', 'AttentionResNet', 'AttentionVGG', 'AttentionWeights', 'BaseATHead',
    'BaseAttentionNeck', 'BatchPreprocessor', 'CIFARResNet', 'CIFARVGG', 'ConcatClsHead', 'Distiller',
    'FlipSymmetryHead', 'FullActivationHead', 'GradientATHead', 'GradientNormHead', 'GridAttentionNeck',
    'IndependentClsHead', 'LinearClsHead', 'NIN', 'NetworkOutputs', 'SoftTargetHead', 'SpatialAttentionNeck',
    'WeightSchedule', 'WideResNet', 'attention_layers', 'build_network', 'get_attention_maps', 'network_config'
]
