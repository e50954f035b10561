"""The attention transfer step in plain PyTorch, the reference of the benchmarks."""
import torch
import torch.nn as nn
import torch.nn.functional as F
from torch import Tensor

from mmat.attention import attention_distance, attention_map


def groups(network: nn.Module, images: Tensor) -> list:
    """Return the outputs of the three groups of mmat's wide ResNet."""
    backbone = network.backbone
    outputs = [backbone.conv0(images)]
    for group in (backbone.group0, backbone.group1, backbone.group2):
        outputs.append(group(outputs[-1]))
    return outputs[1:]


def logits(network: nn.Module, last: Tensor) -> Tensor:
    return network.head.fc(F.relu(network.backbone.bn(last), inplace=True).mean((2, 3)))


def attention(features: Tensor) -> Tensor:
    return F.normalize(features.float().pow(2).mean(1).flatten(1))


class Steps:
    """Training steps and their parts as separate functions, on one batch on the device.

    Args:
        student (nn.Module): mmpretrain classifier with mmat's WideResNet.
        teacher (nn.Module): Another one.
        images (Tensor): Normalised images.
        labels (Tensor): Labels of the images.
        bf16 (bool): Use bfloat16 autocast.
    """

    def __init__(self, student: nn.Module, teacher: nn.Module, images: Tensor, labels: Tensor, bf16: bool):
        self.student, self.teacher = student.train(), teacher.eval().requires_grad_(False)
        self.images, self.labels, self.bf16 = images, labels, bf16
        self.optimizer = torch.optim.SGD(student.parameters(), 0.1, 0.9, weight_decay=5e-4)

    def autocast(self):
        return torch.autocast(self.images.device.type, torch.bfloat16, enabled=self.bf16)

    def update(self, loss: Tensor) -> None:
        loss.backward()
        self.optimizer.step()
        self.optimizer.zero_grad()

    def student_step(self) -> None:
        with self.autocast():
            loss = F.cross_entropy(logits(self.student, groups(self.student, self.images)[-1]), self.labels)
        self.update(loss)

    @torch.no_grad()
    def teacher_forward(self) -> None:
        with self.autocast():
            logits(self.teacher, groups(self.teacher, self.images)[-1])

    def transfer_step(self) -> None:
        """Attention transfer step with the losses of the authors' code."""
        with self.autocast():
            features = groups(self.student, self.images)
            loss = F.cross_entropy(logits(self.student, features[-1]), self.labels)
            with torch.no_grad():
                targets = groups(self.teacher, self.images)
            with torch.autocast(self.images.device.type, enabled=False):
                for s, t in zip(features, targets):
                    loss = loss + 1e3 * (attention(s) - attention(t)).pow(2).mean()
        self.update(loss)

    def lean_step(self) -> None:
        """Attention transfer step with mmat's formulas in mmat's order of computation."""
        with self.autocast():
            with torch.no_grad():
                targets = [attention_map(features) for features in groups(self.teacher, self.images)]
            features = groups(self.student, self.images)
            loss = F.cross_entropy(logits(self.student, features[-1]), self.labels)
            for s, target in zip(features, targets):
                loss = loss + 1e3 * attention_distance(attention_map(s), target)
        self.update(loss)
