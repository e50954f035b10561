"""Train a student under transfer heads."""
import logging
from contextlib import contextmanager, nullcontext
from typing import Any, Dict, List, Optional, Sequence, Union

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
from ..at_heads.base import GRADIENTS, NetworkOutputs, unique_names
from ..build import build_network
from ..build_checks import check_input_gradient, output_shapes
from ..collect_outputs import collect_outputs, find_logits
from .readers import assign_teachers, layers_of, wants_of
from .teacher import Teacher


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
        teachers (dict, optional): Several teachers, name -> ``teacher``. Each head then names the one that it reads,
            ``dict(type='mmat.ActivationATHead', teacher='a', ...)``; a :class:`SoftTargetHead` also averages several,
            ``teacher=dict(a=0.7, b=0.3)``. Defaults to None.
        at_heads (Sequence[dict | BaseATHead]): Transfer heads; repeated names are numbered.
        data_preprocessor (dict, optional): For a student config without one. Defaults to None.

    Raises:
        ConfigError: There are no heads, heads read a teacher but none is given, heads disagree on the weight of the
            student's losses, or the student's input gradient is read but cannot be differentiated.
        LayerError: The student does not have a layer or quantity that a head reads.
    """

    student: BaseModel
    at_heads: Any  # nn.ModuleList of BaseATHead

    def __init__(self,
                 student: Union[dict, str, nn.Module],
                 teacher: Optional[Union[dict, str, nn.Module]] = None,
                 at_heads: Sequence[Union[dict, BaseATHead]] = (),
                 data_preprocessor: Optional[dict] = None,
                 init_cfg: Optional[dict] = None,
                 teachers: Optional[Dict[str, Union[dict, str, nn.Module]]] = None):
        if data_preprocessor is not None and isinstance(student, dict):
            student = {'data_preprocessor': data_preprocessor, **student}
        student = build_network(student)
        if not hasattr(student, 'data_preprocessor'):
            raise ConfigError(f'The student must be a model of mmengine with a data_preprocessor, got '
                              f'{type(student).__name__}.')
        super().__init__(data_preprocessor=student.data_preprocessor, init_cfg=init_cfg)
        if isinstance(at_heads, (dict, str)) or not at_heads:
            raise ConfigError(f'at_heads must be a list of at least one transfer head, got {at_heads!r}.')
        self.student = student
        # Heads with parameters must not advance the student's random numbers: it trains as it would alone.
        with preserve_rng_state():
            self.at_heads = nn.ModuleList(map(_build_head, at_heads))
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
        self.teachers = _build_teachers(teacher, teachers)
        self._readers = assign_teachers(self.at_heads, self.teachers)
        self._teachers_are_prepared = False
        self._checked_gradients = False
        self._logged_float32 = False
        self._set_up_heads()

    def _set_up_heads(self) -> None:
        """Let heads create parameters that depend on the networks' widths; this needs the teacher's config only."""
        heads = [head for head in self.at_heads if head.needs_shapes]
        with preserve_rng_state():
            for head in heads:
                student_shapes, teacher_shapes = (
                    output_shapes(self.student, layers_of([head], 'student'), 'student'), {})
                for name in self._readers.get(head, ()):
                    teacher = self.teachers[name]
                    head.resolve_teacher(teacher.architecture)
                    teacher_shapes = output_shapes(
                        teacher.architecture, layers_of([head], 'teacher'), teacher.owner, teacher.input_size)
                head.setup(student_shapes, teacher_shapes)

    @property
    def teacher(self) -> Optional[Teacher]:
        """The first teacher, None if there is none."""
        return next(iter(self.teachers.values()), None)

    @property
    def needs_teacher(self) -> bool:
        """Whether any head reads the teacher."""
        return any(head.needs_teacher for head in self.at_heads)

    @property
    def reads_input_gradients(self) -> bool:
        """Whether any head differentiates the student's input gradient."""
        return self._reads_gradients('student')

    def readers_of(self, name: str) -> List[BaseATHead]:
        """Return the heads that read a teacher."""
        return [head for head, names in self._readers.items() if name in names]

    def prepare_teachers(self) -> Dict[str, Teacher]:
        """Build the teachers, move them to the student's device, and find the heads' layers; once, before training.

        Returns:
            dict: Name -> teacher, of the teachers that heads read.

        Raises:
            MissingFileError: A teacher's checkpoint does not exist.
            CheckpointError: A checkpoint does not fit.
            LayerError: A teacher does not have a layer or quantity that a head reads.
        """
        read = {name: teacher for name, teacher in self.teachers.items() if self.readers_of(name)}
        if not self._teachers_are_prepared:
            for name, teacher in read.items():
                teacher.move_to(self.student)
                heads = self.readers_of(name)
                for head in heads:
                    head.resolve_teacher(teacher.network)
                if 'logits' in wants_of(heads, 'teacher'):
                    find_logits(teacher.network, teacher.owner)
                if any(quantity in GRADIENTS for quantity in wants_of(heads, 'teacher')):
                    check_input_gradient(teacher.network, teacher.owner, twice=False)
            self._teachers_are_prepared = True
        return read

    def prepare_teacher(self) -> Optional[Teacher]:
        """Run :meth:`prepare_teachers` and return the first teacher, None if there is none."""
        self.prepare_teachers()
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

    def loss(self, inputs: Tensor, data_samples: Optional[list]) -> Dict[str, Tensor]:
        """Compute the losses of one step.

        Args:
            inputs (Tensor): Images under the student's normalisation, shape (N, C, H, W).
            data_samples (list): Labels.

        Returns:
            dict: Name -> scalar. mmengine sums the entries whose name contains 'loss'.
        """
        teachers = self.prepare_teachers()
        gradient_heads = [head for head in self.at_heads if any(name in GRADIENTS for name in head.student_wants)]
        # A second derivative is several percent off in bfloat16, and may underflow in float16.
        reads_gradients = self.reads_input_gradients or self._reads_gradients('teacher')
        with self._float32(inputs) if reads_gradients else nullcontext():
            # Teachers run first, so that their activations are freed before the student's are allocated.
            reduced = {}
            for name, teacher in teachers.items():
                heads = self.readers_of(name)
                reduced[name] = dict(zip(heads, teacher(inputs, data_samples, heads, self.data_preprocessor)))
            losses, student_outputs = collect_outputs(
                self.student, inputs, data_samples, layers_of(self.at_heads, 'student'),
                wants_of(self.at_heads, 'student'), 'student',
                create_graph=any(head.learns for head in gradient_heads))
            self._check_gradients(student_outputs)
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
                values = head(student_outputs, self._teacher_of(head, reduced), reduced=True)
                taken = sorted(values.keys() & losses.keys())
                if taken:
                    raise ConfigError(f'The transfer head {head.name!r} logs {taken}, as do the student or another '
                                      'head. Give it another name.')
                losses.update(values)
        return losses

    def _teacher_of(self, head: BaseATHead, reduced: Dict[str, dict]) -> Any:
        """Return what a head reads of its teacher, averaged if it has several."""
        weights = self._readers.get(head, {})
        outputs = {name: reduced[name][head] for name in weights}
        return head.average_teachers(outputs, weights) if len(outputs) > 1 else next(iter(outputs.values()), None)

    def _check_gradients(self, outputs: NetworkOutputs) -> None:
        """Warn, once, of layers whose losses do not reach trainable parameters of the student."""
        if self._checked_gradients or not (self.training and torch.is_grad_enabled()) or self.reads_input_gradients:
            return
        self._checked_gradients = True
        for head in self.at_heads:
            frozen = [path for path in head.student_paths if not outputs.features[path].requires_grad]
            if frozen:
                what = 'it has' if len(frozen) == len(head.student_paths) else f'the pairs of {frozen} have'
                print_log(f'{head.name}: {what} no effect as long as the layers {frozen} are frozen in the student.',
                          'current', logging.WARNING)

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
        for teacher in self.teachers.values():
            teacher.apply(fn)
        return super()._apply(fn, *args, **kwargs)


