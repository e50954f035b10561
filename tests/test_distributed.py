"""Two processes with half the batch each match one process with the whole batch."""
import logging
import os
import socket
from pathlib import Path

import pytest
import torch
import torch.distributed as dist
import torch.multiprocessing as mp
import torch.nn as nn
from mmengine.config import Config
from mmengine.model import MMDistributedDataParallel
from mmengine.runner import Runner

from mmat.apis.launch import build_runner
from mmat.datasets import BatchedSamples
from mmat.registry import MODELS
from mmat.utils.checkpoint import load_weights


@MODELS.register_module(force=True)
class GroupNormNet(nn.Module):
    """A small network whose normalisation is independent of the rest of the batch."""

    stage_names = ('group0', 'group1')

    def __init__(self):
        super().__init__()
        self.group0 = nn.Sequential(nn.Conv2d(3, 8, 3, padding=1), nn.GroupNorm(2, 8), nn.ReLU())
        self.group1 = nn.Sequential(nn.Conv2d(8, 16, 3, 2, 1), nn.GroupNorm(4, 16), nn.ReLU())

    def forward(self, x):
        return (self.group1(self.group0(x)), )


def images():
    generator = torch.Generator().manual_seed(0)
    return (torch.randn(8, 3, 8, 8, generator=generator, dtype=torch.float64),
            torch.randint(0, 10, (8, ), generator=generator))


def loss_and_gradients(config, rank, world_size):
    """Losses and gradients of one process's share of the batch, with BN in eval mode."""
    torch.manual_seed(0)
    distiller = MODELS.build(config)
    distiller.init_weights()
    distiller.prepare_teacher()
    distiller.double().train()
    for module in distiller.modules():
        if isinstance(module, nn.BatchNorm2d):
            module.eval()
    model = distiller if world_size == 1 else MMDistributedDataParallel(distiller, broadcast_buffers=False)
    inputs, labels = images()
    losses = model(inputs[rank::world_size], BatchedSamples(labels[rank::world_size]), mode='loss')
    total, log = distiller.parse_losses(losses)
    total.backward()
    log = {key: value.detach().clone() for key, value in log.items()}
    for value in log.values():
        if world_size > 1:
            dist.all_reduce(value)
            value /= world_size
    return log, {name: parameter.grad for name, parameter in distiller.named_parameters()}


def train(config, make=Runner.from_cfg):
    """Train. Return the runner and the teacher's lines of the log."""
    runner = make(config)
    lines = []
    handler = logging.Handler()
    handler.emit = lambda record: lines.append(record.getMessage())
    runner.logger.addHandler(handler)
    runner.train()
    return runner, [line.split(' (')[0] for line in lines if line.startswith('Teacher ')]


def in_two_processes(rank, folder, port, configs, run):
    torch.set_num_threads(1)
    os.environ.update(RANK=str(rank), WORLD_SIZE='2', LOCAL_RANK=str(rank), MASTER_PORT=port)
    run = Config({**run, 'launcher': 'pytorch', 'work_dir': f'{folder}/run'})
    run.train_dataloader.batch_size //= 2
    # As the tools do; this initializes the process group.
    runner, teacher = train(run, make=lambda config: build_runner(config, fp32=True))
    results = dict(teacher=teacher, ranks=[], parameters=[])
    for value in (rank, torch.nn.utils.parameters_to_vector(runner.model.parameters()).detach()):
        gathered = [None, None]
        dist.all_gather_object(gathered, value)
        results['ranks' if value is rank else 'parameters'] = gathered

    # As tools/test.py under a launcher.
    try:
        load_weights(runner.model, f'{folder}/run/epoch_1.pth')
        results['loaded'] = runner.model.module.state_dict()
    except ValueError as error:
        results['loaded'] = str(error)

    resumed = Config({**run, 'experiment_name': 'resumed', 'work_dir': f'{folder}/resumed', 'resume': True,
                      'load_from': f'{folder}/run/epoch_1.pth'})
    train(resumed)
    results['gradients'] = {name: loss_and_gradients(config, rank, 2) for name, config in configs.items()}
    if rank == 0:
        torch.save(results, f'{folder}/results.pth')
    # gloo aborts a process whose peer has exited.
    dist.barrier()
    dist.destroy_process_group()


def group_norm_network():
    return dict(
        type='mmpretrain.ImageClassifier',
        data_preprocessor=dict(
            type='mmat.BatchPreprocessor', mean=[77.7] * 3, std=[81.1] * 3, padding=2, flip_prob=0.5),
        backbone=dict(type='mmat.GroupNormNet'), neck=dict(type='mmpretrain.GlobalAveragePooling'),
        head=dict(type='mmat.LinearClsHead', num_classes=10, in_channels=16))


