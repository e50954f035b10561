import copy
import random
import re
import weakref

import numpy as np
import pytest
import torch
from mmengine.dataset import DefaultSampler
from mmengine.hooks import Hook
from mmengine.logging import MessageHub, print_log
from mmengine.registry import DATA_SAMPLERS, DATASETS, LOOPS
from mmengine.runner import EpochBasedTrainLoop, Runner

from mmat.datasets import Digits
from mmat.engine.seed_group import train_together
from mmat.errors import ConfigError, UserError
from mmat.models import BatchPreprocessor, Distiller
from mmat.models.distillers import Teacher
from mmat.utils.work_dirs import common_checkpoint

SEEDS = (3, 0)
EMA = dict(type='EMAHook', momentum=0.1)
# Entries of a checkpoint that may differ: names, places and times.
OWN = {'cfg', 'experiment_name', 'time', 'eta'}


class Dropout(Hook):
    """Draws from every random state there is; the weights depend on each draw."""

    def after_train_iter(self, runner, batch_idx, data_batch=None, outputs=None):
        factor = 1 + 1e-3 * (random.random() + np.random.standard_normal() + torch.randn(()).item())
        with torch.no_grad():
            for parameter in runner.model.parameters():
                parameter.mul_(factor)


class Do(Hook):
    """Calls a function before every step."""

    priority = 'LOWEST'

    def __init__(self, function):
        self.before_train_iter = lambda runner, batch_idx, data_batch=None: function(runner, data_batch)


@pytest.fixture
def settings():
    """Settings shared by the runs: order and augmentation of the batches."""
    return {'validate': True, 'epochs': 2, 'train_dataloader.sampler.seed': 11,
            'train_dataloader.batch_size': 24, 'default_hooks.runtime_info.type': 'mmat.RuntimeInfoHook'}


def with_seed(model, seed=11):
    model = copy.deepcopy(model)
    model.get('student', model)['data_preprocessor']['seed'] = seed
    return model


def record(runner, seen):
    """Append the preprocessor's outputs in training."""

    def hook(module, args, out):
        if module.training:
            seen.append(out)

    runner.model.data_preprocessor.register_forward_hook(hook)


def different(first, second, path=''):
    """Where two checkpoints differ."""
    if isinstance(first, dict):
        return [place for key in first.keys() | second.keys() if key not in OWN
                for place in (different(first[key], second[key], f'{path}.{key}')
                              if key in first and key in second else [f'{path}.{key}'])]
    if isinstance(first, (list, tuple)):
        return [f'{path}: length'] * (len(first) != len(second)) + [
            place for index, pair in enumerate(zip(first, second)) for place in different(*pair, f'{path}[{index}]')]
    same = torch.equal(first, second) if isinstance(first, torch.Tensor) else first == second
    return [] if same else [path]


def checkpoint(runner, epoch):
    content = torch.load(f'{runner.work_dir}/epoch_{epoch}.pth')
    del content['message_hub']['runtime_info']['last_ckpt']
    return content


def history(runner):
    return {key: buffer.data[0].tolist() for key, buffer in runner.message_hub.log_scalars.items()
            if not key.endswith('time')}


def assert_the_same_run(run, alone, epochs=2):
    assert not different(checkpoint(run, epochs), checkpoint(alone, epochs))
    # All losses and accuracies that were logged, at every iteration, in training and validation.
    assert history(run) == history(alone)
    assert {'train/loss', 'train/lr', 'val/accuracy/top1'} <= history(run).keys()


@pytest.fixture
def models(network_config, attention_config, distiller_config):
    mixing = network_config(train_cfg=dict(augments=[dict(type='mmpretrain.Mixup', alpha=1.)]))
    mixing['data_preprocessor']['num_classes'] = 10
    mixing['head']['cal_acc'] = False
    return {
        'at': lambda: distiller_config(),
        'dropout': lambda: distiller_config(student=attention_config(), head=dict(pairs=[(0, 0), (1, 1)])),
        'learned head': lambda: distiller_config(
            at_heads=[dict(type='mmat.FullActivationHead', pairs=[(0, 0), (2, 2)])]),
        'no teacher, mixed images': lambda: mixing,
    }


@pytest.mark.parametrize('name', ['at', 'dropout', 'learned head', 'no teacher, mixed images'])
def test_each_seed_is_to_the_bit_its_run_alone(name, models, make_runner, settings):
    model = with_seed(models[name]())
    if name == 'at':
        # Its copies of the networks too.
        settings['custom_hooks'] = [EMA]

    def make(seed, folder='together'):
        runner = make_runner(model, f'{folder}/seed{seed}', seed=seed, **settings)
        runner.register_hook(Dropout())
        return runner

    seeds = (3, 0, 5) if name == 'at' else SEEDS
    runners = train_together(seeds, make)
    assert list(runners) == list(seeds)
    for seed in seeds:
        alone = make(seed, 'alone')
        alone.train()
        assert_the_same_run(runners[seed], alone)
    # They are different runs.
    assert different(checkpoint(runners[0], 2)['state_dict'], checkpoint(runners[3], 2)['state_dict'])


