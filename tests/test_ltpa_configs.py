"""The networks of "Learn to Pay Attention"."""
import numpy as np
import pytest
from mmengine.registry import MODELS, TRANSFORMS
from zoo_table import CONFIGS, DATA, FAMILY, config_of, learning_rates, parts, plain

# Levels with attention, and the widths of the local features.
LEVELS = {'att': (2, ), 'att2': (1, 2), 'att3': (0, 1, 2)}
VGG_WIDTHS = (256, 512, 512)
LTPA = [(att, head, compatibility) for att in LEVELS for head in (('', ) if att == 'att' else ('concat', 'indep'))
        for compatibility in ('pc', 'dp')]
LTPA_CONFIGS = [name for name in CONFIGS if FAMILY[name] == 'ltpa' and name.startswith(('vgg', 'rn'))]


def test_every_network_of_learn_to_pay_attention_has_a_config():
    vgg = ['vgg'] + ['-'.join(filter(None, ('vgg', *system, after))) for system in LTPA for after in ('', 'after')]
    reimplementation = [f'vgg-reimpl{which}' for which in ('', '-att3-concat-pc', '-att3-concat-pc-after')]
    resnet = ['rn164'] + [f'rn164-att2-{head}-{c}' for head in ('concat', 'indep') for c in ('pc', 'dp')]
    quarter = [f'vgg-reimpl-quarter-att3-concat-pc{after}_1xb128_cifar10' for after in ('', '-after')]
    assert set(LTPA_CONFIGS) == {
        *quarter, 'vgg-att2-concat-pc_1xb128_cub',
        *(f'{name}_1xb{64 if name in resnet else 128}_{data}' for name in (*vgg, *reimplementation, *resnet)
          for data in ('cifar10', 'cifar100'))}


