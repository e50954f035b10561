"""What a network says of every image of a test set, and what there is to see in it."""
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
from mmat.models import network_config
from mmat.utils.checkpoint import load_weights

# All that mmengine's DumpResults writes: tensors and plain values. Nothing else is ever looked up, so nothing runs.
_ALLOWED = {('_codecs', 'encode'), ('collections', 'OrderedDict'), ('torch._utils', '_rebuild_tensor_v2')}
_NEEDED = ('pred_label', 'pred_score', 'gt_label')


class _PredictionUnpickler(pickle.Unpickler):

    def find_class(self, module, name):
        if (module, name) == ('torch.storage', '_load_from_bytes'):
            # torch's own would unpickle whatever these bytes hold.
            return lambda content: torch.load(io.BytesIO(content), weights_only=True)
        if (module, name) not in _ALLOWED:
            raise pickle.UnpicklingError(f'it refers to {module}.{name}')
        return super().find_class(module, name)


def read_predictions(path: Union[str, Path]) -> List[dict]:
    """Read what ``tools/test.py --out FILE.pkl`` wrote, never executing what it holds.

    Args:
        path (str | Path): The file.

    Returns:
        list[dict]: An image each: ``pred_label``, ``gt_label``, ``pred_score``, ``sample_idx``, ...

    Raises:
        FileNotFoundError: There is none.
        ValueError: The file is truncated, holds something else, or more than tensors and plain values.
    """
    path = Path(path)
    if not path.is_file():
        raise FileNotFoundError(f'no predictions at {str(path)!r}: tools/test.py CONFIG CHECKPOINT --out {path.name} '
                                'writes them')
    try:
        predictions = _PredictionUnpickler(io.BytesIO(path.read_bytes())).load()
    except Exception as error:  # a broken pickle raises whatever its bytes lead to
        reason = str(error) if str(error).startswith('it refers to') else (
            f'it is truncated or something else ({type(error).__name__})')
        raise ValueError(f'{str(path)!r} cannot be read as predictions: {reason}') from error
    if not isinstance(predictions, list) or not predictions or not all(
            isinstance(each, dict) and all(isinstance(each.get(key), Tensor) for key in _NEEDED)
            for each in predictions):
        raise ValueError(f'{str(path)!r} holds no predictions of classes: expected a list of dicts with '
                         f'{", ".join(_NEEDED)}, as tools/test.py --out FILE.pkl writes it')
    return predictions


class DumpPredictions(DumpResults):
    """mmengine's, but for what its tensors are views of: each prediction would drag its whole batch into the file."""

    def process(self, data_batch, predictions) -> None:
        super().process(data_batch, [{key: value.clone() if isinstance(value, Tensor) else value
                                      for key, value in each.items()} for each in predictions])


def number_of_classes(config: Config) -> Optional[int]:
    """Classes of a config's network, where its head tells."""
    return network_config(config).get('head', {}).get('num_classes')


def measure_confusion(config: Config, source: str) -> Tensor:
    """How often images of each class are taken for each.

    Args:
        config (Config): Whose test set it is.
        source (str): Predictions, a file that ends in .pkl or .pickle; or a checkpoint or work directory of the
            config's network, to test now.

    Returns:
        Tensor: Counts by true and by predicted class, shape (classes, classes), int64.
    """
    if str(source).endswith(('.pkl', '.pickle')):
        predictions, classes = read_predictions(source), number_of_classes(config)
        if classes and len(predictions[0]['pred_score']) != classes:
            raise ValueError(f'{str(source)!r} holds predictions of {len(predictions[0]["pred_score"])} classes, the '
                             f'config has {classes}: they are of another test set')
        metric = ConfusionMatrix()
        metric.process(None, predictions)
        return metric.compute_metrics(metric.results)['result']
    config = config.copy()
    config.test_evaluator = dict(type='mmpretrain.ConfusionMatrix')
    # Nothing but the matrix is wanted of this run.
    config.log_level, config.visualizer = 'WARNING', dict(type='Visualizer', vis_backends=None)
    with tempfile.TemporaryDirectory() as work_dir:
        config.work_dir, config.experiment_name, config.launcher = work_dir, work_dir, 'none'
        runner = build_runner(config)
        load_weights(runner.model, source)
        return runner.test()['confusion_matrix/result']


def most_confused(matrix: Tensor, count: int = 5) -> List[Tuple[int, int, int]]:
    """The classes that are most often taken for another: true class, predicted class, images; by falling number."""
    wrong = matrix.clone().fill_diagonal_(0).flatten()
    order = wrong.argsort(descending=True, stable=True)[:count].tolist()
    return [(place // len(matrix), place % len(matrix), int(wrong[place])) for place in order if wrong[place] > 0]


def most_certain(predictions: Sequence[dict], right: bool, count: int) -> List[dict]:
    """Those of the right (or wrong) predictions that the network was surest of, the surest first."""
    chosen = [each for each in predictions if torch.equal(each['pred_label'], each['gt_label']) == right]
    return sorted(chosen, key=lambda each: -float(each['pred_score'].max()))[:count]
