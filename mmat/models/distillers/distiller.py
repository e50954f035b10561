"""A student that learns from a teacher."""
from typing import Dict, List, Optional, Sequence, Union

import torch.nn as nn
from mmengine.dist import broadcast
from mmengine.model import BaseModel
from torch import Tensor

from mmat.registry import MODELS
from mmat.utils.rng import preserve_rng_state

from ..at_heads import BaseATHead, NetworkOutputs
from ..at_heads.base import distinct
from ..build import build_network
from ..taps import tap
from .teacher import Teacher


@MODELS.register_module()
class Distiller(BaseModel):
    """Trains any mmengine model as a student under transfer heads.

    Outside training it *is* the student: prediction, feature extraction and its state dict are the student's, key for
    key, so that a checkpoint of a distillation run loads into the plain student config and holds nothing else. What
    the heads learn is kept aside by :class:`mmat.engine.DistillationHook`.

    Training returns the student's own losses (a component named ``loss`` becomes ``loss_task``) and, for every head
    and pair of layers, ``loss_{head}.{layer}``, weighted, and ``{head}.{layer}``, raw.

    Args:
        student (dict | str | nn.Module): Model config, zoo name, config file, or a model as it is.
        teacher (dict | str | nn.Module): ``dict(model=..., checkpoint=...)``, see :class:`Teacher`; a zoo name with
            weights; or a network as it is. Built when training starts, always in eval mode, outside the module tree.
        at_heads (Sequence[dict | BaseATHead]): Transfer heads; heads of the same name are numbered.
        data_preprocessor (dict, optional): For a student config that has none. Defaults to None.

    Raises:
        ValueError: No heads, or a layer that the student does not have.
        FileNotFoundError: When training starts: the teacher's checkpoint is not there.
    """

    def __init__(self,
                 student: Union[dict, str, nn.Module],
                 teacher: Union[dict, str, nn.Module],
                 at_heads: Sequence[Union[dict, BaseATHead]],
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
        for head, name in zip(self.at_heads, distinct([head.name for head in self.at_heads])):
            head.resolve_student(student)
            head.name = name
        # Not a module, so not a child: see Teacher.
        self.teacher = Teacher(**teacher) if isinstance(teacher, dict) and 'type' not in teacher else Teacher(teacher)
        self._teacher_is_resolved = False

    def prepare_teacher(self) -> Teacher:
        """Build the teacher and find the heads' layers in it, once. Called before training starts.

        Raises:
            FileNotFoundError, ValueError: No checkpoint, one that does not fit, or a layer that does not exist.
        """
        if not self._teacher_is_resolved:
            for head in self.at_heads:
                head.resolve_teacher(self.teacher.network)
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
        with tap(self.student, self._paths('student_layers'), 'student') as features:
            losses = self.student(inputs, data_samples, mode='loss')
        if 'loss' in losses:
            # mmengine logs the total under this name.
            losses['loss_task'] = losses.pop('loss')
        student_outputs = NetworkOutputs(features=features)
        teacher_outputs = teacher(inputs, self._paths('teacher_layers'), self.data_preprocessor)
        for head in self.at_heads:
            losses.update(head(student_outputs, teacher_outputs))
        return losses

    def _paths(self, side: str) -> List[str]:
        """Layers that any head reads, each once, in order."""
        return list(dict.fromkeys(path for head in self.at_heads for path in getattr(head, side)))

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
        self.teacher.apply(fn)
        return super()._apply(fn, *args, **kwargs)
