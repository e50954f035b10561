"""Pictures of attention as the training goes."""
from typing import Dict, Optional, Sequence

import torch
import torch.nn as nn
from mmengine.dist import is_main_process, master_only
from mmengine.hooks import Hook
from torch import Tensor

from mmat.models import Distiller, attention_layers, get_attention_maps
from mmat.models.build_checks import eval_mode
from mmat.models.denormalize import denormalize
from mmat.models.options import check_number
from mmat.models.taps import Layer, check_layers, find_layer
from mmat.models.targets import class_names, label_names
from mmat.registry import HOOKS
from mmat.utils.checkpoint import unwrap
from mmat.utils.rng import preserve_rng_state
from mmat.visualization import render_attention_grid, short_names


@HOOKS.register_module()
class AttentionVisualizationHook(Hook):
    """Draws what the network looks at on images of the test set: before training, then every so many epochs, and last.

    The pictures go to every backend of the Runner's visualizer (TensorBoard, the work directory, ...) as 'attention'. A
    row is an image, its columns the attention maps, upsampled bilinearly and stretched to their own range. Of a
    distiller both student and teacher are drawn, of averaged weights (EMA) the trained ones. Training is not touched:
    modes and random states are left as found.

    Args:
        interval (int): Epochs from one picture to the next; iterations where ``by_epoch`` is False. Defaults to 10.
        by_epoch (bool): See ``interval``. Defaults to True.
        num_images (int): How many images, taken at equal distances from the test set, or from the validation set where
            there is no test set. Defaults to 8.
        layers (Sequence[int | str], optional): Stage indices or module paths of the network (of the student, where it
            learns from a teacher). Defaults to None, every map of an attention neck, or every stage of a network
            without.

    Raises:
        ValueError: An option outside these; when training starts, no images, or a layer that does not exist.
    """

    # After the teacher is ready and the weights are saved.
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
        # Building a loop and reading images may draw random numbers, and building is something that all processes do.
        with preserve_rng_state():
            loop = runner.test_loop if runner._test_loop is not None else runner.val_loop
            if loop is None:
                raise ValueError('AttentionVisualizationHook draws images of the test or validation set, but the '
                                 'config has neither a test_dataloader nor a val_dataloader')
            self._check_layers(unwrap(runner.model))
            if is_main_process():
                self._batch, self._titles = self._read(loop.dataloader)
                self._images = denormalize(unwrap(runner.model).data_preprocessor, dict(inputs=self._batch))
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
            raise ValueError(f'{type(network).__name__} has neither attention maps nor stages that can be told: name '
                             'the layers that AttentionVisualizationHook shall draw')

    def _read(self, loader) -> tuple:
        """A batch of images, as the loader would give it, and their classes where these are known."""
        dataset = loader.dataset
        indices = torch.linspace(0, len(dataset) - 1, min(self.num_images, len(dataset))).long().tolist()
        batch = loader.collate_fn(dataset.__getitems__(indices) if hasattr(dataset, '__getitems__') else
                                  [dataset[index] for index in indices])
        if not isinstance(batch['inputs'], Tensor):
            batch['inputs'] = torch.stack(list(batch['inputs']))
        classes = class_names(dataset)
        return batch['inputs'], label_names(batch, classes) if classes else ()

    @master_only
    def _draw(self, runner, step: int) -> None:
        model = unwrap(runner.model)
        with eval_mode(model):
            picture = render_attention_grid(self._images, self._attention(model), self._titles)
            runner.visualizer.add_image('attention', picture, step)

    def _attention(self, model: nn.Module) -> Dict[str, Dict[str, Tensor]]:
        networks = {'': (model, self.layers)}
        if isinstance(model, Distiller):
            networks = {'student': (model.student, self.layers)}
            teacher = model.prepare_teacher() if model.needs_teacher else None
            if teacher is not None:
                networks['teacher'] = (teacher.network, None)
        return {
            name: short_names({layer: maps.cpu() for layer, maps in
                               get_attention_maps(network, self._batch, layers).items()})
            for name, (network, layers) in networks.items()
        }
