import copy
import gc
import itertools
import logging
import os

# Test on the CPU, unless CUDA_VISIBLE_DEVICES is set.
os.environ.setdefault('CUDA_VISIBLE_DEVICES', '')
# Threads do not speed up networks this small.
os.environ.setdefault('OMP_NUM_THREADS', '1')

import pytest  # noqa: E402
import torch  # noqa: E402

# Shared checks fail with as much detail as assertions in tests.
pytest.register_assert_rewrite('backbone_checks')

DIGITS = dict(
    batch_size=32, num_workers=0, dataset=dict(type='mmat.Digits', split='train', train_size=64, size=8),
    sampler=dict(type='DefaultSampler', shuffle=True), collate_fn=dict(type='mmat.keep_batch'))


def network_config(widen_factor=1, mean=77.7, std=81.1, **kwargs):
    """Return the config of a WRN-10-k with augmentation."""
    return dict(
        type='mmpretrain.ImageClassifier',
        data_preprocessor=dict(
            type='mmat.BatchPreprocessor', mean=[mean] * 3, std=[std] * 3, padding=2, flip_prob=0.5),
        backbone=dict(type='mmat.WideResNet', depth=10, widen_factor=widen_factor),
        neck=dict(type='mmpretrain.GlobalAveragePooling'),
        head=dict(type='mmat.LinearClsHead', num_classes=10, in_channels=64 * widen_factor, cal_acc=True, topk=(1, )),
        **kwargs)


def pytest_collection_finish():
    """Exclude imported modules from garbage collection, which would take a fifth of the time."""
    gc.freeze()
    gc.set_threshold(20_000, 20, 50)


def pytest_unconfigure():
    gc.unfreeze()


@pytest.fixture(autouse=True)
def no_scope_from_an_earlier_test():
    """Remove the default scope of a Runner, which would affect types without a prefix in later tests."""
    yield
    from mmengine.registry import DefaultScope
    DefaultScope._instance_dict.clear()


@pytest.fixture(name='network_config', scope='session')
def network_config_fixture():
    return network_config


@pytest.fixture(scope='session')
def attention_config():
    """Return a function that makes configs of WRN-10-k with a spatial attention neck on the last two stages."""

    def make(widen_factor=1, **kwargs):
        widths = (32 * widen_factor, 64 * widen_factor)
        config = network_config(widen_factor, **kwargs)
        config['backbone']['out_indices'] = (1, 2)
        config['neck'] = dict(type='mmat.SpatialAttentionNeck', in_channels=widths, global_channels=widths[1])
        config['head'] = dict(type='mmat.ConcatClsHead', num_classes=10, in_channels=widths)
        return config

    return make


@pytest.fixture(scope='session')
def teacher_file(tmp_path_factory):
    """Return the path of a checkpoint of an untrained WRN-10-2."""
    from mmat.models import build_network
    torch.manual_seed(7)
    network = build_network(network_config(widen_factor=2))
    network.init_weights()
    path = tmp_path_factory.mktemp('teacher') / 'epoch_1.pth'
    torch.save(dict(state_dict=network.state_dict()), path)
    return str(path)


@pytest.fixture(scope='session')
def distiller_config(teacher_file):
    """Return a function that makes configs of WRN-10-1 under WRN-10-2.

    Its keywords change the distiller; ``head`` changes the distiller's only head.
    """

    def make(head=None, **kwargs):
        head = {**dict(type='mmat.ActivationATHead', pairs=[(0, 0), (1, 1), (2, 2)], weight=100.), **(head or {})}
        defaults = dict(
            type='mmat.Distiller', student=network_config(), at_heads=[head],
            teacher=dict(model=network_config(widen_factor=2), checkpoint=teacher_file))
        return {**defaults, **kwargs}

    return make


_runs = itertools.count()


@pytest.fixture
def make_runner(tmp_path, monkeypatch):
    """Return a function that makes Runners. They train on 64 digits of 8x8 pixels, two steps an epoch.

    Making one sets the seed and training it draws from it: train one before making the next.
    ``runner.log`` holds what the run logs, by level: a list of ``(levelname, message)``.
    """

    # mmengine writes the formatted config into every checkpoint; formatting it takes longer than the training.
    monkeypatch.setattr('mmengine.config.config.FormatCode', lambda text, **kwargs: (text, True))

    def make(model, work_dir='run', epochs=2, seed=0, validate=False, **settings):
        from mmengine.config import Config
        from mmengine.runner import Runner
        config = dict(
            model=model, work_dir=str(tmp_path / work_dir), default_scope='mmengine', log_level='CRITICAL',
            # mmengine keeps loggers and message hubs by this name after a run.
            experiment_name=f'run_{next(_runs)}', randomness=dict(seed=seed),
            train_dataloader=DIGITS, train_cfg=dict(by_epoch=True, max_epochs=epochs, val_interval=1),
            optim_wrapper=dict(optimizer=dict(type='SGD', lr=0.1, momentum=0.9, weight_decay=5e-4)),
            param_scheduler=dict(type='MultiStepLR', milestones=[1, 3], gamma=0.2),
            default_hooks=dict(
                checkpoint=dict(type='mmat.CheckpointHook', interval=1),
                distillation=dict(type='mmat.DistillationHook', validate_teacher=False)),
            visualizer=dict(type='Visualizer', vis_backends=None))
        if validate:
            dataset = dict(type='mmat.Digits', split='test', size=8, indices=50)
            config.update(
                val_dataloader={**DIGITS, 'dataset': dataset, 'sampler': dict(type='DefaultSampler', shuffle=False)},
                val_evaluator=dict(type='mmpretrain.Accuracy'), val_cfg=dict())
        config = Config(config)
        # merge_from_dict removes `_delete_` from its argument.
        config.merge_from_dict(copy.deepcopy(settings))
        runner = Runner.from_cfg(config)
        runner.log = []
        handler = logging.Handler()
        handler.emit = lambda record: runner.log.append((record.levelname, record.getMessage()))
        runner.logger.addHandler(handler)
        return runner

    return make
