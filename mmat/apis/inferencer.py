"""Class scores and attention maps of any images."""
import inspect
import io
import json
import math
import os
from itertools import groupby
from pathlib import Path
from typing import Callable, Dict, Iterator, List, Optional, Sequence, Union

import numpy as np
import torch
import torch.nn as nn
from mmengine.config import Config
from mmpretrain.apis import ImageClassificationInferencer
from mmpretrain.models import MultiLabelClsHead
from mmpretrain.structures import DataSample
from mmpretrain.utils import track
from PIL import Image
from torch import Tensor

from mmat.attention.maps import check_map_options
from mmat.engine import AtomicBackend
from mmat.errors import ConfigError, DataError, LayerError, UserError
from mmat.models import Distiller, attention_layers
from mmat.models.attention_maps import as_attention
from mmat.models.options import check_number
from mmat.models.taps import Layer, check_layers, find_layer, gives_attention, tap
from mmat.utils.zoo import list_models
from mmat.visualization import Photograph, render_attention_grid, short_names, take_photograph, with_photographs

from .image_pipeline import build_image_pipeline
from .images import Source, list_images, read_image, unique_stems
from .model import get_model, load_pretrained


class AttentionInferencer(ImageClassificationInferencer):
    """Compute class scores and attention maps of images in one forward pass.

    Images go through the test pipeline of the network's config, without loading and without the bounding boxes of a
    dataset. Datasets in memory (:class:`mmat.datasets.CIFAR10`, ``CIFAR100``, ``Digits``) have no pipeline: the whole
    image is resized to the dataset's size with antialiasing, and converted to gray if the dataset is gray.

    Args:
        model (str | PathLike | Config | nn.Module): See :func:`mmat.get_model`, or a network built by it. For a
            distiller, the student is used.
        pretrained (bool | str | PathLike): See :func:`mmat.get_model`. A network keeps its weights if this is a bool.
            Defaults to True, the zoo's weights.
        device (str | torch.device, optional): Defaults to None: a GPU if available; a network stays on its device.
        layers (Sequence[int | str], optional): Stage indices or module paths. Defaults to None: all maps of the
            attention neck, or all stages if the network has none.
        p (float): Power of activation-based maps. Defaults to 2.
        reduction (str): 'sum' or 'max' over channels. Defaults to 'sum'.
        classes (Sequence[str], optional): Class names by label. Defaults to None: those of the checkpoint or of the
            config's dataset, if known.
        **kwargs: Merged into the model config, see :func:`mmat.get_model`.

    Raises:
        MissingFileError, FileError, CheckpointError: See :func:`mmat.get_model`.
        LayerError: A layer does not exist.
        ConfigError: The config defines no image pipeline.
        UserError: The device does not exist, or an option is out of range.

    Examples:
        >>> inferencer = AttentionInferencer('wrn16-2_1xb128_cifar10', 'work_dirs/wrn16-2_1xb128_cifar10')
        >>> result, = inferencer('cat.jpg')
        >>> result['pred_class'], result['attention']['backbone.group2'].shape
        ('cat', (8, 8))
    """

    def __init__(self,
                 model: Union[str, os.PathLike, Config, nn.Module],
                 pretrained: Union[bool, str, os.PathLike] = True,
                 device: Optional[Union[str, torch.device]] = None,
                 layers: Optional[Sequence[Layer]] = None,
                 p: float = 2,
                 reduction: str = 'sum',
                 classes: Optional[Sequence[str]] = None,
                 **kwargs):
        check_map_options(p, reduction)
        check_layers(layers)
        if isinstance(model, nn.Module):
            if kwargs:
                raise UserError(f'Cannot change {", ".join(kwargs)} of a network that is already built.')
            network = _get_student(model)
            if pretrained and not isinstance(pretrained, bool):
                load_pretrained(network, pretrained)
            if device is not None:
                network.to(device)
        else:
            if isinstance(model, dict) and 'type' in model:
                raise ConfigError('A model config defines no image pipeline. Give the whole config, a name or a '
                                  'network from mmat.get_model.')
            network = get_model(model, pretrained, device or ('cuda' if torch.cuda.is_available() else 'cpu'), **kwargs)
        super().__init__(network, pretrained=False, classes=classes)
        self.layers = list(dict.fromkeys(find_layer(network, layer) for layer in layers or attention_layers(network)))
        if not self.layers:
            raise LayerError(f'{type(network).__name__} has neither attention maps nor known stages. Give `layers`.')
        self.p = p
        self.reduction = reduction

    def __call__(self,
                 inputs: Union[Source, Sequence[Source]],
                 batch_size: int = 1,
                 return_datasamples: bool = False,
                 show_dir: Optional[Union[str, os.PathLike]] = None,
                 out_file: Optional[Union[str, os.PathLike]] = None,
                 return_vis: bool = False) -> list:
        """Run inference on images.

        Args:
            inputs (str | PathLike | ndarray | Image | Sequence): A path; a URL; an array of shape (H, W, 3), uint8,
                **BGR** as returned by ``mmcv.imread``; a PIL image; a folder, for its images sorted by name, without
                subfolders; or a list of these.
            batch_size (int): Images per forward pass. Images whose sizes differ after the pipeline are not batched.
                Defaults to 1.
            return_datasamples (bool): Return mmpretrain's DataSamples, with the maps as tensors in ``attention``.
                Defaults to False.
            show_dir (str | PathLike, optional): Write a PNG of each image, at its own size up to 640 pixels, with its
                maps over the part that the network sees. Defaults to None.
            out_file (str | PathLike, optional): Write the results as JSON. Defaults to None.
            return_vis (bool): Also return the images written to ``show_dir``, RGB from 0 to 255, as ``visualization``.
                Defaults to False.

        Returns:
            list: For each image a dict of ``pred_scores`` (classes, ), ``pred_label``, ``pred_score``, ``pred_class``
            if class names are known, ``attention``, layer -> map of shape (h, w), float32, and ``img_path`` if it has
            one. The ``pred_label``, ``pred_score`` and ``pred_class`` of a multi-label network are lists of all labels
            that it predicts, in its order; they may be empty. A network without a head has no ``pred_*``.

        Raises:
            MissingFileError: An image does not exist.
            FileError, DataError: An image cannot be read. The message names it.
            UserError: An option is out of range, the network is not a classifier, or ``classes`` has a wrong length.
            RuntimeError: The test pipeline failed on an image. The message names it.
        """
        check_number(batch_size, 'batch_size', type(self).__name__)
        if out_file is not None and Path(out_file).suffix != '.json':
            raise UserError(f'out_file must end in .json, got {str(out_file)!r}.')
        sources = self._inputs_to_list(inputs)
        files = None if show_dir is None else self._output_files(Path(show_dir), sources)
        samples: List[DataSample] = []
        draws = files is not None or return_vis
        batches = self.preprocess(sources, batch_size, draws)
        if len(sources) > batch_size:
            batches = track(batches, 'Inference', total=math.ceil(len(sources) / batch_size))
        for batch in batches:
            photographs = batch.pop('photographs')
            predictions = self.forward(batch)
            if draws:
                done = len(samples)
                self.visualize(photographs, batch['inputs'], predictions,
                               files and files[done:done + len(predictions)])
            samples += predictions
        results = self.postprocess(samples, None)
        if out_file is not None:
            AtomicBackend().put(json.dumps([_to_json(result) for result in results], indent=1).encode(), Path(out_file))
        if return_vis and not return_datasamples:
            for result, sample in zip(results, samples):
                result['visualization'] = sample.visualization
        return samples if return_datasamples else results

    def _inputs_to_list(self, inputs) -> List[Source]:
        return list_images(inputs)

    def _init_pipeline(self, cfg: Config) -> Callable[[np.ndarray], dict]:
        pipeline, self._is_bgr = build_image_pipeline(cfg)
        return pipeline

    def preprocess(self, inputs: List[Source], batch_size: int = 1, draws: bool = False) -> Iterator[dict]:
        """Yield batches of equally sized images, in order, as inputs of the network's data preprocessor.

        If the images are drawn, the ``photographs`` are included; None for one that the pipeline distorts.
        """
        for start in range(0, len(inputs), batch_size):
            images = (self._prepare(source, index, draws)
                      for index, source in enumerate(inputs[start:start + batch_size], start))
            for _, equal in groupby(images, key=lambda image: image['inputs'].shape):
                batch = list(equal)
                yield dict(inputs=torch.stack([image['inputs'] for image in batch]),
                           data_samples=[image['data_samples'] for image in batch],
                           photographs=[image['photograph'] for image in batch])

    def _prepare(self, source: Source, index: int, draws: bool) -> dict:
        try:
            image = read_image(source)
        except DataError as error:
            if isinstance(source, str):
                raise
            raise DataError(f'Image {index}: {error}') from error
        try:
            photograph = take_photograph(image, lambda each: self.pipeline(each)['inputs'], True) if draws else None
            prepared = dict(self.pipeline(image), photograph=photograph)
        except Exception as error:
            name = repr(source) if isinstance(source, str) else index
            raise RuntimeError(f'The test pipeline of the config failed on image {name}: {error}') from error
        if isinstance(source, str):
            prepared['data_samples'].set_metainfo(dict(img_path=source))
        return prepared

    @torch.no_grad()
    def forward(self, inputs: dict) -> List[DataSample]:
        """Predict a batch. Each sample gets ``attention``, layer -> map of shape (h, w), on the CPU."""
        has_head = getattr(self.model, 'head', True) is not None
        with tap(self.model, self.layers) as features:
            if has_head:
                samples = self.model.test_step(inputs)
            else:
                inputs = self.model.data_preprocessor(inputs, False)
                self.model(inputs['inputs'], mode='tensor')
                samples = inputs['data_samples']
        if has_head and not all('pred_score' in sample for sample in samples):
            raise UserError(f'AttentionInferencer needs a classifier, but {type(self.model).__name__} returns no class '
                            'scores.')
        if has_head and self.classes is not None and len(samples[0].pred_score) != len(self.classes):
            raise UserError(f'The network returns {len(samples[0].pred_score)} scores, but there are '
                            f'{len(self.classes)} class names. Give its names with classes=.')
        maps = {layer: as_attention(features[layer], gives_attention(self.model, layer), self.p,
                                    self.reduction).float().cpu() for layer in self.layers}
        for index, sample in enumerate(samples):
            sample.attention = {layer: values[index] for layer, values in maps.items()}
        return samples

    def visualize(self, photographs: List[Optional[Photograph]], images: Tensor, samples: List[DataSample],
                  files: Optional[List[Path]] = None) -> None:
        """Draw photographs and their maps into ``sample.visualization`` and files.

        Args:
            photographs (list): From :meth:`preprocess`.
            images (Tensor): Images after the pipeline, (N, C, H, W), which replace missing photographs.
            samples (list[DataSample]): From :meth:`forward`.
            files (list[Path], optional): Output files. Defaults to None.
        """
        images = images.float() / 255 if images.dtype == torch.uint8 else _rescale(images.float())
        images = images.flip(1) if self._is_bgr and images.shape[1] == 3 else images
        images = images if images.shape[1] == 3 else images[:, :1].expand(-1, 3, -1, -1)
        caption = f'network input: {images.shape[-1]} x {images.shape[-2]} pixels'
        for index, (photograph, sample) in enumerate(zip(with_photographs(images, photographs), samples)):
            maps = short_names({layer: values[None] for layer, values in sample.attention.items()})
            sample.visualization = render_attention_grid([photograph], {self._title(sample): maps}, caption=caption)
            if files is not None:
                content = io.BytesIO()
                Image.fromarray(sample.visualization).save(content, 'PNG')
                AtomicBackend().put(content.getvalue(), files[index])

    def _title(self, sample: DataSample) -> str:
        """Return the predicted classes and their scores, one a line."""
        if 'pred_score' not in sample:
            return ''
        lines = []
        for label in self._labels(sample):
            name = str(label) if self.classes is None else str(self.classes[label]).split(',')[0]
            lines.append(f'{name if len(name) <= 20 else name[:19] + "…"}  {float(sample.pred_score[label]):.2f}')
        return '\n'.join(lines) or 'no label'

    def _labels(self, sample: DataSample) -> List[int]:
        """Return the labels that the network predicts for an image, in its order: one, or any number."""
        return sample.pred_label.tolist() if 'pred_label' in sample else [int(sample.pred_score.argmax())]

    def postprocess(self, preds: List[DataSample], visualization: None, return_datasamples: bool = False) -> list:
        if return_datasamples:
            return preds
        # A multi-label network that is not mmpretrain's is recognized by an image without one label.
        several = isinstance(getattr(self.model, 'head', None), MultiLabelClsHead) or any(
            'pred_score' in sample and len(self._labels(sample)) != 1 for sample in preds)
        results = []
        for sample in preds:
            result = {}
            if 'pred_score' in sample:
                labels = self._labels(sample)
                scores = [float(sample.pred_score[label]) for label in labels]
                values: Dict[str, list] = dict(pred_label=labels, pred_score=scores)
                if self.classes is not None:
                    values['pred_class'] = [self.classes[label] for label in labels]
                result = dict(pred_scores=sample.pred_score.detach().cpu().numpy(),
                              **(values if several else {key: value for key, (value, ) in values.items()}))
            result['attention'] = {layer: values.numpy() for layer, values in sample.attention.items()}
            if 'img_path' in sample:
                result['img_path'] = sample.img_path
            results.append(result)
        return results

    def _output_files(self, folder: Path, sources: List[Source]) -> List[Path]:
        """Return the output file of each image. Refuse to overwrite an input."""
        files = [folder / f'{name}.png' for name in unique_stems(sources)]
        inputs = {Path(source).resolve() for source in sources if isinstance(source, str) and '://' not in source}
        over = [str(file) for file in files if file.resolve() in inputs]
        if over:
            raise UserError(f'Writing to show_dir {str(folder)!r} would overwrite the input {over[0]}. Give another '
                            'folder.')
        return files

    @staticmethod
    def list_models(pattern: Optional[str] = None) -> List[str]:
        """See :func:`mmat.list_models`."""
        return list_models(pattern)


