from .activation_at_head import ActivationATHead
from .base import BaseATHead, NetworkOutputs
from .full_activation_head import FullActivationHead
from .gradient_heads import FlipSymmetryHead, GradientATHead, GradientNormHead
from .schedule import WeightSchedule
from .soft_target_head import SoftTargetHead

__all__ = [
    'ActivationATHead', 'BaseATHead', 'FlipSymmetryHead', 'FullActivationHead', 'GradientATHead', 'GradientNormHead',
    'NetworkOutputs', 'SoftTargetHead', 'WeightSchedule'
]
