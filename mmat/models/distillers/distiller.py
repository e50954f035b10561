"""A student that learns from a teacher, or under a constraint of its own."""
from contextlib import contextmanager, nullcontext
from typing import Dict, List, Optional, Sequence, Union

import torch
import torch.nn as nn
from mmengine.dist import broadcast
from mmengine.logging import print_log
from mmengine.model import BaseModel
from torch import Tensor

from mmat.registry import MODELS
from mmat.utils.rng import preserve_rng_state

from ..at_heads import BaseATHead
from ..at_heads.base import GRADIENTS, unique_names
from ..build import build_network
from ..collect_outputs import collect_outputs, find_logits
from ..build_checks import check_input_gradient, output_shapes
from .teacher import Teacher, read_by

_DISAGREE = "heads disagree on the weight that the student's own losses have beside them (1 - alpha)"


@MODELS.register_module()
class Distiller(BaseModel):
    """Trains any mmengine model as a student under transfer heads.

    Outside training it *is* the student: prediction, feature extraction and its state dict are the student's, key for
    key, so that a checkpoint of a distillation run loads into the plain student config and holds nothing else. What
    the heads learn is kept aside by :class:`mmat.engine.DistillationHook`.

    Training returns the student's own losses (a component named ``loss`` becomes ``loss_task``), weighted as a head
    that shares with them says (``alpha`` of soft targets; ``task`` is then the raw value), and for every head and pair
    of layers ``loss_{head}.{layer}``, weighted, and ``{head}.{layer}``, raw; ``loss_{head}`` and ``{head}`` where it
    has no layers.

    One forward pass of each network serves all heads. Input gradients, where any head reads them, cost one backward
    pass more of each network that they are read of, the student's differentiable where the weight is not zero; the
    flipped image's a forward and a backward pass. Under autocast such a step runs in float32 all the same: in half
    precision the second derivatives would be off. (On a GPU float32 convolutions are TF32 by torch's default.)

    Args:
        student (dict | str | nn.Module): Model config, zoo name, config file, or a model as it is.
        teacher (dict | str | nn.Module, optional): ``dict(model=..., checkpoint=...)``, see :class:`Teacher`; a zoo
            name with weights; or a network as it is. Loaded when training starts, always in eval mode, outside the
            module tree; a head that depends on its widths needs its config, but no weights, earlier. Defaults to
            None, for heads that need none.
        at_heads (Sequence[dict | BaseATHead]): Transfer heads; heads of the same name are numbered.
        data_preprocessor (dict, optional): For a student config that has none. Defaults to None.

    Raises:
        ValueError: No heads, a layer or quantity that the student does not have, heads that read a teacher where
            there is none, or that disagree on the weight of the student's own losses, or an input gradient of a
            student that is frozen or not twice differentiable.
        FileNotFoundError: When training starts: the teacher's checkpoint is not there.
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
            raise ValueError(f'at_heads must be a list of at least one transfer head, got {at_heads!r}')
        self.student = student
        # Heads with weights of their own must not shift the student's random stream: it trains as it would alone.
        with preserve_rng_state():
            self.at_heads = nn.ModuleList(
                head if isinstance(head, nn.Module) else MODELS.build(head) for head in at_heads)
        for head, name in zip(self.at_heads, unique_names([head.name for head in self.at_heads])):
            head.check_wants()
            head.resolve_student(student)
            head.name = name
        if 'logits' in read_by(self.at_heads, 'student_wants'):
            find_logits(student, 'student')
        if self._reads_gradients('student_wants'):
            check_input_gradient(student, 'student', twice=True)
        self._task_weight()
        sharing = {head.name: head.schedule for head in self.at_heads if head.task_weight is not None}
        if len(set(sharing.values())) > 1:
            raise ValueError(f'{_DISAGREE}: {sharing}')
        # Not a module, so not a child: see Teacher.
        self.teacher = None
        if teacher is not None:
            self.teacher = Teacher.of(teacher)
        elif self.needs_teacher:
            raise ValueError(f'{[head.name for head in self.at_heads if head.needs_teacher]} read a teacher, but the '
                             'distiller has none: give teacher=dict(model=..., checkpoint=...)')
        self._teacher_is_resolved = False
        self._told_float32 = False
        self._set_up_heads()

    def _set_up_heads(self) -> None:
        """Let heads make what depends on the networks' widths; of the teacher this takes the config only."""
        heads = [head for head in self.at_heads if type(head).setup is not BaseATHead.setup]
        if not heads:
            return
        for head in heads:
            if head.needs_teacher:
                head.resolve_teacher(self.teacher.architecture)
        with preserve_rng_state():
            for head in heads:
                student_shapes = output_shapes(self.student, head.student_layers, 'student')
                teacher_shapes = output_shapes(self.teacher.architecture, head.teacher_layers, 'teacher') \
                    if head.needs_teacher else {}
                head.setup(student_shapes, teacher_shapes)

    @property
    def needs_teacher(self) -> bool:
        """Whether any head reads the teacher."""
        return any(head.needs_teacher for head in self.at_heads)

    @property
    def reads_input_gradients(self) -> bool:
        """Whether any head differentiates the student's input gradient."""
        return self._reads_gradients('student_wants')

    def prepare_teacher(self) -> Optional[Teacher]:
        """Build the teacher and find the heads' layers in it, once. Called before training starts.

        Returns:
            Teacher | None: None where the distiller has none.

        Raises:
            FileNotFoundError, ValueError: No checkpoint, one that does not fit, or a layer or quantity that the
                teacher does not have.
        """
        if self.teacher is not None and not self._teacher_is_resolved and self.needs_teacher:
            network = self.teacher.network
            for head in self.at_heads:
                head.resolve_teacher(network)
            if 'logits' in read_by(self.at_heads, 'teacher_wants'):
                find_logits(network, 'teacher')
            if self._reads_gradients('teacher_wants'):
                check_input_gradient(network, 'teacher', twice=False)
            self._teacher_is_resolved = True
        return self.teacher

    def init_weights(self) -> None:
        self.student.init_weights()
        with preserve_rng_state():
            for head in self.at_heads:
                head.init_weights()
        # The Runner makes what is in the state dict equal among processes; these are not in it.
        for parameter in self.at_heads.parameters():
            broadcast(parameter.data)

    def forward(self, inputs: Tensor, data_samples: Optional[list] = None, mode: str = 'tensor'):
        """As mmengine's models; see :meth:`loss` for ``mode='loss'``, the student's otherwise."""
        if mode == 'loss':
            return self.loss(inputs, data_samples)
        return self.student(inputs, data_samples, mode=mode)

    def loss(self, inputs: Tensor, data_samples: list) -> Dict[str, Tensor]:
        """Losses of one step.

        Args:
            inputs (Tensor): Images under the student's normalisation, shape (N, C, H, W).
            data_samples (list): Labels, for the student only.

        Returns:
            dict: Name -> scalar; what contains 'loss' is summed.
        """
        teacher = self.prepare_teacher()
        gradient_heads = [head for head in self.at_heads if any(name in GRADIENTS for name in head.student_wants)]
        # In bfloat16 a second derivative is several percent off, in float16 it may vanish.
        reads_gradients = self._reads_gradients('student_wants') or self._reads_gradients('teacher_wants')
        with self._float32(inputs) if reads_gradients else nullcontext():
            # First, while no activations of the student are in memory; of the teacher's, only what heads digest stays.
            readers = [head for head in self.at_heads if head.needs_teacher]
            digests = teacher(inputs, data_samples, readers, self.data_preprocessor) if readers else []
            digests = dict(zip(readers, digests))
            losses, student_outputs = collect_outputs(
                self.student, inputs, data_samples, read_by(self.at_heads, 'student_layers'),
                read_by(self.at_heads, 'student_wants'), 'student',
                create_graph=any(head.learns for head in gradient_heads))
            if 'loss' in losses:
                # mmengine logs the total under this name.
                losses['loss_task'] = losses.pop('loss')
            task_weight = self._task_weight()
            if task_weight is not None:
                if isinstance(losses.get('loss_task'), Tensor):
                    losses['task'] = losses['loss_task'].detach()
                losses = {name: _scale(value, task_weight) if 'loss' in name else value
                          for name, value in losses.items()}
            for head in self.at_heads:
                values = head(student_outputs, digests.get(head))
                taken = sorted(values.keys() & losses.keys())
                if taken:
                    raise ValueError(f'a transfer head named {head.name!r} logs {taken}, which the student or another '
                                     'head logs already: give it another name')
                losses.update(values)
        return losses

    @contextmanager
    def _float32(self, inputs: Tensor):
        if inputs.dtype in (torch.float16, torch.bfloat16):
            raise ValueError(f'heads that read input gradients need images in float32, got {inputs.dtype}; train under '
                             'autocast rather than with a model in half precision')
        device = inputs.device.type
        if torch.is_autocast_enabled(device) and not self._told_float32:
            print_log('Heads that read input gradients run in float32, also under autocast.', 'current')
            self._told_float32 = True
        with torch.autocast(device, enabled=False):
            yield

    def _task_weight(self) -> Optional[float]:
        """What the student's own losses are multiplied by; None where no head says so.

        Raises:
            ValueError: Two heads say different things.
        """
        weights = {head.name: head.task_weight for head in self.at_heads if head.task_weight is not None}
        if len(set(weights.values())) > 1:
            raise ValueError(f'{_DISAGREE}: {weights}')
        return next(iter(weights.values()), None)

    def set_progress(self, epoch: int, iteration: int, max_epochs: int, max_iters: int) -> None:
        """Tell the heads how far the training is, for weights that have a schedule.

        :class:`mmat.engine.DistillationHook` does before every step.

        Args:
            epoch (int): Epochs done.
            iteration (int): Iterations done.
            max_epochs (int): Length of the training.
            max_iters (int): Likewise, in iterations.
        """
        for head in self.at_heads:
            head.set_progress(epoch, iteration, max_epochs, max_iters)

    def _reads_gradients(self, side: str) -> bool:
        return any(name in GRADIENTS for name in read_by(self.at_heads, side))

    def extract_feat(self, *args, **kwargs):
        return self.student.extract_feat(*args, **kwargs)

    # The student's weights are the product.

    def state_dict(self, *args, **kwargs) -> dict:
        return self.student.state_dict(*args, **kwargs)

    def _load_from_state_dict(self, state_dict, prefix, *args, **kwargs):
        for key in [key for key in state_dict if key.startswith(prefix)]:
            state_dict[f'{prefix}student.{key[len(prefix):]}'] = state_dict.pop(key)
        # The other children are not in a state dict: they keep what they have.
        for name, child in self.named_children():
            if name != 'student':
                state_dict.update(child.state_dict(prefix=f'{prefix}{name}.'))
        super()._load_from_state_dict(state_dict, prefix, *args, **kwargs)

    def _apply(self, fn, *args, **kwargs):
        if self.teacher is not None:
            self.teacher.apply(fn)
        return super()._apply(fn, *args, **kwargs)


def _scale(value: Union[Tensor, List[Tensor]], weight: float) -> Union[Tensor, List[Tensor]]:
    return [weight * each for each in value] if isinstance(value, (list, tuple)) else weight * value
