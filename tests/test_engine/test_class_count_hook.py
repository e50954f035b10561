import pytest
import torch
from mmengine.registry import DATASETS

from mmat.datasets import Digits
from mmat.errors import ConfigError, DataError
from mmat.models import build_network
from mmat.models.targets import compare_classes
from mmat.utils.checkpoint import load_weights

HOOK = {'default_hooks.class_count': dict(type='mmat.ClassCountHook')}
NAMES = tuple('0123456789')
# Digit 9 is called ten, and all labels but 0 have moved.
OTHERS = ('0', 'ten', *NAMES[1:9])
SWAPPED = ('1', '0', *NAMES[2:])
RENAMED = tuple(f'digit {name}' for name in NAMES)


@pytest.fixture(autouse=True)
def named_digits():
    """Registers a dataset that can have other class names, or none."""

    class NamedDigits(Digits):

        def __init__(self, *args, classes=NAMES, **kwargs):
            super().__init__(*args, **kwargs)
            self.metainfo = {} if classes is None else dict(classes=tuple(classes))

    DATASETS.register_module(module=NamedDigits, force=True)


def named(classes, loader='train'):
    split = 'train' if loader == 'train' else 'test'
    return {f'{loader}_dataloader.dataset': dict(type='NamedDigits', split=split, size=8, indices=50, classes=classes)}


def test_loader(classes):
    dataset = named(classes, 'test')['test_dataloader.dataset']
    return dict(
        test_dataloader=dict(batch_size=50, num_workers=0, dataset=dataset, collate_fn=dict(type='mmat.keep_batch'),
                             sampler=dict(type='DefaultSampler', shuffle=False)),
        test_evaluator=dict(type='mmpretrain.Accuracy'), test_cfg=dict())


test_loader.__test__ = False


def contains(error, *parts):
    return all(part in str(error.value) for part in parts)


# The number of classes

@pytest.mark.parametrize('classes', [5, 11])
@pytest.mark.parametrize('distilled', [False, True])
def test_another_number_of_classes_is_refused_before_the_first_step(
        classes, distilled, make_runner, network_config, distiller_config):
    student = network_config()
    student['head']['num_classes'] = classes
    runner = make_runner(distiller_config(student=student) if distilled else student, **HOOK)
    with pytest.raises(ConfigError, match=rf'LinearClsHead.* {classes} .*train_dataloader.*Digits.*num_classes.* 10'):
        runner.train()
    assert runner.iter == 0


def test_the_right_number_trains_and_validates(make_runner, network_config):
    make_runner(network_config(), validate=True, epochs=1, **HOOK).train()


def test_validation_and_test_sets_are_checked_too(make_runner, network_config):
    runner = make_runner(network_config(), validate=True, **HOOK)
    runner.val_dataloader.dataset.metainfo = dict(classes=('a', 'b'))
    with pytest.raises(ConfigError, match='val_dataloader.* 2'):
        runner.val()


def test_a_classifier_inside_the_backbone(make_runner):
    model = dict(
        type='mmpretrain.ImageClassifier', backbone=dict(type='mmpretrain.VGG', depth=11, num_classes=7),
        head=dict(type='mmpretrain.ClsHead', loss=dict(type='mmpretrain.CrossEntropyLoss')),
        data_preprocessor=dict(type='mmat.BatchPreprocessor'))
    with pytest.raises(ConfigError, match='VGG.* 7 '):
        make_runner(model, **HOOK).train()


def test_datasets_without_class_names_are_accepted(make_runner, network_config):
    make_runner(network_config(), epochs=1, validate=True, **HOOK, **named(None), **named(OTHERS, 'val')).train()
    make_runner(network_config(), epochs=1, validate=True, **HOOK, **named(OTHERS), **named(None, 'val')).train()


# Their names

