"""Networks and datasets that disagree on the number of classes."""
from mmengine.hooks import Hook

from mmat.models import Distiller
from mmat.models.targets import class_names
from mmat.registry import HOOKS
from mmat.utils.checkpoint import unwrap


@HOOKS.register_module()
class ClassCountHook(Hook):
    """Refuses a dataset with another number of classes than the network's head has, before training and testing.

    Otherwise the first batch with a label beyond the head's ends in an error of the loss's that names neither; and
    with too many classes nothing is said at all. Says nothing where either does not tell its number.

    Raises:
        ValueError: They differ; the message names both.
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
        raise ValueError(f'the network ({type(owner).__name__}) has {owner.num_classes} classes, but the dataset of '
                         f'{name} ({type(loader.dataset).__name__}) has {len(classes)}: num_classes must be '
                         f'{len(classes)}')
