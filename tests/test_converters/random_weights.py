"""Random float64 weights, which reveal any mix-up, for reference networks written over dicts of tensors."""
import torch
import torch.nn.functional as F


class RandomWeights(dict):
    """A state dict, filled by name."""

    def __init__(self, seed=0):
        super().__init__()
        self.generator = torch.Generator().manual_seed(seed)

    def draw(self, *shape):
        return torch.randn(shape, generator=self.generator, dtype=torch.float64)

    def conv(self, name, out, width, kernel):
        self[name] = self.draw(out, width, kernel, kernel) * (2 / (width * kernel**2))**0.5

    def vector(self, name, width, mean=0.):
        self[name] = mean + self.draw(width) / 3

    def linear(self, name, out, width):
        self[f'{name}.weight'] = self.draw(out, width) / width**0.5
        self.vector(f'{name}.bias', out)

    def bn(self, name, width):
        self.vector(f'{name}.weight', width, 1)
        self.vector(f'{name}.bias', width)
        self.vector(f'{name}.running_mean', width)
        self[f'{name}.running_var'] = 0.5 + self.draw(width).square()


def batch_norm(x, state, name):
    """In eval mode, from its definition."""
    weight, bias, mean, var = (state[f'{name}.{part}'].view(-1, 1, 1)
                               for part in ('weight', 'bias', 'running_mean', 'running_var'))
    return (x - mean) / (var + 1e-5).sqrt() * weight + bias


def classify(x, state):
    return F.linear(x.mean((2, 3)), state['fc.weight'], state['fc.bias'])


def images(size, count=2):
    return torch.randn(count, 3, size, size, generator=torch.Generator().manual_seed(9), dtype=torch.float64)


def float32(state):
    return {key: value.float() for key, value in state.items()}


def resnet_config(classes=5, head_width=32, **backbone):
    """mmpretrain's ResNet, thin."""
    return dict(
        type='mmpretrain.ImageClassifier', data_preprocessor=dict(type='mmat.BatchPreprocessor'),
        backbone=dict(type='mmpretrain.ResNet', **{**dict(stem_channels=4, base_channels=4), **backbone}),
        neck=dict(type='mmpretrain.GlobalAveragePooling'),
        head=dict(type='mmat.LinearClsHead', num_classes=classes, in_channels=head_width))