@pytest.fixture(scope='module')
def compared(distiller_config):
    """Distillers whose gradients are compared, by name."""
    # Weights that make each head a large part of the total.
    weights = dict(GradientATHead=100., GradientNormHead=200., FlipSymmetryHead=300.)
    heads = [dict(type=f'mmat.{kind}', weight=weight) for kind, weight in weights.items()]
    return dict(activation=distiller_config(head=dict(weight=1e3)),
                gradient=distiller_config(student=group_norm_network(), at_heads=heads))


@pytest.fixture(scope='module')
def run_config(distiller_config):
    loader = dict(batch_size=32, num_workers=0, collate_fn=dict(type='mmat.keep_batch'))
    return dict(
        model=distiller_config(student=group_norm_network(), head=dict(pairs=[(0, 0), (1, 1)])),
        default_scope='mmengine', launcher='none', log_level='CRITICAL', experiment_name='run',
        randomness=dict(seed=0),
        train_dataloader=dict(**loader, dataset=dict(type='mmat.Digits', split='train', train_size=64, size=8),
                              sampler=dict(type='DefaultSampler', shuffle=True)),
        # An odd number, so that one process pads.
        val_dataloader=dict(**loader, dataset=dict(type='mmat.Digits', split='test', size=8, indices=51),
                            sampler=dict(type='DefaultSampler', shuffle=False)),
        val_evaluator=dict(type='mmpretrain.Accuracy'), val_cfg=dict(), train_cfg=dict(by_epoch=True, max_epochs=2),
        optim_wrapper=dict(optimizer=dict(type='SGD', lr=0.1, momentum=0.9)),
        param_scheduler=dict(type='MultiStepLR', milestones=[1]),
        default_hooks=dict(checkpoint=dict(type='mmat.CheckpointHook', interval=1),
                           distillation=dict(type='mmat.DistillationHook'), sync=dict(type='SyncBuffersHook')),
        visualizer=dict(type='Visualizer', vis_backends=None))


@pytest.fixture(scope='module')
def results(tmp_path_factory, compared, run_config):
    folder = tmp_path_factory.mktemp('two_processes')
    with socket.socket() as free:
        free.bind(('127.0.0.1', 0))
        port = str(free.getsockname()[1])
    mp.spawn(in_two_processes, (str(folder), port, compared, run_config), nprocs=2)
    return dict(torch.load(folder / 'results.pth', weights_only=True), folder=folder)


def checkpoint(folder, name):
    return torch.load(Path(folder) / name, weights_only=True)


@pytest.mark.parametrize('name, heads', [('activation', ['at']), ('gradient', ['gradat', 'minl2', 'flipsym'])])
def test_loss_and_gradients_equal_the_whole_batch(name, heads, results, compared):
    log, gradients = results['gradients'][name]
    expected_log, expected = loss_and_gradients(compared[name], 0, 1)
    # The transfer losses are a large part of the total.
    for head in heads:
        assert sum(value for key, value in expected_log.items() if key.startswith(f'loss_{head}')) > 0.1
    assert log.keys() == expected_log.keys() and gradients.keys() == expected.keys()
    for key, value in expected_log.items():
        torch.testing.assert_close(log[key], value, rtol=1e-10, atol=1e-12, msg=lambda m, key=key: f'{key}: {m}')
    for key, value in expected.items():
        torch.testing.assert_close(gradients[key], value, rtol=1e-8, atol=1e-10, msg=lambda m, key=key: f'{key}: {m}')


def test_a_run_gives_the_weights_of_one_process(results, run_config, tmp_path):
    _, teacher = train(Config({**run_config, 'experiment_name': 'alone', 'work_dir': str(tmp_path)}))
    for epoch in (1, 2):
        alone, together = (checkpoint(folder, f'epoch_{epoch}.pth')['state_dict']
                           for folder in (tmp_path, results['folder'] / 'run'))
        assert alone.keys() == together.keys()
        for key, value in alone.items():
            torch.testing.assert_close(together[key], value, rtol=1e-5, atol=1e-5)
    assert len(teacher) == 1 and results['teacher'] == teacher


def test_the_processes_keep_equal_weights(results):
    assert results['ranks'] == [0, 1]
    assert torch.equal(*results['parameters'])


def test_it_resumes_to_the_bit(results):
    straight, resumed = (checkpoint(results['folder'] / name, 'epoch_2.pth') for name in ('run', 'resumed'))
    for key, value in straight['state_dict'].items():
        assert torch.equal(resumed['state_dict'][key], value), key
    assert len(straight['rng_states']) == 2


def test_weights_load_into_a_wrapped_model(results):
    expected = checkpoint(results['folder'] / 'run', 'epoch_1.pth')['state_dict']
    assert not isinstance(results['loaded'], str), results['loaded']
    assert results['loaded'].keys() == expected.keys()
    for key, value in expected.items():
        assert torch.equal(results['loaded'][key], value), key
