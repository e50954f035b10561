import json

import torch
from device_reads import Reads
from mmengine.hooks import Hook
from mmengine.logging import HistoryBuffer

from mmat.engine import ScalarHistory

MMAT = dict(runtime_info=dict(type='mmat.RuntimeInfoHook'))


class Begin(Hook):
    """With :class:`End`, counts reads from the device in iterations; between epochs the loader reads its own."""

    priority = 'HIGHEST'

    def __init__(self, reads):
        self.reads = reads

    def before_train_iter(self, runner, batch_idx, data_batch=None):
        # The first iteration compares the networks' preprocessing.
        if runner.iter > 0:
            self.reads.__enter__()


class End(Begin):
    priority = 'LOWEST'

    def before_train_iter(self, runner, batch_idx, data_batch=None):
        pass

    def after_train_iter(self, runner, batch_idx, data_batch=None, outputs=None):
        if runner.iter > 0:
            self.reads.__exit__(None, None, None)


def settings(hooks, **kwargs):
    hooks = {**hooks, 'logger': dict(type='LoggerHook', interval=3, ignore_last=False),
             'checkpoint': dict(type='mmat.CheckpointHook', interval=1),
             'distillation': dict(type='mmat.DistillationHook', validate_teacher=False)}
    return dict(default_hooks=hooks, visualizer=dict(type='Visualizer', vis_backends=[dict(type='LocalVisBackend')]),
                log_processor=dict(custom_cfg=[dict(
                    data_src='accuracy_top-1', log_name='accuracy_epoch', method_name='mean', window_size='epoch')]),
                **kwargs)


def logged(runner, tmp_path, work_dir):
    lines = [json.loads(line) for path in (tmp_path / work_dir).glob('*/vis_data/scalars.json')
             for line in path.read_text().splitlines()]
    return [{key: value for key, value in line.items() if 'time' not in key} for line in lines]


def test_what_is_logged_is_what_mmengines_own_logs(make_runner, distiller_config, tmp_path):
    results = []
    for name, hooks in (('theirs', {}), ('mine', MMAT)):
        runner = make_runner(distiller_config(), name, epochs=4, validate=True, **settings(hooks))
        runner.train()
        results.append(logged(runner, tmp_path, name))
    assert len(results[0]) >= 6 and {'loss', 'lr', 'accuracy_epoch', 'loss_at.backbone.group0'} <= {*results[0][0]}
    assert results[0] == results[1]


def test_all_histories_are_scalar_histories(make_runner, distiller_config):
    runner = make_runner(distiller_config(), **settings(MMAT))
    runner.message_hub.update_scalar('train/of a checkpoint', 3.)
    runner.train()
    histories = {key: type(value) for key, value in runner.message_hub.log_scalars.items() if key.startswith('train/')}
    assert {'train/loss', 'train/lr', 'train/time', 'train/of a checkpoint'} <= {*histories}
    assert set(histories.values()) == {ScalarHistory}
    assert runner.message_hub.get_scalar('train/of a checkpoint').current() == 3


def test_no_iteration_waits_for_the_device_between_two_lines_of_the_log(make_runner, distiller_config):
    counts = {}
    for name, hooks in (('theirs', {}), ('mine', MMAT)):
        # The last iteration of all is always logged.
        hooks = {**hooks, 'logger': dict(type='LoggerHook', interval=100, ignore_last=True, log_metric_by_epoch=False),
                 'distillation': dict(type='mmat.DistillationHook', validate_teacher=False)}
        runner = make_runner(distiller_config(), name, epochs=3, **{**settings({}), 'default_hooks': hooks})
        reads = Reads()
        runner.register_hook(Begin(reads))
        runner.register_hook(End(reads))
        runner.train()
        counts[name] = reads.count
    assert counts['mine'] == 0
    # Had nothing been counted, the first assertion would mean nothing.
    assert counts['theirs'] > 20


def test_a_value_that_is_no_tensor_is_logged_too(make_runner, network_config):
    runner = make_runner(network_config(), **settings(MMAT))
    step = runner.model.train_step
    others = dict(plain=4, array=torch.tensor(2.).numpy())
    runner.model.train_step = lambda *args, **kwargs: {**step(*args, **kwargs), **others}
    runner.train()
    assert runner.message_hub.get_scalar('train/plain').data[0].tolist() == [4] * 4
    assert runner.message_hub.get_scalar('train/array').current() == 2


def test_the_checkpoint_does_not_grow(make_runner, distiller_config, tmp_path):
    runner = make_runner(distiller_config(), epochs=12, **settings(MMAT))
    runner.train()
    sizes = {(tmp_path / 'run' / f'epoch_{epoch}.pth').stat().st_size for epoch in (2, 12)}
    # The archive pads to whole blocks.
    assert max(sizes) - min(sizes) < 2000


def test_mmengines_own_checkpoint_hook_reads_without_mmat(make_runner, network_config, tmp_path):
    runner = make_runner(network_config(), **{**settings(MMAT), 'default_hooks': {
        **MMAT, 'checkpoint': dict(type='CheckpointHook', interval=1)}})
    runner.train()
    content = torch.load(tmp_path / 'run' / 'epoch_2.pth', weights_only=False)
    assert {type(value) for value in content['message_hub']['log_scalars'].values()} <= {HistoryBuffer}
