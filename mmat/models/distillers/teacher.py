"""A frozen network that stands beside the module tree, not in it."""
from typing import List, Optional, Sequence, Union

import torch
import torch.nn as nn
from torch import Tensor

from mmat.utils.checkpoint import find_checkpoint, load_weights
from mmat.utils.rng import preserve_rng_state
from mmat.utils.zoo import find_weights

from ..at_heads.base import GRADIENTS, BaseATHead, NetworkOutputs
from ..build import build_network, network_config
from ..collect_outputs import collect_outputs
from ..taps import EarlyExit

_UNKNOWN = object()


class Teacher:
    """Holds a teacher without being a module.

    What is not in the module tree cannot be put in train mode, handed to an optimizer, wrapped by DDP, averaged by EMA
    or written to a checkpoint. The network is built when it is first needed, which is when training starts: to test
    or deploy the student of a distillation config takes no teacher file.

    Args:
        model (str | dict | nn.Module): Zoo name (mmat's or mmpretrain's), config file, model config, or a network as
            it is.
        checkpoint (str, optional): Its weights: a file, a URL, or a work directory, which means its last checkpoint.
            Defaults to None: the zoo's weights of that name, those that timm has of a config with
            ``pretrained=True``, or those that a network given as ``model`` has.

    Raises:
        ValueError: No checkpoint, and none of these.
    """

    def __init__(self, model: Union[str, dict, nn.Module], checkpoint: Optional[str] = None):
        if checkpoint is None and isinstance(model, str):
            checkpoint = find_weights(model)
        if checkpoint is None and not isinstance(model, nn.Module) and not _timm_has_weights(network_config(model)):
            name = model if isinstance(model, str) else model.get('type', 'a model config')
            raise ValueError(f'the teacher ({name}) has no checkpoint: give teacher=dict(model=..., checkpoint=...) a '
                             'file, a URL or a work directory')
        if isinstance(model, dict) and _timm_has_weights(model):
            if not (model.get('data_preprocessor') or {}).get('mean'):
                raise ValueError(f'the teacher ({model.get("model_name")}) has no data_preprocessor with mean and std: '
                                 "timm's networks are trained on normalised images; timm.get_pretrained_cfg(NAME) has "
                                 'both on a scale of 1, here it is 255')
        self.model = model
        self.checkpoint = checkpoint
        self._architecture = model if isinstance(model, nn.Module) else None
        self._network = None
        self._device = torch.device('cpu')
        self._applied = []
        self._renormalization = _UNKNOWN
        self._early_exits = {}

    @classmethod
    def of(cls, teacher: Union[dict, str, nn.Module]) -> 'Teacher':
        """The teacher that a distiller's config names: arguments of this class, or its ``model`` alone."""
        return cls(**teacher) if isinstance(teacher, dict) and 'type' not in teacher else cls(teacher)

    def __deepcopy__(self, memo):
        # An EMA copy of the distiller shares its teacher: it is frozen, and large.
        return self

    @property
    def built(self) -> bool:
        return self._network is not None

    def check_checkpoint(self) -> None:
        """Raise FileNotFoundError where the checkpoint is not there; the message says how to make or name one."""
        try:
            if self.checkpoint is not None:
                find_checkpoint(self.checkpoint)
        except FileNotFoundError as error:
            config = f' (python tools/train.py {self.model})' if isinstance(self.model, str) else ''
            raise FileNotFoundError(f'the teacher has no weights: {error}. Train it first{config}, or name its file: '
                                    '--cfg-options model.teacher.checkpoint=PATH') from None

    @property
    def architecture(self) -> nn.Module:
        """The network without its weights; needs no checkpoint."""
        if self._architecture is None:
            # Building a teacher must not shift the student's random stream: it trains as it would alone.
            with preserve_rng_state():
                self._architecture = build_network(_without_weights(network_config(self.model)))
        return self._architecture

    @property
    def network(self) -> nn.Module:
        """The network, built on first use: in eval mode, without gradients.

        Raises:
            FileNotFoundError: Its checkpoint is not there; the message says how to make or name one.
            ValueError: Its checkpoint cannot be read or is another network's.
        """
        if self._network is None:
            self.check_checkpoint()
            network = self.architecture
            if self.checkpoint is not None:
                try:
                    load_weights(network, self.checkpoint)
                except ValueError as error:
                    raise ValueError(f"the teacher's {error}") from error
            elif not isinstance(self.model, nn.Module):
                with preserve_rng_state():
                    network = self._architecture = build_network(self.model)
            for fn in self._applied:
                network._apply(fn)
            self._network = network.eval().requires_grad_(False).to(self._device)
        # A hook or a user may have put a shared network back in train mode.
        return self._network.eval()

    def apply(self, fn) -> None:
        """Follow the distiller to another device, dtype or memory format (``nn.Module._apply``)."""
        self._device = fn(torch.empty(0, device=self._device)).device
        if self._network is None:
            self._applied.append(fn)
        else:
            # mmengine's `to` also tells the data preprocessor its device.
            self._network._apply(fn).to(self._device)

    def __call__(self, inputs: Tensor, data_samples: list, heads: Sequence[BaseATHead],
                 preprocessor: nn.Module) -> List[NetworkOutputs]:
        """Run the teacher on a batch that the student's preprocessor normalised; what it gives has no gradient.

        One forward pass for all heads, no further than to the last layer that any of them reads.

        Args:
            inputs (Tensor): Shape (N, C, H, W), as the student sees them. So are the images that an input gradient is
                with respect to.
            data_samples (list): Labels, for its own loss where its input gradient is wanted.
            heads (Sequence[BaseATHead]): Those that read the teacher.
            preprocessor (nn.Module): The student's.

        Returns:
            list[NetworkOutputs]: For each head what it digests of the teacher.
        """
        layers, wants = read_by(heads, 'teacher_layers'), read_by(heads, 'teacher_wants')
        network = self.network
        if self._renormalization is _UNKNOWN:
            self._renormalization = renormalization(preprocessor, network.data_preprocessor)
        needs_loss = any(quantity in GRADIENTS for quantity in wants)
        with torch.no_grad():
            _, outputs = collect_outputs(network, inputs, data_samples, layers, wants, 'teacher',
                                 mode='loss' if needs_loss else 'tensor', transform=self._renormalize,
                                 early_exit=self._early_exits.setdefault((*layers, *wants), EarlyExit()))
            return [head.digest(outputs) for head in heads]

    def _renormalize(self, images: Tensor) -> Tensor:
        if self._renormalization is None:
            return images
        # Kept where the images are: copying it there would make the host wait for a GPU.
        self._renormalization = tuple(value.to(images.device) for value in self._renormalization)
        scale, shift = (value.to(images.dtype) for value in self._renormalization)
        return images * scale + shift


