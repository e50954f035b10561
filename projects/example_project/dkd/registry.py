"""Registry scope 'dkd' of this repository."""
from mmengine.registry import MODELS as MMENGINE_MODELS
from mmengine.registry import Registry

MODELS = Registry('model', parent=MMENGINE_MODELS, scope='dkd', locations=['dkd'])
