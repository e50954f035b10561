"""mmat's registries, children of mmengine's.

A registry imports its ``locations`` on first use, so a config with ``mmat.`` prefixes builds in any scope (mmpretrain's
tools, a downstream repository) without ``custom_imports``.
"""
from mmengine.registry import DATASETS as MMENGINE_DATASETS
from mmengine.registry import EVALUATOR as MMENGINE_EVALUATOR
from mmengine.registry import FUNCTIONS as MMENGINE_FUNCTIONS
from mmengine.registry import HOOKS as MMENGINE_HOOKS
from mmengine.registry import METRICS as MMENGINE_METRICS
from mmengine.registry import MODELS as MMENGINE_MODELS
from mmengine.registry import OPTIM_WRAPPERS as MMENGINE_OPTIM_WRAPPERS
from mmengine.registry import TRANSFORMS as MMENGINE_TRANSFORMS
from mmengine.registry import Registry

__all__ = ['DATASETS', 'EVALUATORS', 'FUNCTIONS', 'HOOKS', 'METRICS', 'MODELS', 'OPTIM_WRAPPERS', 'TRANSFORMS']

# Datasets.
DATASETS = Registry('dataset', parent=MMENGINE_DATASETS, locations=['mmat.datasets'])
# Evaluators, which pass predictions to metrics.
EVALUATORS = Registry('evaluator', parent=MMENGINE_EVALUATOR, locations=['mmat.evaluation'])
# Collate functions.
FUNCTIONS = Registry('function', parent=MMENGINE_FUNCTIONS, locations=['mmat.datasets'])
# Hooks of the runner.
HOOKS = Registry('hook', parent=MMENGINE_HOOKS, locations=['mmat.engine'])
# Metrics.
METRICS = Registry('metric', parent=MMENGINE_METRICS, locations=['mmat.evaluation'])
# Backbones, attention necks, heads, attention transfer heads, distillers and data preprocessors.
MODELS = Registry('model', parent=MMENGINE_MODELS, locations=['mmat.models'])
# Optimizer wrappers, which set the precision.
OPTIM_WRAPPERS = Registry('optimizer_wrapper', parent=MMENGINE_OPTIM_WRAPPERS, locations=['mmat.engine'])
# Transforms in the pipelines of datasets that load single images.
TRANSFORMS = Registry('transform', parent=MMENGINE_TRANSFORMS, locations=['mmat.datasets'])