def ltpa_model(student, classes):
    """Return the model config that a network's name stands for."""
    resnet = student.startswith('rn164')
    words = student.replace('vgg-reimpl', 'reimpl').split('-')
    levels = next((LEVELS[word] for word in words if word in LEVELS), ())
    reimplementation, quarter = 'reimpl' in words, 'quarter' in words
    if resnet:
        widths, width = [(64, 128, 256)[level] for level in levels], 256
        backbone = dict(type='mmat.AttentionResNet', depth=164, out_indices=levels,
                        global_branch='conv' if levels else 'pool')
        head = dict(norm=bool(levels), dropout=0.3 if levels else 0.)
    else:
        widths, width = [VGG_WIDTHS[level] // (4 if quarter else 1) for level in levels], 128 if quarter else 512
        backbone = dict(type='mmat.AttentionVGG', out_indices=levels,
                        arch='reimplementation' if reimplementation else 'authors' if levels else 'plain')
        head = dict(norm=False, dropout=0.) if reimplementation else {}
        if 'after' in words:
            backbone['position'] = 'after_pool'
        if quarter:
            backbone['base_channels'] = 16
        if classes == 200:
            backbone.update(image_size=80, first_pool=5)
    neck = dict(type='mmat.SpatialAttentionNeck', in_channels=widths, global_channels=width,
                compatibility='dp' if 'dp' in words else 'pc')
    if reimplementation:
        neck.update(bias=False, project='local')
    elif levels:
        backbone['average_gradients'] = True
    head.update(
        type=f'mmat.{"Independent" if "indep" in words else "Concat"}ClsHead', num_classes=classes, cal_acc=True,
        topk=(1, ), in_channels=([width] * len(levels) if reimplementation else widths) or [width])
    return dict(type='mmpretrain.ImageClassifier', backbone=backbone, head=head, **(dict(neck=neck) if levels else {}))


@pytest.mark.parametrize('name', LTPA_CONFIGS)
def test_the_name_describes_the_model(name):
    student, *_, gpus, batch, data = parts(name)
    config = config_of(name).to_dict()
    model = config['model']
    del model['data_preprocessor']
    for module in ('backbone', 'neck', 'head'):
        init_cfg = model.get(module, {}).pop('init_cfg', None)
        # Only the re-implementation's classifier and the authors' neck differ from the defaults.
        if module == 'head' and 'reimpl' in name:
            assert init_cfg == dict(type='Xavier', layer='Linear', gain=2**0.5, distribution='uniform')
        elif module == 'neck' and module in model and 'reimpl' not in name and not name.endswith('cub'):
            assert init_cfg == [dict(type='Kaiming', layer='Conv2d', mode='fan_out', nonlinearity='relu'),
                                dict(type='Uniform', layer='_BatchNorm', a=0, b=1, bias=0)]
        else:
            assert init_cfg is None

    assert plain(model) == plain(ltpa_model(student, DATA[data][1]))
    assert (gpus, config['train_dataloader']['batch_size']) == (1, batch)


@pytest.mark.parametrize('name', [name for name in LTPA_CONFIGS if not name.endswith('cub')])
def test_learn_to_pay_attention_configs_have_the_recipe_of_their_source(name):
    config = config_of(name)
    data = parts(name)[5]
    for loader, split in (('train', 'train'), ('val', 'test'), ('test', 'test')):
        assert config[f'{loader}_dataloader'].dataset == dict(
            type=f'mmat.{data.upper()}', data_root=f'data/{data}', split=split)
    optimizer = dict(type='SGD', lr=0.1, momentum=0.9, weight_decay=5e-4)
    if name.startswith('rn164'):
        drops = dict(type='MultiStepLR', milestones=[60, 120, 160], gamma=0.2)
        recipe = ({**optimizer, 'nesterov': True}, drops, 200, 1)
        padding, mode, drop_last = 4, 'reflect', True
    elif 'reimpl' in name:
        # One epoch of the re-implementation is three passes over the data, so three epochs here.
        recipe = (optimizer, dict(type='StepLR', step_size=75, gamma=0.5), 900, 3)
        padding, mode, drop_last = 4, 'constant', False
    else:
        recipe = ({**optimizer, 'lr': 1.0}, dict(type='StepLR', step_size=25, gamma=0.5), 300, 1)
        padding, mode, drop_last = 0, 'reflect', True
    scheduler = dict(config.param_scheduler)
    assert scheduler.pop('by_epoch') is True and config.train_cfg.by_epoch is True
    length = config.train_cfg.max_epochs, config.train_cfg.val_interval
    assert (config.optim_wrapper.optimizer, scheduler, *length) == recipe
    assert bool(config.train_dataloader.get('drop_last')) == drop_last
    preprocessor = MODELS.build(config.model.data_preprocessor)
    assert (preprocessor.padding, preprocessor.padding_mode, preprocessor.flip_prob) == (padding, mode, 0.5)
    mean, std = ([125.3, 123.0, 113.9], [63.0, 62.1, 66.7]) if data == 'cifar10' else (
        [255 * each for each in (0.5071, 0.4867, 0.4408)], [255 * each for each in (0.2675, 0.2565, 0.2761)])
    assert preprocessor.mean.flatten().tolist() == pytest.approx(mean)
    assert preprocessor.std.flatten().tolist() == pytest.approx(std)


def test_cub_is_fine_tuned_as_the_authors_do():
    config = config_of('vgg-att2-concat-pc_1xb128_cub')
    assert config.optim_wrapper == dict(optimizer=dict(type='SGD', lr=0.1, momentum=0.9, weight_decay=5e-4))
    assert config.load_from == 'work_dirs/vgg-att2-concat-pc_1xb128_cifar100'
    rates = learning_rates(config)
    expected = [0.1, 0.2, 0.4, *(0.4 / 2**step for step in range(1, 9))]
    assert rates[::30] == pytest.approx(expected) and len(rates) == 320
    for loader, split in (('train', 'train'), ('val', 'test'), ('test', 'test')):
        dataset = config[f'{loader}_dataloader'].dataset
        assert (dataset.type, dataset.data_root, dataset.split) == ('mmat.CUB', 'data/CUB_200_2011', split)
        steps = [TRANSFORMS.build(step) for step in dataset.pipeline]
        results = dict(img=np.zeros((300, 400, 3), np.uint8), bbox=[10., 20., 200., 100.], gt_label=3)
        for step in steps[1:]:
            results = step(results)
        assert results['inputs'].shape == (3, 80, 80)
