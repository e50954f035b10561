"""How well the features of a trained network serve other images: frozen, under a linear classifier."""
from typing import List, Optional, Tuple, Union

import torch
import torch.nn as nn
from mmengine.config import Config
from mmengine.runner import Runner
from rich.progress import track
from torch import Tensor
from torch.utils.data import Dataset

from mmat.models.options import check_number
from mmat.models.targets import read_targets
from mmat.registry import DATASETS, MODELS

from .model import get_model


@torch.no_grad()
def extract_features(network: nn.Module, dataset: Union[Dataset, dict], batch_size: int = 256,
                     num_workers: int = 0) -> Tuple[Tensor, Tensor]:
    """What a network's classifier sees of every image of a dataset.

    Args:
        network (nn.Module): From :func:`mmat.get_model`; put in eval mode.
        dataset (Dataset | dict): With labels, or its config.
        batch_size (int): Defaults to 256.
        num_workers (int): Processes that read images; for datasets held in memory none are needed. Defaults to 0.

    Returns:
        tuple: Features of shape (images, channels), float32, and labels, (images, ), on the CPU.
    """
    dataset = DATASETS.build(dataset) if isinstance(dataset, dict) else dataset
    whole = hasattr(dataset, '__getitems__')
    loader = Runner.build_dataloader(dict(
        dataset=dataset, batch_size=batch_size, num_workers=num_workers,
        sampler=dict(type='DefaultSampler', shuffle=False),
        collate_fn=dict(type='mmat.keep_batch' if whole else 'pseudo_collate')))
    network.eval()
    features, labels = [], []
    for batch in track(loader, description='features'):
        inputs = network.data_preprocessor(batch, training=False)['inputs']
        features.append(network.extract_feat(inputs, stage='pre_logits').float().cpu())
        labels.append(read_targets(batch['data_samples']).cpu())
    return torch.cat(features), torch.cat(labels)


def linear_probe(config: Config, device: Optional[Union[str, torch.device]] = None) -> dict:
    """Train a linear classifier on a network's frozen features of one dataset, and test it ("cross-domain").

    As in the cross-domain experiment of "Learn to Pay Attention" (Jetley et al., ICLR 2018) a linear support vector
    machine, here scikit-learn's on standardised features, whose C is chosen by cross-validation on the training images.

    Args:
        config (Config): ``network`` and ``checkpoint`` (None: as initialised); ``train`` and ``test``, datasets; where
            their images are not like those that the network was trained on, a ``data_preprocessor`` for them;
            ``classifier=dict(Cs=..., folds=...)``; and perhaps ``batch_size``, ``num_workers`` and ``seed``.
        device (str | torch.device, optional): Where the network runs. Defaults to None: a GPU where there is one.

    Returns:
        dict: ``accuracy`` and ``train_accuracy`` in percent, the chosen ``C``, the number of ``features``, and of
        ``train_images`` and ``test_images``.

    Raises:
        ValueError: A config without one of these, with other options, or with datasets of different classes.
        FileNotFoundError: A network, checkpoint or dataset that is not there.
        ImportError: scikit-learn is not installed.
    """
    missing = [key for key in ('network', 'train', 'test', 'classifier') if key not in config]
    if missing:
        raise ValueError(f'the config of a linear probe needs {", ".join(missing)}; see '
                         'recipes/linear_probe/cifar10_to_digits.py')
    Cs, folds = _classifier_options(config.classifier)
    try:
        from sklearn.model_selection import GridSearchCV
        from sklearn.pipeline import make_pipeline
        from sklearn.preprocessing import StandardScaler
        from sklearn.svm import LinearSVC
    except ImportError as error:
        raise ImportError("the linear classifier is scikit-learn's: pip install scikit-learn") from error
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
    classes = {split: dataset.metainfo.get('classes') for split, dataset in datasets.items()}
    if classes['train'] != classes['test']:
        raise ValueError(f'the classes of train ({classes["train"]}) and test ({classes["test"]}) differ')
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
        raise ValueError('classifier of a linear probe must be a dict with Cs, positive numbers to choose C among, '
                         f'such as dict(Cs=[0.001, 0.1], folds=5), got {classifier!r}')
    return list(Cs), check_number(folds, 'folds', 'the classifier of a linear probe', minimum=2)


def _build_dataset(dataset: dict, split: str) -> Dataset:
    try:
        return DATASETS.build(dataset)
    except FileNotFoundError as error:
        raise FileNotFoundError(f'the images of {split}, {dataset.get("type")}, cannot be read: {error}') from error
