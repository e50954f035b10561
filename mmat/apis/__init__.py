from mmat.models import get_attention_maps

from .features import extract_features, linear_probe
from .hub import register_zoo
from .inferencer import AttentionInferencer, inference_model
from .launch import apply_cpu_setting, build_runner, command_line, parse_common_args
from .model import get_model, list_models

register_zoo()

__all__ = [
    'AttentionInferencer', 'apply_cpu_setting', 'build_runner', 'command_line', 'extract_features',
    'get_attention_maps', 'get_model', 'inference_model', 'linear_probe', 'list_models', 'parse_common_args',
    'register_zoo'
]