def read_by(heads: Sequence[BaseATHead], side: str) -> List[str]:
    """What any head reads, each once, in order; ``side`` is 'student_layers', 'teacher_wants' or the like."""
    return list(dict.fromkeys(name for head in heads for name in getattr(head, side)))


def _timm_has_weights(config: dict) -> bool:
    """Whether a model config has timm bring the weights, of the whole classifier."""
    return config.get('pretrained') is True


def _without_weights(config: dict) -> dict:
    """The config of the architecture alone: to know the widths of timm's network takes no download."""
    return {**config, 'pretrained': False} if _timm_has_weights(config) else config


def renormalization(source: nn.Module, target: nn.Module) -> Optional[tuple]:
    """What turns images normalised by one preprocessor into images normalised by another.

    Args:
        source (nn.Module): Data preprocessor with ``mean`` and ``std`` buffers, or without: no normalisation.
        target (nn.Module): Likewise. Both are taken to see channels in the same order.

    Returns:
        tuple | None: ``(scale, shift)`` of shape (C or 1, 1, 1) to multiply by and add; None where both agree.
    """
    (mean, std), (target_mean, target_std) = _statistics(source), _statistics(target)
    scale, shift = std / target_std, (mean - target_mean) / target_std
    return None if (scale == 1).all() and (shift == 0).all() else (scale, shift)


def _statistics(preprocessor: nn.Module) -> tuple:
    mean, std = getattr(preprocessor, 'mean', None), getattr(preprocessor, 'std', None)
    if mean is None or std is None:
        return torch.zeros(1, 1, 1), torch.ones(1, 1, 1)
    return mean.detach().cpu(), std.detach().cpu()
