import pytest

HOOK = {'default_hooks.class_count': dict(type='mmat.ClassCountHook')}


@pytest.mark.parametrize('classes', [5, 11])
@pytest.mark.parametrize('distilled', [False, True])
def test_another_number_of_classes_is_refused_before_the_first_step(
        classes, distilled, make_runner, network_config, distiller_config):
    student = network_config()
    student['head']['num_classes'] = classes
    runner = make_runner(distiller_config(student=student) if distilled else student, **HOOK)
    with pytest.raises(ValueError, match=rf'\(LinearClsHead\) has {classes} classes, but the dataset of '
                                         r'train_dataloader \(Digits\) has 10: num_classes must be 10'):
        runner.train()
    assert runner.iter == 0


def test_the_right_number_trains_and_validates(make_runner, network_config):
    make_runner(network_config(), validate=True, epochs=1, **HOOK).train()


def test_validation_and_test_sets_are_looked_at_too(make_runner, network_config):
    runner = make_runner(network_config(), validate=True, **HOOK)
    runner.val_dataloader.dataset.metainfo = dict(classes=('a', 'b'))
    with pytest.raises(ValueError, match='dataset of val_dataloader .* has 2'):
        runner.val()


def test_a_classifier_inside_the_backbone(make_runner):
    model = dict(
        type='mmpretrain.ImageClassifier', backbone=dict(type='mmpretrain.VGG', depth=11, num_classes=7),
        head=dict(type='mmpretrain.ClsHead', loss=dict(type='mmpretrain.CrossEntropyLoss')),
        data_preprocessor=dict(type='mmat.BatchPreprocessor'))
    with pytest.raises(ValueError, match=r'\(VGG\) has 7 classes'):
        make_runner(model, **HOOK).train()


def test_datasets_that_do_not_tell_are_taken(make_runner, network_config):
    runner = make_runner(network_config(), epochs=1, **HOOK)
    runner.train_loop.dataloader.dataset.metainfo = {}
    runner.train()