def inference_model(model: Union[str, os.PathLike, Config, nn.Module], inputs: Union[Source, Sequence[Source]],
                    **kwargs) -> Union[dict, list]:
    """Run inference on one input. For several calls, build an :class:`AttentionInferencer` once.

    Args:
        model (str | PathLike | Config | nn.Module): See :class:`AttentionInferencer`.
        inputs (str | PathLike | ndarray | Image | Sequence): See :meth:`AttentionInferencer.__call__`.
        **kwargs: Arguments of both, such as ``pretrained``, ``layers`` and ``show_dir``.

    Returns:
        dict | list: The result of an image, or a list of results for a folder or list.
    """
    call = {key: kwargs.pop(key) for key in inspect.signature(AttentionInferencer.__call__).parameters
            if key in kwargs}
    results = AttentionInferencer(model, **kwargs)(inputs, **call)
    several = isinstance(inputs, (list, tuple)) or (
        isinstance(inputs, (str, os.PathLike)) and os.path.isdir(inputs))
    return results if several else results[0]


def _get_student(network: nn.Module) -> nn.Module:
    """Return a distiller's student with the distiller's config and metadata, or the network itself."""
    if not hasattr(network, '_config'):
        raise UserError(f'{type(network).__name__} has no config, which defines the image pipeline. Build it with '
                        'mmat.get_model.')
    if not isinstance(network, Distiller):
        return network
    student = network.student
    student._config, student._dataset_meta = network._config, getattr(network, '_dataset_meta', {})
    return student


def _rescale(images: Tensor) -> Tensor:
    """Map the range of each image to [0, 1]."""
    low, high = images.amin((1, 2, 3), keepdim=True), images.amax((1, 2, 3), keepdim=True)
    return (images - low) / torch.where(high > low, high - low, 1)


def _to_json(value):
    """Convert arrays to lists, round floats to six digits, and replace nan and inf, which JSON lacks, by None."""
    if isinstance(value, dict):
        return {key: _to_json(each) for key, each in value.items()}
    if isinstance(value, (list, np.ndarray)):
        return [_to_json(each) for each in (value.tolist() if isinstance(value, np.ndarray) else value)]
    if isinstance(value, float):
        return float(f'{value:.6g}') if math.isfinite(value) else None
    return value
