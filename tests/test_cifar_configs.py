"""The attention transfer paper's CIFAR-10 experiments."""
import re

import pytest
import torch.nn as nn
from mmengine.registry import MODELS
from zoo_table import AT, CONFIGS, DISTILLATION, FAMILY, METHODS, config_of, parts

PAIRS = [('nin-thin', 'nin-wide'), ('wrn16-1', 'wrn16-2'), ('wrn16-1', 'wrn40-1'), ('wrn16-2', 'wrn40-2')]
# The configs of the paper's tables and those derived from them, without the networks of "Learn to Pay Attention".
CIFAR = [name for name in CONFIGS if name.endswith('cifar10') and not name.startswith(('vgg', 'rn'))]
# The maps of an attention neck.
MAPS = [f'neck.maps.{level}' for level in range(3)]


def test_every_cell_of_the_papers_tables_has_a_config():
    table1 = {f'{student}_{method}-{teacher}': 'kd' if method == 'kd' else 'at'
              for student, teacher in PAIRS for method in ('at', 'factt', 'kd', 'at-kd')}
    # F_sum^2 and all three groups are in Table 1.
    table2 = [f'wrn16-1_at-{which}-wrn16-2' for which in ('fsum1', 'fsum4', 'fmax1', 'group0', 'group1', 'group2')]
    table3 = {f'nin-thin-nobn_{method}': 'kd' if method.startswith('kd') else 'at' for method in (
        'minl2', 'flipsym', 'gradat-nin-wide-nobn', 'kd-nin-wide-nobn', 'at-nin-wide-nobn')}
    alone = {f'wrn{which}': 'wide_resnet' for which in ('16-1', '16-2', '40-1', '40-2')}
    alone |= {f'nin-{which}': 'nin' for which in ('thin', 'wide', 'thin-nobn', 'wide-nobn')}
    learned = [f'wrn16-1_at-vgg-{which}att3-concat-pc' for which in ('', 'reimpl-quarter-')]
    expected = {**table1, **dict.fromkeys([*table2, *learned], 'at'), **table3, **alone}
    found = {name: FAMILY[name] for name in CIFAR}
    assert found == {f'{name}_1xb128_cifar10': folder for name, folder in expected.items()}


@pytest.mark.parametrize(
    'name', [name for name in CONFIGS if FAMILY[name] != 'ltpa' and name.startswith(('wrn', 'nin'))])
def test_the_name_describes_the_config(name):
    student, method, _, gpus, batch, data = parts(name)
    config = config_of(name)
    assert (gpus, config.train_dataloader.batch_size) == (1, batch)
    assert config.train_dataloader.dataset.type.lower() == f'mmat.{data}'
    backbone = (config.model.student if method else config.model).backbone
    if student.startswith('wrn'):
        depth, width = re.fullmatch(r'wrn(\d+)-(\d+)', student).groups()
        assert (backbone.depth, backbone.widen_factor) == (int(depth), int(width))
    else:
        arch, nobn = re.fullmatch(r'nin-(thin|wide)(-nobn)?', student).groups()
        assert backbone.arch == arch
        assert (backbone.get('norm_cfg', 'BN'), backbone.get('relu_before_pool', True)) == \
            ((None, False) if nobn else ('BN', True))


# The attention transfer authors' CIFAR-10 recipe

@pytest.mark.parametrize('name', CIFAR)
def test_cifar_configs_have_the_published_recipe(name):
    config = config_of(name)
    loader = config.train_dataloader
    assert loader.batch_size == 128
    assert loader.sampler == dict(type='DefaultSampler', shuffle=True)
    assert not loader.get('drop_last', False)
    assert loader.dataset == dict(type='mmat.CIFAR10', data_root='data/cifar10', split='train')
    assert config.val_dataloader.dataset == dict(type='mmat.CIFAR10', data_root='data/cifar10', split='test')
    assert config.test_dataloader == config.val_dataloader
    # No Nesterov; weight decay on all parameters, BN included. Table 3: no decay and a lower rate.
    table3 = 'nobn' in name
    rate, decay = (0.01, 0) if table3 else (0.1, 5e-4)
    assert config.optim_wrapper == dict(optimizer=dict(type='SGD', lr=rate, momentum=0.9, weight_decay=decay))
    assert config.param_scheduler == dict(type='MultiStepLR', by_epoch=True, milestones=[60, 120, 160], gamma=0.2)
    assert (config.train_cfg.by_epoch, config.train_cfg.max_epochs, config.train_cfg.val_interval) == (True, 200, 1)

    model = MODELS.build(config.model)
    preprocessor = model.data_preprocessor
    assert preprocessor.mean.flatten().tolist() == pytest.approx([125.3, 123.0, 113.9])
    assert preprocessor.std.flatten().tolist() == pytest.approx([63.0, 62.1, 66.7])
    # Table 3: flips only.
    assert (preprocessor.padding, preprocessor.flip_prob) == (0 if table3 else 4, 0.5)
    assert not [module for module in model.modules() if 'Dropout' in type(module).__name__]
    model.init_weights()
    assert table3 != any(isinstance(module, nn.BatchNorm2d) for module in model.modules())
    for module in (model.student if name in DISTILLATION else model).modules():
        if isinstance(module, nn.BatchNorm2d):
            assert 0 <= module.weight.min() < module.weight.max() < 1 and not module.bias.any()
        elif isinstance(module, (nn.Conv2d, nn.Linear)):
            # Kaiming normal; for the smallest layer, of 432 weights, 0.2 is more than four standard errors.
            fan_in = module.weight[0].numel()
            assert module.weight.std().item() == pytest.approx((2 / fan_in)**0.5, rel=0.2)
            assert module.bias is None or not module.bias.any()


@pytest.mark.parametrize('name', [name for name in DISTILLATION if name in CIFAR])
def test_cifar_configs_have_the_heads_of_their_method(name):
    _, method, teacher, *_ = parts(name)
    expected = METHODS[method]
    if teacher and teacher.startswith('vgg'):
        expected = [{**AT, 'pairs': list(enumerate(MAPS)), 'weight': 100}]
    assert config_of(name).to_dict()['model']['at_heads'] == expected


def test_learned_attention_is_transferred_to_learned_attention():
    name = 'vgg-reimpl-quarter-att3-concat-pc_at-vgg-reimpl-att3-concat-pc_1xb128_cifar10'
    assert config_of(name).to_dict()['model']['at_heads'] == [
        {**AT, 'pairs': list(zip(MAPS, MAPS)), 'weight': 100}]


def test_the_authors_attention_transfer():
    head, = MODELS.build(config_of('wrn16-1_at-wrn16-2_1xb128_cifar10').model).at_heads
    assert (head.factor, head.form, head.p, head.reduction) == (1000, 'code', 2, 'sum')
