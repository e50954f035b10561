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
from .backbones import NIN, WideResNet
from .build import build_network, network_config
from .data_preprocessor import BatchPreprocessor
from .distillers import Distiller
from .heads import LinearClsHead

__all__ = [
    'ActivationATHead', 'BaseATHead', 'BatchPreprocessor', 'Distiller', 'FlipSymmetryHead', 'FullActivationHead',
    'GradientATHead', 'GradientNormHead', 'LinearClsHead', 'NIN', 'NetworkOutputs', 'SoftTargetHead', 'WeightSchedule',
    'WideResNet', 'build_network', 'network_config'
]
