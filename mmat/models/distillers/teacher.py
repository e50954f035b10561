"""A frozen network that is kept outside the module tree."""
from typing import Any, Dict, List, Optional, Sequence, Union

import torch
import torch.nn as nn
from torch import Tensor

from mmat.errors import CheckpointError, ConfigError, MissingFileError
from mmat.utils.checkpoint import find_checkpoint, load_weights
from mmat.utils.rng import preserve_rng_state
from mmat.utils.zoo import find_weights

from ..at_heads.base import GRADIENTS, BaseATHead
from ..build import build_network, network_config
from ..collect_outputs import collect_outputs
from ..taps import EarlyExit, Layer

_UNKNOWN = object()


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

    Raises:
        ConfigError: No weights are given, or a timm network has no normalisation.
    """

    def __init__(self, model: Union[str, dict, nn.Module], checkpoint: Optional[str] = None):
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
        self._network = None
        self._renormalization = _UNKNOWN
        self._early_exits = {}

    @classmethod
    def from_config(cls, teacher: Union[dict, str, nn.Module]) -> 'Teacher':
        """Create the teacher of a distiller's config: a dict of this class's arguments, or ``model`` alone."""
        return cls(**teacher) if isinstance(teacher, dict) and 'type' not in teacher else cls(teacher)

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
            reason = str(error).rstrip('.')
            raise MissingFileError(f'The teacher has no weights. {reason}. Train the teacher first{command}, or give '
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
    def network(self) -> nn.Module:
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

    def move_to(self, student: nn.Module) -> None:
        """Move the network to the student's device and floating point type."""
        parameter = next(student.parameters(), torch.empty(0))
        self.network.to(device=parameter.device, dtype=parameter.dtype)

    def apply(self, fn) -> None:
        """Apply what the distiller applies to its tensors (``nn.Module._apply``), if the network is built."""
        if self.built:
            self._network._apply(fn)
            # The data preprocessor stores its device, which only `to` updates.
            self._network.to(next(self._network.parameters(), torch.empty(0)).device)

    def __call__(self, inputs: Tensor, data_samples: list, heads: Sequence[BaseATHead],
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
        if self._renormalization is _UNKNOWN:
            self._renormalization = renormalization(preprocessor, network.data_preprocessor)
        needs_loss = any(quantity in GRADIENTS for quantity in wants)
        with torch.no_grad():
            _, outputs = collect_outputs(
                network, inputs, data_samples, layers, wants, 'teacher', mode='loss' if needs_loss else 'tensor',
                transform=self._renormalize,
                early_exit=self._early_exits.setdefault((*layers.values(), *wants), EarlyExit()))
            return [head.reduce_teacher(outputs) for head in heads]

    def _renormalize(self, images: Tensor) -> Tensor:
        if self._renormalization is None:
            return images
        # Kept on the images' device: a copy at each step would make the host wait for a GPU.
        self._renormalization = tuple(value.to(images.device) for value in self._renormalization)
        scale, shift = (value.to(images.dtype) for value in self._renormalization)
        return images * scale + shift


def layers_of(heads: Sequence[BaseATHead], side: str) -> Dict[Layer, str]:
    """Return the layers that heads read of the 'student' or the 'teacher': name -> module path.

    A layer appears under its name in ``pairs`` and under its module path.
    """
    layers = {}
    for head in heads:
        paths = getattr(head, f'{side}_paths')
        layers.update(zip(getattr(head, f'{side}_layers'), paths))
        layers.update(zip(paths, paths))
    return layers


def wants_of(heads: Sequence[BaseATHead], side: str) -> List[str]:
    """Return the quantities that heads read of the 'student' or the 'teacher', each once."""
    return list(dict.fromkeys(name for head in heads for name in getattr(head, f'{side}_wants')))


def _timm_has_weights(config: dict) -> bool:
    """Whether a model config makes timm load the weights of the whole classifier."""
    return config.get('pretrained') is True


def _without_weights(config: dict) -> dict:
    """Return the config of the architecture alone, so that reading timm's widths needs no download."""
    return {**config, 'pretrained': False} if _timm_has_weights(config) else config


def renormalization(source: nn.Module, target: nn.Module) -> Optional[tuple]:
    """Compute the affine map from one preprocessor's normalisation to another's.

    Args:
        source (nn.Module): Data preprocessor with ``mean`` and ``std`` buffers, or without: no normalisation.
        target (nn.Module): Likewise. Both must use the same channel order.

    Returns:
        tuple | None: ``(scale, shift)`` of shape (C or 1, 1, 1) to multiply by and add; None if both are equal.
    """
    (mean, std), (target_mean, target_std) = _statistics(source), _statistics(target)
    scale, shift = std / target_std, (mean - target_mean) / target_std
    return None if (scale == 1).all() and (shift == 0).all() else (scale, shift)


def _statistics(preprocessor: nn.Module) -> tuple:
    mean, std = getattr(preprocessor, 'mean', None), getattr(preprocessor, 'std', None)
    if mean is None or std is None:
        return torch.zeros(1, 1, 1), torch.ones(1, 1, 1)
    return mean.detach().cpu(), std.detach().cpu()
