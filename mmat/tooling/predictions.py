"""Predictions on a test set: files, confusion matrices, most confident images."""
import io
import pickle
import tempfile
from pathlib import Path
from typing import List, Optional, Sequence, Tuple, Union

import torch
from mmengine.config import Config
from mmengine.evaluator import DumpResults
from mmpretrain.evaluation import ConfusionMatrix
from torch import Tensor

from mmat.apis.launch import build_runner
from mmat.errors import DataError, MissingFileError
from mmat.models import network_config
from mmat.utils.checkpoint import load_weights

# mmengine's DumpResults writes tensors and plain values. The unpickler refuses everything else, so no code runs.
_ALLOWED = {('_codecs', 'encode'), ('collections', 'OrderedDict'), ('torch._utils', '_rebuild_tensor_v2')}
_NEEDED = ('pred_label', 'pred_score', 'gt_label')


class _PredictionUnpickler(pickle.Unpickler):

    def find_class(self, module, name):
        if (module, name) == ('torch.storage', '_load_from_bytes'):
            # torch's function would unpickle these bytes without restrictions.
            return lambda content: torch.load(io.BytesIO(content), weights_only=True)
        if (module, name) not in _ALLOWED:
            raise pickle.UnpicklingError(f'it refers to {module}.{name}')
        return super().find_class(module, name)


def read_predictions(path: Union[str, Path]) -> List[dict]:
    """Read the predictions that ``tools/test.py --out FILE.pkl`` wrote, without executing code from the file.

    Args:
        path (str | Path): The file.

    Returns:
        list[dict]: For each image ``pred_label``, ``gt_label``, ``pred_score``, ``sample_idx``, ...

    Raises:
        MissingFileError: The file does not exist.
        DataError: The file is truncated, holds no predictions, or holds more than tensors and plain values.
    """
    path = Path(path)
    if not path.is_file():
        raise MissingFileError(f'No predictions at {str(path)!r}. Create them with tools/test.py CONFIG CHECKPOINT '
                               f'--out {path.name}.')
    content = path.read_bytes()
    try:
        predictions = _PredictionUnpickler(io.BytesIO(content)).load()
    except Exception as error:  # damaged bytes can raise any exception while they are parsed
        reason = str(error) if str(error).startswith('it refers to') else (
            f'the file is truncated or of another kind ({type(error).__name__})')
        raise DataError(f'Cannot read predictions from {str(path)!r}: {reason}.') from error
    if not isinstance(predictions, list) or not predictions or not all(
            isinstance(each, dict) and all(isinstance(each.get(key), Tensor) for key in _NEEDED)
            for each in predictions):
        raise DataError(f'{str(path)!r} holds no predictions of classes. Expected a list of dicts with '
                        f'{", ".join(_NEEDED)}, as written by tools/test.py --out FILE.pkl.')
    return predictions


def check_single_label(predictions: Sequence[dict], reader: str) -> None:
    """Check that each image has one predicted and one true label.

    Args:
        predictions (Sequence[dict]): From :func:`read_predictions`.
        reader (str): What needs them, for the message.

    Raises:
        DataError: They are from a multi-label network or data set.
    """
    for index, each in enumerate(predictions):
        for key in ('pred_label', 'gt_label'):
            if key in each and each[key].numel() != 1:
                raise DataError(f'{reader} needs one label per image, but image {each.get("sample_idx", index)} has '
                                f'{each[key].numel()} in `{key}`. Use tools/analysis_tools/eval_metric.py --metric '
                                'type=MultiLabelMetric for multi-label predictions.')


class SingleLabelConfusionMatrix(ConfusionMatrix):
    """mmpretrain's confusion matrix, which refuses multi-label predictions."""

    def process(self, data_batch, data_samples: Sequence[dict]) -> None:
        check_single_label(data_samples, 'A confusion matrix')
        super().process(data_batch, data_samples)


class DumpPredictions(DumpResults):
    """mmengine's DumpResults with copies of the tensors, because a view would save its whole batch."""

    def process(self, data_batch, predictions) -> None:
        super().process(data_batch, [{key: value.clone() if isinstance(value, Tensor) else value
                                      for key, value in each.items()} for each in predictions])


def num_classes(config: Config) -> Optional[int]:
    """Return the number of classes of a config's network, or None if its head does not define it."""
    return network_config(config).get('head', {}).get('num_classes')


def compute_confusion_matrix(config: Config, source: str) -> Tensor:
    """Compute the confusion matrix on a config's test set.

    Args:
        config (Config): Config with the test set.
        source (str): Predictions, a file that ends in .pkl or .pickle; or a checkpoint or work directory of the
            config's network, which is tested now.

    Returns:
        Tensor: Number of images by true and predicted class, shape (classes, classes), int64.

    Raises:
        DataError: The predictions are from another test set, unreadable, or multi-label.
        CheckpointError: The checkpoint is unreadable or does not fit the network.
        MissingFileError: The file or the data does not exist.
    """
    if str(source).endswith(('.pkl', '.pickle')):
        predictions, classes = read_predictions(source), num_classes(config)
        if classes and len(predictions[0]['pred_score']) != classes:
            raise DataError(f'{str(source)!r} holds predictions of {len(predictions[0]["pred_score"])} classes, the '
                            f'config has {classes} classes. Use the config that made the predictions.')
        metric = SingleLabelConfusionMatrix()
        metric.process(None, predictions)
        return metric.compute_metrics(metric.results)['result']
    config = config.copy()
    config.test_evaluator = dict(type='mmpretrain.ConfusionMatrix')
    # Write no logs.
    config.log_level, config.visualizer = 'WARNING', dict(type='Visualizer', vis_backends=None)
    with tempfile.TemporaryDirectory() as work_dir:
        config.work_dir, config.experiment_name, config.launcher = work_dir, work_dir, 'none'
        runner = build_runner(config)
        load_weights(runner.model, source)
        runner.test_loop.evaluator.metrics = [SingleLabelConfusionMatrix()]
        return runner.test()['confusion_matrix/result']


def most_confused(matrix: Tensor, count: int = 5) -> List[Tuple[int, int, int]]:
    """Return the most frequent confusions as (true class, predicted class, number of images), in descending order."""
    wrong = matrix.clone().fill_diagonal_(0).flatten()
    order = wrong.argsort(descending=True, stable=True)[:count].tolist()
    return [(index // len(matrix), index % len(matrix), int(wrong[index])) for index in order if wrong[index] > 0]


def most_confident(predictions: Sequence[dict], correct: bool, count: int) -> List[dict]:
    """Return the correct (or wrong) predictions with the highest scores, in descending order."""
    chosen = [each for each in predictions if torch.equal(each['pred_label'], each['gt_label']) == correct]
    return sorted(chosen, key=lambda each: -float(each['pred_score'].max()))[:count]
