import pytest
from mmengine.dataset import InfiniteSampler
from mmengine.runner import Runner
from torch.utils.data import DataLoader, Dataset, IterableDataset

from mmat.engine.loader_checks import check_batches
from mmat.errors import ConfigError, DataError

HOOK = {'default_hooks.class_count': dict(type='mmat.ClassCountHook')}


class Numbers(Dataset):

    def __init__(self, length):
        self.length = length

    def __len__(self):
        return self.length

    def __getitem__(self, index):
        return index


def loader(length, **settings):
    return Runner.build_dataloader(dict(
        {'batch_size': 4, 'num_workers': 0, 'sampler': dict(type='DefaultSampler', shuffle=False), **settings},
        dataset=Numbers(length)))


@pytest.mark.parametrize('length, settings, error, parts', [
    (0, {}, DataError, ['0']),
    (3, dict(drop_last=True), ConfigError, ['3', '4', 'True']),
    (3, dict(num_batch_per_epoch=0), ConfigError, ['num_batch_per_epoch', '0', '3']),
    (9, dict(num_batch_per_epoch=3), ConfigError, ['num_batch_per_epoch', '12', '9']),
    (5, dict(batch_size=7, drop_last=True, num_batch_per_epoch=None), ConfigError, ['5', '7', 'True']),
])
def test_a_loader_without_batches_is_refused(length, settings, error, parts):
    with pytest.raises(error) as raised:
        check_batches(loader(length, **settings), 'val_dataloader')
    for part in ('val_dataloader', 'Numbers', *parts):
        assert part in str(raised.value)


@pytest.mark.parametrize('length, settings', [
    (1, {}), (4, dict(drop_last=True)), (9, dict(num_batch_per_epoch=2)),
    # It repeats the images, however many it says that it has.
    (3, dict(drop_last=True, sampler=dict(type='InfiniteSampler')))])
def test_others_are_accepted_and_have_a_batch(length, settings):
    accepted = loader(length, **settings)
    check_batches(accepted, 'train_dataloader')
    assert len(next(iter(accepted))) > 0


def test_an_empty_infinite_loader_is_refused():
    with pytest.raises(DataError, match='train_dataloader.*Numbers.* 0'):
        check_batches(DataLoader(Numbers(0), sampler=InfiniteSampler(Numbers(1))), 'train_dataloader')


def test_a_dataset_without_a_length_is_accepted():

    class Stream(IterableDataset):

        def __iter__(self):
            return iter(range(3))

    check_batches(DataLoader(Stream(), batch_size=2), 'train_dataloader')


def test_a_process_without_batches_is_named_in_every_process(monkeypatch):
    # Three processes and two images; this process is the first.
    monkeypatch.setattr('mmengine.dataset.sampler.get_dist_info', lambda: (0, 3))
    padded = loader(2, batch_size=1)
    alone = loader(2, batch_size=1, sampler=dict(type='DefaultSampler', shuffle=False, round_up=False))
    gathered = []
    monkeypatch.setattr('mmat.engine.loader_checks.all_gather_object', lambda own: gathered.append(own) or [own, 1, 0])
    with pytest.raises(ConfigError, match=r'train_dataloader.* process 2 of 3.*Numbers.* 2 '):
        check_batches(alone, 'train_dataloader')
    monkeypatch.setattr('mmat.engine.loader_checks.all_gather_object', lambda own: [own] * 3)
    check_batches(padded, 'train_dataloader')
    assert gathered == [1]


@pytest.mark.parametrize('name', ['train', 'val', 'test'])
def test_empty_loaders_are_refused_before_the_first_step(name, make_runner, network_config):
    digits = dict(batch_size=200, num_workers=0, drop_last=True, collate_fn=dict(type='mmat.keep_batch'),
                  dataset=dict(type='mmat.Digits', split='test', size=8, indices=70),
                  sampler=dict(type='DefaultSampler', shuffle=False))
    settings = {f'{name}_dataloader': digits}
    if name == 'test':
        settings.update(test_evaluator=dict(type='mmpretrain.Accuracy'), test_cfg=dict())
    runner = make_runner(network_config(), validate=True, **HOOK, **settings)
    with pytest.raises(ConfigError) as error:
        runner.train()
    for part in (f'{name}_dataloader', 'Digits', '70', '200', 'True'):
        assert part in str(error.value)
    assert runner.iter == 0
    if name == 'test':
        with pytest.raises(ConfigError, match='test_dataloader'):
            runner.test()


def test_a_training_by_iterations_is_checked_too(make_runner, network_config):
    settings = {'train_cfg': dict(_delete_=True, by_epoch=False, max_iters=2), 'param_scheduler.by_epoch': False,
                'train_dataloader.batch_size': 65, 'train_dataloader.drop_last': True}
    runner = make_runner(network_config(), **HOOK, **settings)
    with pytest.raises(ConfigError, match='train_dataloader.* 64 .*65'):
        runner.train()
    runner = make_runner(network_config(), **HOOK, **{**settings, 'train_dataloader.sampler.type': 'InfiniteSampler'})
    runner.train()
    assert runner.iter == 2
