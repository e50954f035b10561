from mmat.models import get_attention_maps

from .features import extract_features, linear_probe
from .launch import apply_cpu_setting, build_runner, command_line, parse_common_args
from .model import get_model, list_models

__all__ = [
    'apply_cpu_setting', 'build_runner', 'command_line', 'extract_features', 'get_attention_maps', 'get_model',
    'linear_probe', 'list_models', 'parse_common_args'
]
