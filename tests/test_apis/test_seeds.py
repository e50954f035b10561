import pytest
from mmengine.config import Config

from mmat.apis.seeds import check_seeds, set_batch_seed
from mmat.registry import MODELS
from mmat.utils.zoo import find_config

STUDENT, DISTILLATION = 'wrn16-1_1xb10_digits', 'wrn16-1_at-wrn16-2_1xb10_digits'


def config(name=STUDENT, **options):
    loaded = Config.fromfile(find_config(name))
    loaded.merge_from_dict(options)
    return loaded


# The batches' seed

@pytest.mark.parametrize('place', ['model', 'top', 'student', 'distiller', 'student by name'])
def test_the_seed_reaches_the_sampler_and_the_preprocessor(place):
    changed = config(DISTILLATION if place in ('student', 'distiller', 'student by name') else STUDENT)
    if place == 'top':
        changed.data_preprocessor = changed.model.pop('data_preprocessor')
    elif place == 'distiller':
        changed.model.data_preprocessor = changed.model.student.pop('data_preprocessor')
        changed.pop('data_preprocessor')
    elif place == 'student by name':
        changed.model.student = STUDENT
    set_batch_seed(changed, 7)
    assert changed.train_dataloader.sampler.seed == 7
    if place == 'top':  # as the Runner does
        changed.model.data_preprocessor = changed.data_preprocessor
    if 'teacher' in changed.model:
        changed.model.teacher.checkpoint = 'not read'
    stream = MODELS.build(changed.model).data_preprocessor.random
    expected = MODELS.build(dict(type='mmat.BatchPreprocessor', seed=7)).random
    assert (stream.generator.get_state() == expected.generator.get_state()).all()


@pytest.mark.parametrize('options, message', [
    ({'train_dataloader.num_workers': 2}, 'train_dataloader.num_workers=0, got 2'),
    ({'train_dataloader.dataset': dict(_delete_=True, type='RepeatDataset', times=2, dataset=dict(
        type='mmat.CUB', data_root='x', pipeline=[dict(type='mmpretrain.RandomFlip')]))}, 'pipeline of RepeatDataset'),
    ({'model.data_preprocessor.type': 'mmpretrain.ClsDataPreprocessor'},
     'mmat.BatchPreprocessor, not mmpretrain.ClsDataPreprocessor'),
    ({'model.data_preprocessor': None, 'data_preprocessor': None}, "mmat.BatchPreprocessor, not mmpretrain's own"),
])
def test_batches_that_would_still_depend_on_the_run_are_refused(options, message):
    with pytest.raises(ValueError, match=message):
        set_batch_seed(config(**options), 7)


def test_a_negative_batch_seed_is_refused():
    with pytest.raises(ValueError, match='--batch-seed must be at least 0, got -1'):
        set_batch_seed(config(), -1)


# Several seeds

@pytest.mark.parametrize('seeds, options, message', [
    ((0, 1, 0), {}, '--seeds has 0 more than once'),
    ((0, 1), dict(launcher='pytorch'), 'with --launcher, train each --seed with the same --batch-seed'),
    ((0, 1), dict(compile=True), 'cannot train with compile'),
    ((0, 1), dict(resume=True), 'resume with --resume'),
    ((0, 1), {'default_hooks.checkpoint.max_keep_ckpts': 1}, 'max_keep_ckpts of at least 2'),
])
def test_what_several_seeds_cannot_be_is_refused(seeds, options, message):
    with pytest.raises(ValueError, match=message):
        check_seeds(config(**options), seeds)
    check_seeds(config(), tuple(dict.fromkeys(seeds)))
