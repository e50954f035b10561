"""Our zoo in mmpretrain's, so that ``mmpretrain.get_model`` and ``mmpretrain.list_models`` know it too."""
from mmpretrain.apis.model import ModelHub
from modelindex.models.Model import Model

from mmat.utils.zoo import zoo_index, zoo_root

# Entries of ours that are mmpretrain's own, name and weights: there they are already.
_MMPRETRAINS_WEIGHTS = 'https://download.openmmlab.com/'


def register_zoo() -> None:
    """Put the entries of our metafiles into mmpretrain's hub; its own are left as they are.

    Called when :mod:`mmat.apis` is imported. Of a distillation config ``mmpretrain.get_model`` builds the distiller,
    which predicts as its student does.

    Not with ``ModelHub.register_model_index``: the hub reads its own index when it is first asked, and would then
    refuse each name that it finds taken; and that way costs seven times as much (0.12 s, measured).
    """
    try:
        root = zoo_root()
    except FileNotFoundError:
        return  # who asks for a model is told
    for name, entry in zoo_index().items():
        if not str(entry.get('Weights', '')).startswith(_MMPRETRAINS_WEIGHTS):
            ModelHub._models_dict.setdefault(name.lower(), Model.from_dict(entry, str(root / 'model-index.yml')))
