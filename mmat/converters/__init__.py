from .attention_transfer import convert_attention_transfer
from .functional_zoo import convert_functional_zoo
from .hdf5 import read_hickle
from .learn_to_pay_attention import convert_learn_to_pay_attention
from .timm import convert_timm
from .torchvision import convert_torchvision

__all__ = [
    'convert_attention_transfer', 'convert_functional_zoo', 'convert_learn_to_pay_attention', 'convert_timm',
    'convert_torchvision', 'read_hickle'
]