def _build_head(head: Union[dict, BaseATHead]) -> BaseATHead:
    if isinstance(head, nn.Module):
        return head
    teacher = head.get('teacher') if isinstance(head, dict) else None
    built = MODELS.build({key: value for key, value in head.items() if key != 'teacher'} if teacher else head)
    built.teacher = teacher
    return built


def _build_teachers(teacher: Any, teachers: Optional[dict]) -> Dict[str, Teacher]:
    if isinstance(teacher, (list, tuple)):
        raise ConfigError('teacher must be one teacher. Give several as teachers=dict(a=dict(...), b=dict(...)), and '
                          "each head its teacher='a'.")
    if teacher is not None and teachers:
        raise ConfigError('Give either teacher or teachers, not both.')
    if not isinstance(teachers or {}, dict):
        raise ConfigError(f'teachers must be a dict of name -> teacher, got {teachers!r}.')
    return {name: Teacher.from_config(each, name)
            for name, each in (dict(teacher=teacher) if teacher is not None else teachers or {}).items()}


def _check_agreement(values: dict) -> None:
    if len(set(values.values())) > 1:
        raise ConfigError(f"Heads set different weights of the student's own losses (1 - alpha): {values}.")


def _scale(value: Union[Tensor, List[Tensor]], weight: float) -> Union[Tensor, List[Tensor]]:
    return [weight * each for each in value] if isinstance(value, (list, tuple)) else weight * value