@pytest.mark.parametrize('expected, found, parts', [
    (('ant', 'bee', 'cat'), ('ant', 'cat', 'dog'), ["missing in here: 'bee'", "unknown in here: 'dog'"]),
    (['ant', 'bee'], ('ant', ), ["missing in here: 'bee'"]),
    (('ant', ), ('ant', 'bee'), ["unknown in here: 'bee'"]),
    (('ant', 'bee', 'cat'), ('ant', 'cat', 'bee'), ['here', 'label 1', "'cat'", "'bee'"]),
    (('crane', 'crane'), ('crane', ), ['here', 'label 1', 'None', "'crane'"]),
    (tuple('abcdefgh'), ('h', ), ["'a', 'b', 'c', 'd', 'e' and 2 more"]),
    (('ant', 'bee'), ['ant', 'bee'], []), (('ant', ), None, []), (None, ('ant', ), []), ((), ('ant', ), []),
])
def test_names_are_compared_by_label(expected, found, parts):
    text = compare_classes(expected, found, 'here')
    assert bool(text) == bool(parts) and all(part in text for part in parts)


@pytest.mark.parametrize('loader', ['val', 'test'])
@pytest.mark.parametrize('classes, parts', [
    (OTHERS, ["'9'", "'ten'"]), (NAMES[:9], ["'9'"]), (SWAPPED, ['label 0', "'1'", "'0'"])])
def test_datasets_of_other_classes_are_refused_before_the_first_step(loader, classes, parts, make_runner,
                                                                     network_config):
    settings = named(classes, 'val') if loader == 'val' else test_loader(classes)
    runner = make_runner(network_config(), validate=True, **HOOK, **settings)
    with pytest.raises(DataError) as error:
        runner.train()
    assert contains(error, f'{loader}_dataloader', 'train_dataloader', 'NamedDigits', *parts) and runner.iter == 0


def test_reading_the_test_set_does_not_change_the_training(make_runner, network_config):
    without, with_test = (
        make_runner(network_config(), epochs=1, validate=True, **HOOK, **settings).train().state_dict()
        for settings in ({}, test_loader(NAMES)))
    assert all(torch.equal(value, with_test[key]) for key, value in without.items())


def test_a_test_set_that_is_not_there_does_not_stop_the_training(make_runner, network_config):
    loader = test_loader(NAMES)
    loader['test_dataloader']['dataset'] = dict(type='mmat.CIFAR10', data_root='absent', split='test')
    runner = make_runner(network_config(), epochs=1, **HOOK, **loader)
    runner.train()
    assert runner.iter == 2
    assert any('absent' in message for level, message in runner.log if level == 'WARNING')


# Checkpoints

@pytest.fixture
def checkpoint(make_runner, network_config):
    """A checkpoint of a network of ten digits."""
    runner = make_runner(network_config(), 'first', epochs=1)
    runner.train()
    return f'{runner.work_dir}/epoch_1.pth'


@pytest.mark.parametrize('classes', [OTHERS, SWAPPED])
def test_a_run_is_not_resumed_with_other_classes(classes, checkpoint, make_runner, network_config):
    runner = make_runner(network_config(), resume=True, load_from=checkpoint, **HOOK, **named(classes))
    with pytest.raises(ConfigError) as error:
        runner.train()
    assert contains(error, 'train_dataloader', *(["'9'", "'ten'"] if classes == OTHERS else ['label 0']))
    assert runner.iter == 2


@pytest.mark.parametrize('classes, level, name', [
    (NAMES, None, "'9'"), (OTHERS, 'WARNING', "'9'"), (SWAPPED, 'WARNING', "'1'"), ((*NAMES, 'ten'), 'INFO', "'ten'"),
    (None, None, "'9'")])
def test_weights_to_start_from_may_have_other_classes(classes, level, name, checkpoint, make_runner, network_config):
    config = network_config()
    config['head']['num_classes'] = len(classes or NAMES)
    runner = make_runner(config, load_from=checkpoint, epochs=1, log_level='INFO', **HOOK, **named(classes))
    runner.train()
    # mmengine logs the config at this level.
    logged = [level for level, message in runner.log if name in message and 'train_dataloader' in message]
    assert logged == ([] if level is None else [level])


