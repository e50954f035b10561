"""Check that the network and the datasets have the same number of classes."""
from mmengine.hooks import Hook

from mmat.errors import ConfigError
from mmat.models import Distiller
from mmat.models.targets import class_names
from mmat.registry import HOOKS
from mmat.utils.checkpoint import unwrap


@HOOKS.register_module()
class ClassCountHook(Hook):
    """Compare the number of classes of the network's head and of the dataset, before training and testing.

    Without this check too few classes in the head fail in the loss with an obscure error, and too many go unnoticed.
    Skipped if either number is unknown.

    Raises:
        ConfigError: The numbers differ.
    """

    priority = 'VERY_HIGH'

    def before_train(self, runner) -> None:
        _check(runner, runner.train_dataloader, 'train_dataloader')

    def before_val(self, runner) -> None:
        _check(runner, runner.val_dataloader, 'val_dataloader')

    def before_test(self, runner) -> None:
        _check(runner, runner.test_dataloader, 'test_dataloader')


def _check(runner, loader, name: str) -> None:
    model = unwrap(runner.model)
    model = model.student if isinstance(model, Distiller) else model
    # mmpretrain's VGG has its classifier in its backbone.
    owner = next((part for part in (getattr(model, 'head', None), getattr(model, 'backbone', None))
                  if getattr(part, 'num_classes', None)), None)
    classes = class_names(loader.dataset)
    if owner is not None and classes and owner.num_classes != len(classes):
        raise ConfigError(f'The network ({type(owner).__name__}) has {owner.num_classes} classes, but the dataset of '
                          f'{name} ({type(loader.dataset).__name__}) has {len(classes)}. Set num_classes to '
                          f'{len(classes)}.')
