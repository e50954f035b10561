"""Register mmat's zoo in mmpretrain's hub, for ``mmpretrain.get_model`` and ``mmpretrain.list_models``."""
from mmpretrain.apis.model import ModelHub
from modelindex.models.Model import Model

from mmat.errors import MissingFileError
from mmat.utils.zoo import zoo_index, zoo_root

# Entries of mmat's zoo with mmpretrain's own weights, which mmpretrain's hub has under the same name.
_MMPRETRAIN_WEIGHTS = 'https://download.openmmlab.com/'


def register_zoo() -> None:
    """Add the entries of mmat's metafiles to mmpretrain's hub. mmpretrain's own entries are kept.

    Importing :mod:`mmat.apis` calls this. For a distillation config ``mmpretrain.get_model`` builds the distiller,
    which predicts with its student.

    ``ModelHub.register_model_index`` is not used: the hub reads its own index at the first query, and would then refuse
    every name already registered. It is also seven times slower (0.12 s).
    """
    try:
        root = zoo_root()
    except MissingFileError:
        return  # mmat works without its zoo; a query for a model raises the error
    for name, entry in zoo_index().items():
        if not str(entry.get('Weights', '')).startswith(_MMPRETRAIN_WEIGHTS):
            ModelHub._models_dict.setdefault(name.lower(), Model.from_dict(entry, str(root / 'model-index.yml')))
