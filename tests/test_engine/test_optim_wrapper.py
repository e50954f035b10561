import pytest
import torch
import torch.nn as nn
from mmengine.optim import build_optim_wrapper
from mmpretrain.structures import DataSample

from mmat.registry import MODELS, OPTIM_WRAPPERS


def wrapper(model, **kwargs):
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    return OPTIM_WRAPPERS.build(dict(type='mmat.AutocastOptimWrapper', optimizer=optimizer, **kwargs))


def test_bfloat16_inside_and_only_inside():
    model = nn.Linear(4, 3)
    optim = wrapper(model)
    with optim.optim_context(model):
        assert torch.is_autocast_enabled('cpu') and torch.get_autocast_dtype('cpu') == torch.bfloat16
        assert model(torch.ones(2, 4)).dtype == torch.bfloat16
    assert not torch.is_autocast_enabled('cpu')
    assert model(torch.ones(2, 4)).dtype == torch.float32


def test_weights_gradients_and_momentum_stay_float32():
    model = nn.Linear(4, 3)
    optim = build_optim_wrapper(model, dict(
        type='mmat.AutocastOptimWrapper', optimizer=dict(type='SGD', lr=0.5, momentum=0.9)))
    before = model.bias.detach().clone()
    with optim.optim_context(model):
        loss = model(torch.ones(2, 4)).sum()
    gradients = []
    model.bias.register_post_accumulate_grad_hook(lambda parameter: gradients.append(parameter.grad.dtype))
    optim.update_params(loss)
    # d loss / d bias = 2, exact in bfloat16 as well.
    torch.testing.assert_close(model.bias.detach(), before - 1, rtol=0, atol=1e-6)
    momentum = optim.optimizer.state[model.bias]['momentum_buffer']
    assert [model.bias.dtype, momentum.dtype, *gradients] == [torch.float32] * 3


def test_autocast_ends_with_an_error_too():
    model = nn.Linear(4, 3)
    with pytest.raises(KeyError):
        with wrapper(model).optim_context(model):
            raise KeyError
    assert not torch.is_autocast_enabled('cpu')


@pytest.mark.parametrize('scale', [1., 1e4])
def test_the_maps_of_a_distiller_stay_float32_under_it(scale, distiller_config):
    distiller = MODELS.build(distiller_config())
    optim = wrapper(distiller)
    images = torch.randn(2, 3, 8, 8, generator=torch.Generator().manual_seed(0)) * scale
    labels = [DataSample().set_gt_label(label) for label in (1, 2)]
    with optim.optim_context(distiller):
        losses = distiller(images, labels, mode='loss')
    for layer in range(3):
        assert losses[f'at.backbone.group{layer}'].dtype == torch.float32
        assert losses[f'at.backbone.group{layer}'].isfinite()


def test_gradients_accumulate_as_in_mmengine():
    model = nn.Linear(1, 1, bias=False)
    optim = wrapper(model, accumulative_counts=2)
    before = model.weight.item()
    for step, expected in enumerate([before, before - 0.1]):
        with optim.optim_context(model):
            loss = model(torch.ones(1, 1)).sum()
        optim.update_params(loss)
        assert model.weight.item() == pytest.approx(expected, abs=1e-6), step
