"""Log images of attention maps during training."""
from typing import Dict, Optional, Sequence

import torch
import torch.nn as nn
from mmengine.dist import is_main_process, master_only
from mmengine.hooks import Hook
from torch import Tensor

from mmat.errors import ConfigError, LayerError
from mmat.models import Distiller, attention_layers, get_attention_maps
from mmat.models.build_checks import eval_mode
from mmat.models.denormalize import denormalize
from mmat.models.normalization import loaded_order
from mmat.models.options import check_number
from mmat.models.taps import Layer, check_layers, find_layer
from mmat.models.targets import class_names, label_names
from mmat.registry import HOOKS
from mmat.utils.checkpoint import unwrap
from mmat.utils.rng import preserve_rng_state
from mmat.visualization import photograph_of, render_attention_grid, short_names, with_photographs


@HOOKS.register_module()
class AttentionVisualizationHook(Hook):
    """Log attention maps on test images before training, at a fixed interval, and after training.

    Each backend of the Runner's visualizer (TensorBoard, the work directory, ...) receives them as 'attention'. Each
    row shows an image and its attention maps, upsampled bilinearly, scaled to their own range, and laid over the part
    of the image that the network sees. For a distiller, both student and teacher are shown. With EMA, the trained
    weights are shown, not the averaged ones. Module modes and random states are restored, so training is unaffected.

    Args:
        interval (int): Epochs between two logs, or iterations if ``by_epoch`` is False. Defaults to 10.
        by_epoch (bool): Unit of ``interval``. Defaults to True.
        num_images (int): Number of images, evenly spaced in the test set, or in the validation set if there is no test
            set. Defaults to 8.
        layers (Sequence[int | str], optional): Stage indices or module paths of the network (the student of a
            distiller). Defaults to None: all maps of the attention neck, or all stages if the network has none.

    Raises:
        ConfigError: An option is out of range, or, when training starts, the config has no test or validation set.
        LayerError: When training starts, a layer does not exist.
    """

    # After DistillationHook has built the teacher and CheckpointHook has saved the weights.
    priority = 'LOWEST'

    def __init__(self,
                 interval: int = 10,
                 by_epoch: bool = True,
                 num_images: int = 8,
                 layers: Optional[Sequence[Layer]] = None):
        self.interval = check_number(interval, 'interval', 'AttentionVisualizationHook')
        self.by_epoch = by_epoch
        self.num_images = check_number(num_images, 'num_images', 'AttentionVisualizationHook')
        self.layers = check_layers(layers)

    def before_train(self, runner) -> None:
        # Building a loop and reading images may draw random numbers. All processes must build the loop.
        with preserve_rng_state():
            loop = runner.test_loop if runner._test_loop is not None else runner.val_loop
            if loop is None:
                raise ConfigError('AttentionVisualizationHook needs a test_dataloader or a val_dataloader, and the '
                                  'config has neither.')
            self._check_layers(unwrap(runner.model))
            if is_main_process():
                preprocessor = unwrap(runner.model).data_preprocessor
                self._batch, self._titles, photographs = self._load_images(
                    loop.dataloader, loaded_order(preprocessor) == 'bgr')
                inputs = denormalize(preprocessor, dict(inputs=self._batch))
                self._images = with_photographs(inputs, photographs)
        if runner.iter == 0:
            self._draw(runner, 0)

    def after_train_epoch(self, runner) -> None:
        if self.by_epoch and (self.every_n_epochs(runner, self.interval) or self.is_last_train_epoch(runner)):
            self._draw(runner, runner.epoch + 1)

    def after_train_iter(self, runner, batch_idx: int, data_batch=None, outputs=None) -> None:
        if not self.by_epoch and (self.every_n_train_iters(runner, self.interval) or self.is_last_train_iter(runner)):
            self._draw(runner, runner.iter + 1)

    def _check_layers(self, model: nn.Module) -> None:
        network = model.student if isinstance(model, Distiller) else model
        for layer in self.layers or ():
            find_layer(network, layer)
        if not (self.layers or attention_layers(network)):
            raise LayerError(f'{type(network).__name__} has neither attention maps nor known stages. Give '
                             'AttentionVisualizationHook its `layers`.')

    def _load_images(self, loader, is_bgr: bool) -> tuple:
        """Return the images, collated by the loader, their class names if known, and photographs of those in files."""
        dataset = loader.dataset
        indices = torch.linspace(0, len(dataset) - 1, min(self.num_images, len(dataset))).long().tolist()
        if hasattr(dataset, '__getitems__'):
            items, photographs = dataset.__getitems__(indices), [None] * len(indices)
        else:
            photographs, items = zip(*((photograph_of(dataset, index, is_bgr), dataset[index]) for index in indices))
        batch = loader.collate_fn(items)
        if not isinstance(batch['inputs'], Tensor):
            batch['inputs'] = torch.stack(list(batch['inputs']))
        classes = class_names(dataset)
        return batch['inputs'], label_names(batch, classes) if classes else (), photographs

    @master_only
    def _draw(self, runner, step: int) -> None:
        model = unwrap(runner.model)
        with eval_mode(model):
            grid = render_attention_grid(self._images, self._compute_maps(model), self._titles)
            runner.visualizer.add_image('attention', grid, step)

    def _compute_maps(self, model: nn.Module) -> Dict[str, Dict[str, Tensor]]:
        networks = {'': (model, self.layers)}
        if isinstance(model, Distiller):
            networks = {'student': (model.student, self.layers)}
            networks.update({name: (teacher.network, None) for name, teacher in model.prepare_teachers().items()})
        return {
            name: short_names({layer: maps.cpu() for layer, maps in
                               get_attention_maps(network, self._batch, layers).items()})
            for name, (network, layers) in networks.items()
        }