def test_batches_are_loaded_and_prepared_and_seen_by_the_teacher_once(models, make_runner, settings, monkeypatch):
    asked, built, runs = [], [], {}
    ask, load = Teacher.__call__, Digits.__init__
    monkeypatch.setattr(Teacher, '__call__', lambda self, *args: (asked.append(self), ask(self, *args))[1])
    monkeypatch.setattr(Digits, '__init__', lambda self, *args, **kw: (built.append(self), load(self, *args, **kw))[1])
    model = with_seed(models['at']())

    def make(seed):
        runner = make_runner(model, f'seed{seed}', seed=seed, **settings)
        runs[seed] = []
        record(runner, runs[seed])
        return runner

    runners = train_together(SEEDS, make)
    # 64 images in batches of 24, two epochs; one dataset for training and one for validation.
    assert len(asked) == 6 and len({*map(id, asked)}) == 1 and len(built) == 2
    assert [len(seen) for seen in runs.values()] == [6, 6]
    for batches in zip(*runs.values()):
        assert len({id(batch['inputs']) for batch in batches}) == 1
        assert len({id(batch) for batch in batches}) == 2
    for attribute in ('train_dataloader', 'val_dataloader'):
        assert len({id(getattr(runner, attribute).dataset) for runner in runners.values()}) == 1
    assert len({id(runner.model.teacher.network) for runner in runners.values()}) == 1


def test_the_batches_follow_from_their_seed_and_not_from_the_runs(models, make_runner, settings):
    def batches(seed, batch_seed):
        seen = []
        settings['train_dataloader.sampler.seed'] = batch_seed
        runner = make_runner(with_seed(models['at'](), batch_seed), f'{seed}_{batch_seed}', seed=seed, **settings)
        record(runner, seen)
        runner.train()
        return torch.cat([batch['inputs'] for batch in seen])

    first = batches(0, 1)
    assert torch.equal(first, batches(1, 1)) and not torch.equal(first, batches(0, 2))


def test_one_batch_is_in_memory(models, make_runner, settings, monkeypatch):
    alive, counts = weakref.WeakSet(), []
    ask, augment = Teacher.__call__, BatchPreprocessor.augment

    def watched_ask(self, inputs, *args):
        outputs = ask(self, inputs, *args)
        alive.update([inputs, *(tensor for maps in outputs for tensor in maps)])
        return outputs

    def watched_augment(self, images):
        counts.append(len(alive))
        return augment(self, images)

    monkeypatch.setattr(Teacher, '__call__', watched_ask)
    monkeypatch.setattr(BatchPreprocessor, 'augment', watched_augment)
    model = with_seed(models['at']())
    train_together(SEEDS, lambda seed: make_runner(model, f'seed{seed}', seed=seed, **settings))
    # Whenever a batch is made, nothing of the one before is left.
    assert counts == [0] * 6


def test_the_teacher_is_validated_once_and_the_other_logs_name_its_seed(models, make_runner, settings):
    settings['default_hooks.distillation.validate_teacher'] = True
    settings['log_level'] = 'INFO'
    model = with_seed(models['at']())
    runners = train_together(SEEDS, lambda seed: make_runner(model, f'seed{seed}', seed=seed, **settings))
    accuracies, references = ({seed: [message for _, message in runner.log if re.search(pattern, message)]
                               for seed, runner in runners.items()}
                              for pattern in (r'Teacher.*accuracy/top1.* s\)', 'teacher.*seed 3'))
    assert [len(accuracies[seed]) for seed in SEEDS] == [1, 0]
    assert [len(references[seed]) for seed in SEEDS] == [0, 1]
    assert {runner.logger.name for runner in runners.values()} == {f'mmengine.seed{seed}' for seed in SEEDS}


def test_current_instances_belong_to_the_running_seed(models, make_runner, settings):
    model, settings['log_level'] = with_seed(models['no teacher, mixed images']()), 'INFO'

    def speak(runner, batch):
        assert MessageHub.get_current_instance() is runner.message_hub
        print_log(f'step of {runner.seed}', 'current')

    def make(seed):
        runner = make_runner(model, f'seed{seed}', seed=seed, **settings)
        runner.register_hook(Do(speak))
        return runner

    for seed, runner in train_together(SEEDS, make).items():
        assert [message for _, message in runner.log if 'step of' in message] == [f'step of {seed}'] * 6