@pytest.mark.parametrize('classes', [OTHERS, SWAPPED, NAMES[:9]])
@pytest.mark.parametrize('through_runner', [False, True])
def test_a_checkpoint_is_not_tested_on_other_classes(classes, through_runner, checkpoint, make_runner,
                                                     network_config):
    settings = dict(load_from=checkpoint) if through_runner else {}
    runner = make_runner(network_config(), **HOOK, **settings, **test_loader(classes))
    if not through_runner:
        load_weights(runner.model, checkpoint)
    with pytest.raises(ConfigError) as error:
        runner.test()
    assert contains(error, 'test_dataloader', 'NamedDigits', 'label 0' if classes == SWAPPED else "'9'")


def test_a_checkpoint_is_tested_on_its_classes_and_after_more_training_on_the_new_ones(checkpoint, make_runner,
                                                                                      network_config):
    runner = make_runner(network_config(), load_from=checkpoint, **HOOK, **test_loader(NAMES))
    assert 'accuracy/top1' in runner.test()
    runner = make_runner(network_config(), 'new', load_from=checkpoint, epochs=1, **HOOK, **named(SWAPPED),
                         **test_loader(SWAPPED))
    runner.train()
    assert 'accuracy/top1' in runner.test()


# Teachers

@pytest.fixture
def teacher(network_config, tmp_path):
    """Makes checkpoints of teachers with class names."""

    def make(classes, name='teacher.pth'):
        network = build_network(network_config(widen_factor=2))
        meta = {} if classes is None else dict(dataset_meta=dict(classes=classes))
        torch.save(dict(state_dict=network.state_dict(), meta=meta), tmp_path / name)
        return dict(model=network_config(widen_factor=2), checkpoint=str(tmp_path / name))

    return make


@pytest.mark.parametrize('head', [dict(type='mmat.SoftTargetHead'), dict(type='mmat.GradientATHead', weight=1.)])
@pytest.mark.parametrize('classes', [SWAPPED, OTHERS])
def test_a_teacher_with_another_order_of_classes_is_refused(head, classes, teacher, distiller_config, make_runner):
    model = distiller_config(at_heads=[head], teacher=teacher(classes))
    runner = make_runner(model, **HOOK)
    with pytest.raises(ConfigError) as error:
        runner.train()
    assert contains(error, "'teacher'", 'teacher.pth', "'9'" if classes == OTHERS else 'label 0') and runner.iter == 0


@pytest.mark.parametrize('classes, warned', [(RENAMED, True), (NAMES, False), (list(NAMES), False), (None, False)])
def test_a_teacher_with_other_names_of_the_classes_is_a_warning(classes, warned, teacher, distiller_config,
                                                               make_runner):
    runner = make_runner(distiller_config(at_heads=[dict(type='mmat.SoftTargetHead')], teacher=teacher(classes)),
                         epochs=1, **HOOK)
    runner.train()
    assert any("'digit 0'" in message for level, message in runner.log if level == 'WARNING') is warned


def test_the_classes_of_a_teacher_do_not_matter_where_only_activations_are_read(teacher, distiller_config,
                                                                               make_runner):
    runner = make_runner(distiller_config(teacher=teacher(SWAPPED)), epochs=1, **HOOK)
    runner.train()
    assert runner.iter == 2 and not any('teacher.pth' in message for level, message in runner.log
                                        if level == 'WARNING')


def test_each_of_several_teachers_is_checked(teacher, distiller_config, make_runner):
    teachers = dict(good=teacher(NAMES, 'good.pth'), bad=teacher(SWAPPED, 'bad.pth'))
    heads = [dict(type='mmat.SoftTargetHead', teacher='good'),
             dict(type='mmat.ActivationATHead', pairs=[(2, 2)], teacher='bad')]
    make_runner(distiller_config(at_heads=heads, teacher=None, teachers=teachers), epochs=1, **HOOK).train()
    heads[0]['teacher'] = 'bad'
    heads[1]['teacher'] = 'good'
    with pytest.raises(ConfigError, match=r"'bad'.*bad\.pth.*label 0"):
        make_runner(distiller_config(at_heads=heads, teacher=None, teachers=teachers), **HOOK).train()
