"""mmat: attention transfer and learned attention for vision networks."""
import warnings

from .version import __version__

# mmcv-lite says at import that it lacks an operator of detection transformers, which nothing here uses.
warnings.filterwarnings('ignore', message='Fail to import ``MultiScaleDeformableAttention``')

_APIS = ('AttentionInferencer', 'get_model', 'inference_model', 'list_models')

__all__ = ['__version__', *_APIS]


def __getattr__(name):
    # Lazy, so that ``from mmat.attention import ...`` needs nothing but torch.
    if name in _APIS:
        from . import apis
        return getattr(apis, name)
    raise AttributeError(f"module 'mmat' has no attribute {name!r}")
