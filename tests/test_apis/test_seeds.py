import pytest
from mmengine.config import Config

from mmat.apis.seeds import check_seeds, set_batch_seed
from mmat.errors import ConfigError, UserError
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
    ({'train_dataloader.num_workers': 2}, 'train_dataloader.num_workers=0.* 2'),
    ({'train_dataloader.dataset': dict(_delete_=True, type='RepeatDataset', times=2, dataset=dict(
        type='mmat.CUB', data_root='x', pipeline=[dict(type='mmpretrain.RandomFlip')]))}, 'RepeatDataset.*pipeline'),
    ({'model.data_preprocessor.type': 'mmpretrain.ClsDataPreprocessor'},
     'mmat.BatchPreprocessor.* mmpretrain.ClsDataPreprocessor'),
    ({'model.data_preprocessor': None, 'data_preprocessor': None}, "mmat.BatchPreprocessor.* mmpretrain's"),
])
def test_batches_that_would_still_depend_on_the_run_are_refused(options, message):
    with pytest.raises(ConfigError, match=message):
        set_batch_seed(config(**options), 7)


def test_a_negative_batch_seed_is_refused():
    with pytest.raises(UserError, match='--batch-seed.* -1'):
        set_batch_seed(config(), -1)


# Several seeds

@pytest.mark.parametrize('seeds, options, error, message', [
    ((0, 1, 0), {}, UserError, '--seeds.* 0 '),
    ((0, 1), dict(launcher='pytorch'), UserError, '--launcher.*--seed .*--batch-seed'),
    ((0, 1), dict(compile=True), ConfigError, 'compile'),
    ((0, 1), dict(resume=True), ConfigError, 'resume=True.*--resume'),
    ((0, 1), {'default_hooks.checkpoint.max_keep_ckpts': 1}, ConfigError, 'max_keep_ckpts.* 2'),
])
def test_settings_that_several_seeds_do_not_support(seeds, options, error, message):
    with pytest.raises(error, match=message):
        check_seeds(config(**options), seeds)
    check_seeds(config(), tuple(dict.fromkeys(seeds)))
