from .at_heads import ActivationATHead, BaseATHead
from .backbones import NIN, WideResNet
from .build import build_network, network_config
from .data_preprocessor import BatchPreprocessor
from .distillers import Distiller
from .heads import LinearClsHead

__all__ = [
    'ActivationATHead', 'BaseATHead', 'BatchPreprocessor', 'Distiller', 'LinearClsHead', 'NIN',
    'WideResNet', 'build_network', 'network_config'
]
