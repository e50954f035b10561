"""A frozen network that is kept outside the module tree."""
from typing import Any, Dict, List, Mapping, Optional, Sequence, Tuple, Union

import torch
import torch.nn as nn
from mmengine.model import BaseModel
from torch import Tensor

from mmat.errors import CheckpointError, ConfigError, LayerError, MissingFileError, did_you_mean
from mmat.utils.checkpoint import find_checkpoint, load_weights
from mmat.utils.rng import preserve_rng_state
from mmat.utils.zoo import find_weights

from ..at_heads.base import GRADIENTS, BaseATHead
from ..build import build_network, network_config
from ..build_checks import find_input, output_shapes
from ..collect_outputs import collect_outputs
from ..normalization import InputAdapter
from ..taps import EarlyExit, Layer
from .readers import layers_of, wants_of


class Teacher:
    """A teacher network that is not a submodule of the distiller.

    Outside the module tree it is never put in train mode, passed to an optimizer, wrapped by DDP, averaged by EMA or
    written to a checkpoint. The network is built once, when training starts: testing or deploying the student of a
    distillation config needs no teacher file.

    Args:
        model (str | dict | nn.Module): Zoo name (mmat's or mmpretrain's), config file, model config, or a network.
        checkpoint (str, optional): Weights: a file, a URL, or a work directory, which means its last checkpoint.
            Defaults to None: the zoo's weights of that name, timm's weights for a config with ``pretrained=True``, or
            the weights of the network given as ``model``.
        input_size (int | tuple, optional): Size of the teacher's images, (height, width) or one number for both. The
            student's normalised images are resized to it, bilinear and antialiased. Defaults to None: the student's
            size.
        name (str): Name of the teacher in messages, and in the ``teacher`` option of heads. Defaults to 'teacher'.

    Raises:
        ConfigError: No weights are given, or a timm network has no normalisation.
    """

    def __init__(self,
                 model: Union[str, dict, nn.Module],
                 checkpoint: Optional[str] = None,
                 input_size: Union[int, Tuple[int, int], None] = None,
                 name: str = 'teacher'):
        if checkpoint is None and isinstance(model, str):
            checkpoint = find_weights(model)
        if checkpoint is None and not isinstance(model, nn.Module) and not _timm_has_weights(network_config(model)):
            name = model if isinstance(model, str) else model.get('type', 'a model config')
            raise ConfigError(f'The teacher ({name}) has no checkpoint. Give teacher=dict(model=..., checkpoint=...) a '
                              'file, a URL or a work directory.')
        if isinstance(model, dict) and _timm_has_weights(model):
            if not (model.get('data_preprocessor') or {}).get('mean'):
                raise ConfigError(f'The teacher ({model.get("model_name")}) needs a data_preprocessor with mean and '
                                  "std, because timm's networks are trained on normalised images. "
                                  'timm.get_pretrained_cfg(NAME) has both; multiply them by 255.')
        self.model = model
        self.checkpoint = checkpoint
        self._architecture = model if isinstance(model, nn.Module) else None
        self._network: Optional[BaseModel] = None
        self.input_size = _check_size(input_size)
        self.name = name
        self.owner = 'teacher' if name == 'teacher' else f'teacher {name!r}'  # in messages
        self._adapter: Optional[InputAdapter] = None
        self._early_exits: Dict[tuple, EarlyExit] = {}

    @classmethod
    def from_config(cls, teacher: Union[dict, str, nn.Module], name: str = 'teacher') -> 'Teacher':
        """Create a teacher of a distiller's config: a dict of this class's arguments, or ``model`` alone."""
        arguments = dict(teacher) if isinstance(teacher, dict) and 'type' not in teacher else dict(model=teacher)
        for key in arguments:
            if key not in ('model', 'checkpoint', 'input_size'):
                raise ConfigError(f'A teacher has no option {key!r}.' +
                                  (did_you_mean(key, ('model', 'checkpoint', 'input_size')) or
                                   ' Its options are model, checkpoint and input_size.'))
        if 'model' not in arguments:
            raise ConfigError(f"A teacher needs 'model', got {sorted(arguments)}.")
        return cls(**arguments, name=name)

    of = from_config  # name in mmat 0.1

    def __deepcopy__(self, memo):
        # The EMA copy of a distiller shares its teacher.
        return self

    @property
    def built(self) -> bool:
        """Whether the network has been built with its weights."""
        return self._network is not None

    def check_checkpoint(self) -> None:
        """Check that the checkpoint exists.

        Raises:
            MissingFileError: It does not; the message has the command that trains it.
        """
        try:
            if self.checkpoint is not None:
                find_checkpoint(self.checkpoint)
        except FileNotFoundError as error:
            command = f' (python tools/train.py {self.model})' if isinstance(self.model, str) else ''
            raise MissingFileError(f'The teacher has no weights. {error} Train the teacher first{command}, or give '
                                   'its checkpoint with --cfg-options model.teacher.checkpoint=PATH.') from None

    @property
    def architecture(self) -> nn.Module:
        """The network without its weights; needs no checkpoint."""
        if self._architecture is None:
            # Building the teacher must not advance the student's random numbers.
            with preserve_rng_state():
                self._architecture = build_network(_without_weights(network_config(self.model)))
        return self._architecture

    @property
    def network(self) -> BaseModel:
        """The network with its weights, frozen and in eval mode; built on first use.

        Raises:
            MissingFileError: The checkpoint does not exist.
            CheckpointError: The checkpoint cannot be read, or belongs to another network.
        """
        if self._network is None:
            self.check_checkpoint()
            network = self.architecture
            if self.checkpoint is not None:
                try:
                    load_weights(network, self.checkpoint)
                except CheckpointError as error:
                    raise CheckpointError(f'Cannot load the teacher. {error}') from error
            elif not isinstance(self.model, nn.Module):
                with preserve_rng_state():
                    network = self._architecture = build_network(self.model)
            self._network = network.requires_grad_(False)
        # A hook may have put a shared network back in train mode.
        return self._network.eval()

    @property
    def classes(self) -> Optional[Sequence[str]]:
        """Class names of the network's predictions, by label; None if its checkpoint has none. Builds the network."""
        return (getattr(self.network, '_dataset_meta', None) or {}).get('classes')

    def move_to(self, student: nn.Module) -> None:
        """Move the network to the student's device and floating point type."""
        parameter = next(student.parameters(), torch.empty(0))
        self.network.to(device=parameter.device, dtype=parameter.dtype)

    def apply(self, fn) -> None:
        """Apply what the distiller applies to its tensors (``nn.Module._apply``), if the network is built."""
        if self._network is not None:
            self._network._apply(fn)
            # The data preprocessor stores its device, which only `to` updates.
            self._network.to(next(self._network.parameters(), torch.empty(0)).device)

    def __call__(self, inputs: Tensor, data_samples: Optional[list], heads: Sequence[BaseATHead],
                 preprocessor: nn.Module) -> List[Any]:
        """Run the teacher on a batch, once for all heads and no further than the last layer that one of them reads.

        Args:
            inputs (Tensor): Images under the student's normalisation, shape (N, C, H, W). Input gradients are with
                respect to these.
            data_samples (list): Labels, for the teacher's own loss if its input gradient is read.
            heads (Sequence[BaseATHead]): Heads that read the teacher.
            preprocessor (nn.Module): The student's data preprocessor.

        Returns:
            list: Return value of each head's ``reduce_teacher``, without gradients.
        """
        layers, wants = layers_of(heads, 'teacher'), wants_of(heads, 'teacher')
        network = self.network
        needs_loss = any(quantity in GRADIENTS for quantity in wants)
        with torch.no_grad():
            _, outputs = collect_outputs(
                network, inputs, data_samples, layers, wants, self.owner, mode='loss' if needs_loss else 'tensor',
                transform=self.adapter(preprocessor),
                early_exit=self._early_exits.setdefault((*layers.values(), *wants), EarlyExit()))
            return [head.reduce_teacher(outputs) for head in heads]

    def adapter(self, preprocessor: nn.Module) -> InputAdapter:
        """Return the conversion of the student's images to the teacher's input.

        Args:
            preprocessor (nn.Module): The student's data preprocessor.
        """
        if self._adapter is None:
            self._adapter = InputAdapter(preprocessor, self.network.data_preprocessor, self.input_size)
        return self._adapter

    @torch.no_grad()
    def predict(self, batch: dict, preprocessor: nn.Module) -> list:
        """Predict a batch of a data loader, as the teacher sees it in training: through the student's preprocessor.

        Args:
            batch (dict): Of a validation data loader.
            preprocessor (nn.Module): The student's data preprocessor.

        Returns:
            list[DataSample]: Predictions.
        """
        data = preprocessor(batch, False)
        return self.network(self.adapter(preprocessor)(data['inputs']), data['data_samples'], mode='predict')

    def check_input_size(self, size: Tuple[int, int]) -> None:
        """Check that the network accepts the student's images.

        Args:
            size (tuple): Height and width of the student's images.

        Raises:
            LayerError: It does not.
        """
        try:
            find_input(self.network, self.owner, self.input_size or size)
        except LayerError as error:
            advice = 'choose another input_size' if self.input_size else 'resize its images with teacher=dict(..., ' \
                'input_size=...)'
            raise LayerError(f'{error} If the size is the cause, {advice}.') from error

    def output_shapes(self, layers: Mapping[Layer, str], size: Tuple[int, int]) -> Dict[Layer, torch.Size]:
        """Return the shapes of layers' outputs for one image, as ``mmat.models.build_checks.output_shapes`` does.

        Args:
            layers (Mapping): Name -> module path.
            size (tuple): Height and width of the student's images.

        Raises:
            LayerError: As :meth:`check_input_size`.
        """
        self.check_input_size(size)
        return output_shapes(self.network, layers, self.owner, self.input_size or size)


def _check_size(size: Union[int, Sequence[int], None]) -> Optional[Tuple[int, int]]:
    if size is None:
        return None
    sizes = (size, size) if isinstance(size, int) else tuple(size) if isinstance(size, (list, tuple)) else ()
    if len(sizes) != 2 or not all(isinstance(each, int) and not isinstance(each, bool) and each > 0 for each in sizes):
        raise ConfigError(f'input_size of a teacher must be a whole number or (height, width), got {size!r}.')
    return sizes


def _timm_has_weights(config: dict) -> bool:
    """Whether a model config makes timm load the weights of the whole classifier."""
    return config.get('pretrained') is True


def _without_weights(config: dict) -> dict:
    """Return the config of the architecture alone, so that reading timm's widths needs no download."""
    return {**config, 'pretrained': False} if _timm_has_weights(config) else config