def stopping_seed_3(make_runner, model, settings):
    """Return a builder of runners, of which seed 3 stops after its first step."""
    model = with_seed(model)

    def make(seed, folder='together'):
        runner = make_runner(model, f'{folder}/seed{seed}', seed=seed, **settings)
        if seed == 3:
            runner.register_hook(Do(lambda runner, batch: setattr(runner.train_loop, 'stop_training', True)))
        return runner

    return make


def test_one_that_stops_early_leaves_the_others_running(models, make_runner, settings):
    make = stopping_seed_3(make_runner, models['at'](), settings)
    runners = train_together(SEEDS, make)
    assert [runners[seed].epoch for seed in SEEDS] == [1, 2]
    for seed, epochs in zip(SEEDS, (1, 2)):
        alone = make(seed, 'alone')
        alone.train()
        assert_the_same_run(runners[seed], alone, epochs)


def test_the_first_run_may_stop_inside_the_data(models, make_runner, settings):
    settings['train_cfg'] = dict(_delete_=True, by_epoch=False, max_iters=5)
    settings['train_dataloader.sampler'] = dict(_delete_=True, type='InfiniteSampler', shuffle=True, seed=11)
    make = stopping_seed_3(make_runner, models['at'](), settings)
    runners = train_together(SEEDS, make)
    assert [runners[seed].iter for seed in SEEDS] == [1, 5]
    for seed in SEEDS:
        alone = make(seed, 'alone')
        alone.train()
        assert not different(runners[seed].model.state_dict(), alone.model.state_dict())


# Resuming

def test_a_group_that_was_killed_resumes_to_the_bit(models, make_runner, settings, tmp_path):
    model = with_seed(models['dropout']())

    def make(seed, folder='together', stop=False, **options):
        runner = make_runner(model, f'{folder}/seed{seed}', seed=seed, **{**settings, **options})
        runner.register_hook(Dropout())
        if stop and seed == 0:
            # When the other has saved its second epoch, and this one has not.
            hook = Hook()
            hook.after_train_epoch = lambda runner: 1 / (runner.epoch - 1)
            runner.register_hook(hook, 'VERY_HIGH')
        return runner

    settings['epochs'] = 3
    with pytest.raises(ZeroDivisionError):
        train_together(SEEDS, lambda seed: make(seed, stop=True))
    folders = [tmp_path / 'together' / f'seed{seed}' for seed in SEEDS]
    assert [(folder / 'epoch_2.pth').is_file() for folder in folders] == [True, False]
    assert common_checkpoint(folders) == 'epoch_1.pth'
    torch.manual_seed(99), random.seed(99), np.random.seed(99)
    runners = train_together(SEEDS, lambda seed: make(
        seed, resume=True, load_from=str(tmp_path / 'together' / f'seed{seed}' / 'epoch_1.pth')))
    for seed in SEEDS:
        alone = make(seed, 'alone')
        alone.train()
        assert not different(checkpoint(runners[seed], 3), checkpoint(alone, 3))
        assert history(runners[seed])['train/loss'] == history(alone)['train/loss'][3:]


# The second sampler has three batches, so the data is read twice.
@pytest.mark.parametrize('sampler', ['InfiniteSampler', 'DefaultSampler'])
def test_a_group_by_iterations_and_its_resuming(sampler, models, make_runner, settings, tmp_path, monkeypatch):
    monkeypatch.setattr('mmengine.runner.loops.time.sleep', lambda seconds: None)
    by_iterations = {
        'train_cfg': dict(_delete_=True, by_epoch=False, max_iters=6, val_interval=3),
        'train_dataloader.sampler': dict(_delete_=True, type=sampler, shuffle=True, seed=11),
        'param_scheduler.by_epoch': False, 'default_hooks.checkpoint.by_epoch': False,
        'default_hooks.checkpoint.interval': 2}
    model = with_seed(models['dropout']())

    def make(seed, folder, **options):
        return make_runner(model, f'{folder}/seed{seed}', seed=seed, **settings, **by_iterations, **options)

    runners = train_together(SEEDS, lambda seed: make(seed, 'together'))
    again = train_together(SEEDS, lambda seed: make(
        seed, 'again', resume=True, load_from=str(tmp_path / 'together' / f'seed{seed}' / 'iter_2.pth')))
    for seed in SEEDS:
        alone = make(seed, 'alone')
        alone.train()
        for runner in (runners[seed], again[seed]):
            saved = [torch.load(f'{each.work_dir}/iter_6.pth') for each in (runner, alone)]
            for part in ('state_dict', 'optimizer', 'rng_states', 'batch_rng_state'):
                assert not different(saved[0][part], saved[1][part]), part


