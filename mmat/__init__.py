"""mmat: attention transfer and learned attention for vision networks."""
import warnings

from .version import __version__

# mmcv-lite warns about a missing operator for detection transformers, which mmat does not use.
warnings.filterwarnings('ignore', message='Fail to import ``MultiScaleDeformableAttention``')

_APIS = ('AttentionInferencer', 'get_model', 'inference_model', 'list_models')

__all__ = ['__version__', *_APIS]


def __getattr__(name):
    # Imported lazily, so that ``from mmat.attention import ...`` needs torch only.
    if name in _APIS:
        from . import apis
        return getattr(apis, name)
    raise AttributeError(f"module 'mmat' has no attribute {name!r}")
