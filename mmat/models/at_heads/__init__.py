from .activation_at_head import ActivationATHead
from .base import BaseATHead, NetworkOutputs

__all__ = ['ActivationATHead', 'BaseATHead', 'NetworkOutputs']
