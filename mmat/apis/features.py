"""Extract features from a trained network and test them with a linear classifier."""
from typing import List, Optional, Tuple, Union

import torch
from mmengine.config import Config
from mmengine.model import BaseModel
from mmengine.runner import Runner
from rich.progress import track
from torch import Tensor
from torch.utils.data import Dataset

from mmat.engine.loader_checks import check_batches
from mmat.errors import ConfigError, MissingFileError, MissingPackageError
from mmat.models.options import check_number
from mmat.models.targets import class_names, compare_classes, read_targets
from mmat.registry import DATASETS, MODELS

from .model import get_model


@torch.no_grad()
def extract_features(network: BaseModel, dataset: Union[Dataset, dict], batch_size: int = 256,
                     num_workers: int = 0) -> Tuple[Tensor, Tensor]:
    """Return the inputs of a network's classifier for every image of a dataset.

    Args:
        network (nn.Module): From :func:`mmat.get_model`. Set to eval mode.
        dataset (Dataset | dict): A dataset with labels, or its config.
        batch_size (int): Defaults to 256.
        num_workers (int): Processes that read images. Datasets in memory need none. Defaults to 0.

    Returns:
        tuple: Features of shape (images, channels), float32, and labels, (images, ), on the CPU.
    """
    dataset = DATASETS.build(dataset) if isinstance(dataset, dict) else dataset
    whole = hasattr(dataset, '__getitems__')
    loader = Runner.build_dataloader(dict(
        dataset=dataset, batch_size=batch_size, num_workers=num_workers,
        sampler=dict(type='DefaultSampler', shuffle=False),
        collate_fn=dict(type='mmat.keep_batch' if whole else 'pseudo_collate')))
    check_batches(loader, 'extract_features')
    network.eval()
    features, labels = [], []
    for batch in track(loader, description='features'):
        inputs = network.data_preprocessor(batch, training=False)['inputs']
        features.append(network.extract_feat(inputs, stage='pre_logits').float().cpu())
        labels.append(read_targets(batch['data_samples']).cpu())
    return torch.cat(features), torch.cat(labels)


def linear_probe(config: Config, device: Optional[Union[str, torch.device]] = None) -> dict:
    """Train and test a linear classifier on a network's frozen features.

    As in the cross-domain experiment of "Learn to Pay Attention" (Jetley et al., ICLR 2018), the classifier is a linear
    support vector machine: scikit-learn's, on standardized features, with C chosen by cross-validation on the training
    images.

    Args:
        config (Config): ``network`` and ``checkpoint`` (None for random initialization); the datasets ``train`` and
            ``test``; ``classifier=dict(Cs=..., folds=...)``; optionally ``batch_size``, ``num_workers``, ``seed``, and
            a ``data_preprocessor`` if the images differ from those that the network was trained on.
        device (str | torch.device, optional): Device of the network. Defaults to None: a GPU if available.

    Returns:
        dict: ``accuracy`` and ``train_accuracy`` in percent, the chosen ``C``, and the numbers of ``features``,
        ``train_images`` and ``test_images``.

    Raises:
        ConfigError: A setting is missing or out of range, or the datasets have different classes.
        MissingFileError: The network, checkpoint or a dataset does not exist.
        CheckpointError: The checkpoint cannot be read or does not fit.
        MissingPackageError: scikit-learn is not installed.
    """
    missing = [key for key in ('network', 'train', 'test', 'classifier') if key not in config]
    if missing:
        raise ConfigError(f'The config of a linear probe lacks {", ".join(missing)}. See '
                          'recipes/linear_probe/cifar10_to_digits.py.')
    Cs, folds = _classifier_options(config.classifier)
    try:
        from sklearn.model_selection import GridSearchCV
        from sklearn.pipeline import make_pipeline
        from sklearn.preprocessing import StandardScaler
        from sklearn.svm import LinearSVC
    except ImportError as error:
        raise MissingPackageError('A linear probe needs scikit-learn. Run pip install scikit-learn.') from error
    torch.manual_seed(config.get('seed', 0))
    network = get_model(config.network, pretrained=config.get('checkpoint') or False,
                        device=device or ('cuda' if torch.cuda.is_available() else 'cpu'))
    if not config.get('checkpoint'):
        network.init_weights()
    if config.get('data_preprocessor'):
        preprocessor = MODELS.build(config.data_preprocessor)
        network.data_preprocessor = preprocessor.to(next(network.parameters()).device)
    loading = dict(batch_size=config.get('batch_size', 256), num_workers=config.get('num_workers', 0))
    datasets = {split: _build_dataset(config[split], split) for split in ('train', 'test')}
    difference = compare_classes(class_names(datasets['train']), class_names(datasets['test']), 'test')
    if difference:
        raise ConfigError(f'The classes of the datasets train and test differ: {difference}.')
    (inputs, labels), (test_inputs, test_labels) = (
        tuple(each.numpy() for each in extract_features(network, datasets[split], **loading))
        for split in ('train', 'test'))
    search = GridSearchCV(
        make_pipeline(StandardScaler(), LinearSVC(random_state=config.get('seed', 0), max_iter=10000)),
        dict(linearsvc__C=Cs), cv=folds)
    search.fit(inputs, labels)
    return dict(
        accuracy=100 * search.score(test_inputs, test_labels), train_accuracy=100 * search.score(inputs, labels),
        C=search.best_params_['linearsvc__C'], features=inputs.shape[1], train_images=len(labels),
        test_images=len(test_labels))


def _classifier_options(classifier: dict) -> Tuple[List[float], int]:
    Cs, folds = (classifier.get('Cs'), classifier.get('folds', 5)) if isinstance(classifier, dict) else (None, 5)
    if not isinstance(Cs, (list, tuple)) or not Cs or not all(isinstance(C, (int, float)) and C > 0 for C in Cs):
        raise ConfigError('The classifier of a linear probe must be a dict with positive candidates Cs for C, such as '
                          f'dict(Cs=[0.001, 0.1], folds=5), got {classifier!r}.')
    return list(Cs), check_number(folds, 'folds', 'the classifier of a linear probe', minimum=2)


def _build_dataset(dataset: dict, split: str) -> Dataset:
    try:
        return DATASETS.build(dataset)
    except FileNotFoundError as error:
        raise MissingFileError(f'Cannot read the {split} images ({dataset.get("type")}): {error}') from error
