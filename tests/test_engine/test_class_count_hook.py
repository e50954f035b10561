import pytest

from mmat.errors import ConfigError

HOOK = {'default_hooks.class_count': dict(type='mmat.ClassCountHook')}


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
    runner = make_runner(network_config(), epochs=1, **HOOK)
    runner.train_loop.dataloader.dataset.metainfo = {}
    runner.train()
