"""Check the datasets, the network and the checkpoints against each other before the first step."""
from typing import Iterator, Optional, Sequence, Tuple

from mmengine.hooks import Hook
from mmengine.runner import BaseLoop
from torch.utils.data import DataLoader

from mmat.errors import ConfigError, DataError
from mmat.models import Distiller
from mmat.models.at_heads.base import GRADIENTS
from mmat.models.distillers.readers import wants_of
from mmat.models.targets import class_names, compare_classes, find_classifier
from mmat.registry import HOOKS
from mmat.utils.checkpoint import checkpoint_classes, unwrap
from mmat.utils.rng import preserve_rng_state

from ..loader_checks import check_batches, dataset_type


@HOOKS.register_module()
class ClassCountHook(Hook):
    """Check the data loaders and compare the classes of datasets, network and checkpoints, before the first step.

    - Every data loader must have a batch.
    - The network's head must have as many classes as the dataset. Too few fail in the loss with an obscure error; too
      many go unnoticed.
    - Training, validation and test set must have the same class names in the same order, because a label is a position
      among them. The test set is read for this if it differs from the validation set; one that is not on this machine
      is skipped.
    - A checkpoint to resume or to test must have the class names of the dataset. Other names in ``load_from`` are only
      logged, because fine-tuning replaces the head.
    - A teacher must have the class names of the training set if a head reads its logits, or its loss for input
      gradients. If its names are merely different, label by label, this is a warning.

    Names and numbers that are unknown are not compared.

    Raises:
        ConfigError: A data loader has no batch; the numbers of classes differ; or a checkpoint or teacher has other
            classes.
        DataError: A dataset is empty, or the datasets have different classes.
    """

    priority = 'VERY_HIGH'

    def __init__(self):
        self._checked = set()

    def after_load_checkpoint(self, runner, checkpoint: dict) -> None:
        _set_classes(runner, checkpoint_classes(checkpoint))

    def before_train(self, runner) -> None:
        loader = runner.train_dataloader
        self._check(loader, 'train_dataloader', runner)
        classes = class_names(loader.dataset)
        for name, other in _evaluation_loaders(runner):
            self._check(other, name, runner, classes)
        _check_start(runner, classes)
        _check_teachers(runner, classes)
        _set_classes(runner, classes)

    def before_val(self, runner) -> None:
        self._check_evaluation(runner, runner.val_dataloader, 'val_dataloader')

    def before_test(self, runner) -> None:
        self._check_evaluation(runner, runner.test_dataloader, 'test_dataloader')

    def _check_evaluation(self, runner, loader: DataLoader, name: str) -> None:
        if name in self._checked:
            return
        difference = compare_classes(class_names(loader.dataset), _loaded_classes(runner), 'the checkpoint')
        if difference:
            raise ConfigError(f'The classes of the checkpoint differ from those of {name} ({dataset_type(loader)}): '
                              f'{difference}. Use the data that it was trained on.')
        self._check(loader, name, runner)

    def _check(self, loader: DataLoader, name: str, runner, train_classes: Optional[Sequence[str]] = None) -> None:
        """Check one loader; ``train_classes`` are compared with its dataset's."""
        check_batches(loader, name)
        difference = compare_classes(train_classes, class_names(loader.dataset), name)
        if difference:
            raise DataError(f'The classes of {name} ({dataset_type(loader)}) differ from those of train_dataloader: '
                            f'{difference}. A label is a position among the class names (or sorted folders), so these '
                            'must be the same in every set.')
        _check_count(runner, loader, name)
        self._checked.add(name)


def _evaluation_loaders(runner) -> Iterator[Tuple[str, DataLoader]]:
    """Yield the loaders of the validation set, and of the test set if it is another and exists."""
    if runner.val_loop is not None:
        yield 'val_dataloader', runner.val_dataloader
    test = runner._test_dataloader
    if isinstance(runner._test_loop, BaseLoop):
        yield 'test_dataloader', runner.test_dataloader
    elif test is not None and test != runner._val_dataloader:
        try:
            with preserve_rng_state():
                loader = runner.build_dataloader(test, seed=runner.seed)
        except Exception as error:  # training does not need the test set
            runner.logger.warning(f'Cannot read the test set, so its classes are not checked: {error}')
        else:
            yield 'test_dataloader', loader


def _check_count(runner, loader: DataLoader, name: str) -> None:
    model = unwrap(runner.model)
    owner = find_classifier(model.student if isinstance(model, Distiller) else model)
    classes = class_names(loader.dataset)
    if owner is not None and classes and owner.num_classes != len(classes):
        raise ConfigError(f'The network ({type(owner).__name__}) has {owner.num_classes} classes, but the dataset of '
                          f'{name} ({dataset_type(loader)}) has {len(classes)}. Set num_classes to {len(classes)}.')


def _check_start(runner, classes: Optional[Sequence[str]]) -> None:
    """Compare the classes of the weights that the training starts from."""
    loaded = _loaded_classes(runner)
    difference = compare_classes(classes, loaded, 'the checkpoint')
    if difference and runner._resume and runner._has_loaded:
        raise ConfigError('The classes of the run to resume differ from those of train_dataloader: '
                          f'{difference}. Resume with the same data, or start a new run from its weights with '
                          'load_from.')
    if difference:
        # With another number of classes, the head's weights are not loaded.
        log = runner.logger.warning if len(loaded) == len(classes) else runner.logger.info
        log(f'The weights to start from were trained on other classes than those of train_dataloader: {difference}.')


def _check_teachers(runner, classes: Optional[Sequence[str]]) -> None:
    model = unwrap(runner.model)
    for name, teacher in model.teachers.items() if isinstance(model, Distiller) else ():
        if {'logits', *GRADIENTS}.isdisjoint(wants_of(model.readers_of(name), 'teacher')):
            continue
        others = teacher.classes
        difference = compare_classes(classes, others, f'{name!r}')
        if not difference:
            continue
        message = (f'The classes of {name!r} ({teacher.checkpoint or "as given"}) differ from those of '
                   f'train_dataloader, and a transfer head reads its logits or its loss: {difference}.')
        labels = {str(each): label for label, each in enumerate(classes)}
        moved = any(labels.get(str(each), label) != label for label, each in enumerate(others))
        if moved or len(others) != len(classes):
            raise ConfigError(f'{message} Use a teacher trained on the same classes.')
        runner.logger.warning(f'{"!" * 20} {message} If these are other names of the same classes, ignore this. '
                              f'{"!" * 20}')


def _loaded_classes(runner) -> Optional[Sequence[str]]:
    return (getattr(unwrap(runner.model), '_dataset_meta', None) or {}).get('classes')


def _set_classes(runner, classes: Optional[Sequence[str]]) -> None:
    unwrap(runner.model)._dataset_meta = dict(classes=classes) if classes else {}
