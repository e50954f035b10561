"""Train a student under transfer heads."""
from contextlib import contextmanager, nullcontext
from typing import Dict, List, Optional, Sequence, Union

import torch
import torch.nn as nn
from mmengine.dist import broadcast
from mmengine.logging import print_log
from mmengine.model import BaseModel
from torch import Tensor

from mmat.errors import ConfigError
from mmat.registry import MODELS
from mmat.utils.rng import preserve_rng_state

from ..at_heads import BaseATHead
from ..at_heads.base import GRADIENTS, unique_names
from ..build import build_network
from ..build_checks import check_input_gradient, output_shapes
from ..collect_outputs import collect_outputs, find_logits
from .teacher import Teacher, layers_of, wants_of


@MODELS.register_module()
class Distiller(BaseModel):
    """Train any mmengine model as a student under transfer heads.

    Outside training the distiller behaves as the student: predictions, features and state dict are the student's, key
    for key. A checkpoint of a distillation run loads into the plain student config and contains nothing else. The
    parameters of the heads are saved separately by :class:`mmat.engine.DistillationHook`.

    Training returns the student's own losses and the losses of each head. A student loss named ``loss`` is renamed
    ``loss_task``. If a head sets the weight of the student's losses (``1 - alpha`` of soft targets), ``loss_task`` is
    weighted and ``task`` is the raw value. Each head adds, for each pair of layers, ``loss_{head}.{layer}`` (weighted)
    and ``{head}.{layer}`` (raw), or ``loss_{head}`` and ``{head}`` if it reads no layers.

    One forward pass of each network serves all heads. Input gradients add one backward pass of each network that they
    are read of; the student's is differentiable if its weight is not zero. The flipped image adds a forward and a
    backward pass. A step with input gradients runs in float32, also under autocast, because second derivatives in half
    precision are off. On a GPU, float32 convolutions use TF32 by torch's default.

    Args:
        student (dict | str | nn.Module): Model config, zoo name, config file, or a network.
        teacher (dict | str | nn.Module, optional): ``dict(model=..., checkpoint=...)``, see :class:`Teacher`; a zoo
            name with weights; or a network. It is built when training starts, stays in eval mode, and is not a
            submodule. Heads that need its widths read its config earlier, but no weights. Defaults to None, for heads
            that need no teacher.
        at_heads (Sequence[dict | BaseATHead]): Transfer heads; repeated names are numbered.
        data_preprocessor (dict, optional): For a student config without one. Defaults to None.

    Raises:
        ConfigError: There are no heads, heads read a teacher but none is given, heads disagree on the weight of the
            student's losses, or the student's input gradient is read but cannot be differentiated.
        LayerError: The student does not have a layer or quantity that a head reads.
    """

    def __init__(self,
                 student: Union[dict, str, nn.Module],
                 teacher: Optional[Union[dict, str, nn.Module]] = None,
                 at_heads: Sequence[Union[dict, BaseATHead]] = (),
                 data_preprocessor: Optional[dict] = None,
                 init_cfg: Optional[dict] = None):
        if data_preprocessor is not None and isinstance(student, dict):
            student = {'data_preprocessor': data_preprocessor, **student}
        student = build_network(student)
        super().__init__(data_preprocessor=student.data_preprocessor, init_cfg=init_cfg)
        if isinstance(at_heads, dict) or not at_heads:
            raise ConfigError(f'at_heads must be a list of at least one transfer head, got {at_heads!r}.')
        self.student = student
        # Heads with parameters must not advance the student's random numbers: it trains as it would alone.
        with preserve_rng_state():
            self.at_heads = nn.ModuleList(
                head if isinstance(head, nn.Module) else MODELS.build(head) for head in at_heads)
        for head, name in zip(self.at_heads, unique_names([head.name for head in self.at_heads])):
            head.check_wants()
            head.resolve_student(student)
            head.name = name
        if 'logits' in wants_of(self.at_heads, 'student'):
            find_logits(student, 'student')
        if self.reads_input_gradients:
            check_input_gradient(student, 'student', twice=True)
        self._task_weight()
        schedules = {head.name: head.schedule for head in self.at_heads if head.task_weight is not None}
        _check_agreement(schedules)
        # Teacher is no module, so it is no submodule either.
        self.teacher = None
        if teacher is not None:
            self.teacher = Teacher.from_config(teacher)
        elif self.needs_teacher:
            readers = [head.name for head in self.at_heads if head.needs_teacher]
            raise ConfigError(f'The heads {readers} read a teacher, but the distiller has none. Give it '
                              'teacher=dict(model=..., checkpoint=...).')
        self._teacher_is_prepared = False
        self._logged_float32 = False
        self._set_up_heads()

    def _set_up_heads(self) -> None:
        """Let heads create parameters that depend on the networks' widths; this needs the teacher's config only."""
        heads = [head for head in self.at_heads if head.needs_shapes]
        with preserve_rng_state():
            for head in heads:
                if head.needs_teacher:
                    head.resolve_teacher(self.teacher.architecture)
                student_shapes = output_shapes(self.student, layers_of([head], 'student'), 'student')
                teacher_shapes = output_shapes(self.teacher.architecture, layers_of([head], 'teacher'), 'teacher') \
                    if head.needs_teacher else {}
                head.setup(student_shapes, teacher_shapes)

    @property
    def needs_teacher(self) -> bool:
        """Whether any head reads the teacher."""
        return any(head.needs_teacher for head in self.at_heads)

    @property
    def reads_input_gradients(self) -> bool:
        """Whether any head differentiates the student's input gradient."""
        return self._reads_gradients('student')

    def prepare_teacher(self) -> Optional[Teacher]:
        """Build the teacher, move it to the student's device, and find the heads' layers in it; once, before training.

        Returns:
            Teacher | None: None if the distiller has none.

        Raises:
            MissingFileError: The teacher's checkpoint does not exist.
            CheckpointError: The checkpoint does not fit.
            LayerError: The teacher does not have a layer or quantity that a head reads.
        """
        if self.teacher is not None and not self._teacher_is_prepared and self.needs_teacher:
            self.teacher.move_to(self.student)
            network = self.teacher.network
            for head in self.at_heads:
                head.resolve_teacher(network)
            if 'logits' in wants_of(self.at_heads, 'teacher'):
                find_logits(network, 'teacher')
            if self._reads_gradients('teacher'):
                check_input_gradient(network, 'teacher', twice=False)
            self._teacher_is_prepared = True
        return self.teacher

    def init_weights(self) -> None:
        """Initialise the student and the heads."""
        self.student.init_weights()
        with preserve_rng_state():
            for head in self.at_heads:
                head.init_weights()
        # The Runner synchronises the state dict among processes, which does not contain the heads.
        for parameter in self.at_heads.parameters():
            broadcast(parameter.data)

    def forward(self, inputs: Tensor, data_samples: Optional[list] = None, mode: str = 'tensor'):
        """Run :meth:`loss` for ``mode='loss'``, and the student for every other mode."""
        if mode == 'loss':
            return self.loss(inputs, data_samples)
        return self.student(inputs, data_samples, mode=mode)

    def loss(self, inputs: Tensor, data_samples: list) -> Dict[str, Tensor]:
        """Compute the losses of one step.

        Args:
            inputs (Tensor): Images under the student's normalisation, shape (N, C, H, W).
            data_samples (list): Labels.

        Returns:
            dict: Name -> scalar. mmengine sums the entries whose name contains 'loss'.
        """
        teacher = self.prepare_teacher()
        gradient_heads = [head for head in self.at_heads if any(name in GRADIENTS for name in head.student_wants)]
        # A second derivative is several percent off in bfloat16, and may underflow in float16.
        reads_gradients = self.reads_input_gradients or self._reads_gradients('teacher')
        with self._float32(inputs) if reads_gradients else nullcontext():
            # The teacher runs first, so that its activations are freed before the student's are allocated.
            readers = [head for head in self.at_heads if head.needs_teacher]
            reduced = teacher(inputs, data_samples, readers, self.data_preprocessor) if readers else []
            teacher_outputs = dict(zip(readers, reduced))
            losses, student_outputs = collect_outputs(
                self.student, inputs, data_samples, layers_of(self.at_heads, 'student'),
                wants_of(self.at_heads, 'student'), 'student',
                create_graph=any(head.learns for head in gradient_heads))
            if 'loss' in losses:
                # mmengine logs the total as 'loss'.
                losses['loss_task'] = losses.pop('loss')
            task_weight = self._task_weight()
            if task_weight is not None:
                if isinstance(losses.get('loss_task'), Tensor):
                    losses['task'] = losses['loss_task'].detach()
                losses = {name: _scale(value, task_weight) if 'loss' in name else value
                          for name, value in losses.items()}
            for head in self.at_heads:
                values = head(student_outputs, teacher_outputs.get(head))
                taken = sorted(values.keys() & losses.keys())
                if taken:
                    raise ConfigError(f'The transfer head {head.name!r} logs {taken}, as do the student or another '
                                      'head. Give it another name.')
                losses.update(values)
        return losses

    @contextmanager
    def _float32(self, inputs: Tensor):
        if inputs.dtype in (torch.float16, torch.bfloat16):
            raise ConfigError(f'Heads that read input gradients need float32 images, got {inputs.dtype}. Train under '
                              'autocast instead of converting the model to half precision.')
        device = inputs.device.type
        if torch.is_autocast_enabled(device) and not self._logged_float32:
            print_log('Heads that read input gradients run in float32, also under autocast.', 'current')
            self._logged_float32 = True
        with torch.autocast(device, enabled=False):
            yield

    def _task_weight(self) -> Optional[float]:
        """Return the factor of the student's own losses, None if no head sets one.

        Raises:
            ConfigError: Two heads set different factors.
        """
        weights = {head.name: head.task_weight for head in self.at_heads if head.task_weight is not None}
        _check_agreement(weights)
        return next(iter(weights.values()), None)

    def set_progress(self, epoch: int, iteration: int, max_epochs: int, max_iters: int) -> None:
        """Set scheduled weights. :class:`mmat.engine.DistillationHook` calls it before each step.

        Args:
            epoch (int): Epochs done.
            iteration (int): Iterations done.
            max_epochs (int): Length of the training.
            max_iters (int): Likewise, in iterations.
        """
        for head in self.at_heads:
            head.set_progress(epoch, iteration, max_epochs, max_iters)

    def _reads_gradients(self, side: str) -> bool:
        return any(name in GRADIENTS for name in wants_of(self.at_heads, side))

    def extract_feat(self, *args, **kwargs):
        return self.student.extract_feat(*args, **kwargs)

    # Checkpoints contain the student alone.

    def state_dict(self, *args, **kwargs) -> dict:
        return self.student.state_dict(*args, **kwargs)

    def _load_from_state_dict(self, state_dict, prefix, *args, **kwargs):
        for key in [key for key in state_dict if key.startswith(prefix)]:
            state_dict[f'{prefix}student.{key[len(prefix):]}'] = state_dict.pop(key)
        # The other children are not in a state dict; they keep their values.
        for name, child in self.named_children():
            if name != 'student':
                state_dict.update(child.state_dict(prefix=f'{prefix}{name}.'))
        super()._load_from_state_dict(state_dict, prefix, *args, **kwargs)

    def _apply(self, fn, *args, **kwargs):
        if self.teacher is not None:
            self.teacher.apply(fn)
        return super()._apply(fn, *args, **kwargs)


def _check_agreement(values: dict) -> None:
    if len(set(values.values())) > 1:
        raise ConfigError(f"Heads set different weights of the student's own losses (1 - alpha): {values}.")


def _scale(value: Union[Tensor, List[Tensor]], weight: float) -> Union[Tensor, List[Tensor]]:
    return [weight * each for each in value] if isinstance(value, (list, tuple)) else weight * value