# Ends

@pytest.mark.parametrize('error', [ValueError('no good'), SystemExit('no good'), KeyboardInterrupt()])
def test_a_failing_run_ends_all_and_is_named(error, models, make_runner, settings):
    model, runners = with_seed(models['at']()), {}

    def fail(runner, batch):
        if runner.seed == 0 and runner.iter == 4:
            raise error

    def make(seed):
        runner = runners[seed] = make_runner(model, f'seed{seed}', seed=seed, **settings)
        runner.register_hook(Do(fail))
        return runner

    with pytest.raises(type(error)) as raised:
        train_together(SEEDS, make)
    assert raised.value is error and error.seed == 0
    assert [runners[seed].iter for seed in SEEDS] == [5, 4]


def test_one_that_cannot_begin_ends_all(models, make_runner, settings):
    model = with_seed(models['at']())

    def make(seed):
        if seed == 0:
            raise OSError('disk')
        return make_runner(model, f'seed{seed}', seed=seed, **settings)

    with pytest.raises(OSError, match='disk') as raised:
        train_together(SEEDS, make)
    assert raised.value.seed == 0


# Refusals

class Subset(Digits):
    """Draws random numbers when it is built."""

    def __init__(self, **kwargs):
        super().__init__(**kwargs)
        torch.randperm(4)


class Noisy(Digits):

    def __getitems__(self, indices):
        np.random.rand()
        return super().__getitems__(indices)


class Shuffled(DefaultSampler):
    """Draws random numbers when it is built."""

    def __init__(self, **kwargs):
        super().__init__(**kwargs)
        torch.randperm(4)


class CustomLoop(EpochBasedTrainLoop):
    pass


class Order(DefaultSampler):

    def __iter__(self):
        return iter(torch.randperm(len(self.dataset)).tolist())


def no_stream(model):
    model['data_preprocessor'].pop('seed')


def other_preprocessor(model):
    model['data_preprocessor'] = dict(type='mmpretrain.ClsDataPreprocessor', num_classes=10)


@pytest.mark.parametrize('options, change, message', [
    ({}, no_stream, 'mmat.BatchPreprocessor.* BatchPreprocessor'),
    ({}, other_preprocessor, 'mmat.BatchPreprocessor.* ClsDataPreprocessor'),
    ({'train_dataloader.num_workers': 1}, None, 'num_workers=1'),
    ({'train_dataloader.dataset.type': 'Subset'}, None, 'Subset'),
    ({'train_dataloader.dataset.type': 'Noisy'}, None, 'loading .*mmat.BatchPreprocessor'),
    ({'train_dataloader.sampler.type': 'Order'}, None, 'loading .*mmat.BatchPreprocessor'),
    ({'train_dataloader.sampler.type': 'Shuffled'}, None, 'sampler'),
    ({'train_cfg': dict(_delete_=True, type='CustomLoop', max_epochs=1)}, None, 'EpochBasedTrainLoop.* CustomLoop'),
    ('other order', None, r'\(11, 0\) and \(12, 0\).*--batch-seed'),
    ('other crops', None, 'augmented .*--batch-seed'),
    ('other batch', None, 'hook'),
])
def test_runs_that_would_differ_from_a_run_alone_are_refused(options, change, message, network_config, make_runner,
                                                             settings):
    for registry, kind in ((DATASETS, Subset), (DATASETS, Noisy), (DATA_SAMPLERS, Order), (DATA_SAMPLERS, Shuffled),
                           (LOOPS, CustomLoop)):
        registry.register_module(module=kind, force=True)

    def make(seed):
        model = with_seed(network_config(), 12 if options == 'other crops' and seed == 0 else 11)
        if change:
            change(model)
        if isinstance(options, dict):
            settings.update(options)
        elif options == 'other order':
            settings['train_dataloader.sampler.seed'] = 12 if seed == 0 else 11
        runner = make_runner(model, f'seed{seed}', seed=seed, **settings)
        if options == 'other batch':
            runner.register_hook(Do(lambda runner, batch: batch.update(inputs=batch['inputs'] + 0)))
        return runner

    with pytest.raises(UserError if options in ('other order', 'other crops') else ConfigError, match=message):
        train_together(SEEDS, make)


def test_runners_are_mmengines_own(models, make_runner, settings):
    model = with_seed(models['at']())
    runner, = train_together([4], lambda seed: make_runner(model, f'seed{seed}', seed=seed, **settings)).values()
    assert type(runner) is Runner and isinstance(runner.model, Distiller)
    alone = make_runner(model, 'alone', seed=4, **settings)
    alone.train()
    assert_the_same_run(runner, alone)
