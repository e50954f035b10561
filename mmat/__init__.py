"""mmat: attention transfer and learned attention for vision networks."""
import warnings
from typing import TYPE_CHECKING

from .version import __version__

if TYPE_CHECKING:
    from .apis import AttentionInferencer, get_model, inference_model, list_models

# mmcv-lite warns about a missing operator for detection transformers, which mmat does not use.
warnings.filterwarnings('ignore', message='Fail to import ``MultiScaleDeformableAttention``')

__all__ = ['__version__', 'AttentionInferencer', 'get_model', 'inference_model', 'list_models']


def __getattr__(name):
    # Imported lazily, so that ``from mmat.attention import ...`` needs torch only.
    if name in __all__:
        from . import apis
        return getattr(apis, name)
    raise AttributeError(f"module 'mmat' has no attribute {name!r}")
