import subprocess
import sys
from pathlib import Path

import pytest
import torch
from mmengine.config import Config

from mmat.attention import soft_target_loss
from mmat.models import build_network
from mmat.registry import MODELS

PROJECT = Path(__file__).parents[1]
CONFIG = PROJECT / 'configs' / 'wrn16-1_dkd-wrn16-2_1xb10_digits.py'


@pytest.fixture(autouse=True)
def dkd_on_path(monkeypatch):
    monkeypatch.syspath_prepend(str(PROJECT))


def test_weighted_parts_sum_to_knowledge_distillation():
    """Equation 6 of the paper: KD = TCKD + (1 - p_t) NCKD, sample by sample."""
    from dkd import DecoupledKDHead

    from mmat.models import NetworkOutputs
    generator = torch.Generator().manual_seed(0)
    for target in range(4):
        student, teacher = torch.randn(2, 1, 4, generator=generator)
        p_target = (teacher / 3).softmax(1)[0, target].item()
        head = DecoupledKDHead(T=3, alpha=1, beta=1 - p_target)
        losses = head.loss(
            NetworkOutputs(logits=student, targets=torch.tensor([target])), NetworkOutputs(logits=teacher))
        expected = soft_target_loss(student, teacher, T=3).item()
        assert sum(losses.values()).item() == pytest.approx(expected, rel=1e-5)


def test_the_config_finds_the_head_through_custom_imports():
    config = Config.fromfile(CONFIG)
    distiller = MODELS.build({**config.model, 'teacher': build_network('wrn16-2_1xb32_digits')})
    head, = distiller.at_heads
    assert type(head).__module__ == 'dkd.head' and (head.T, head.alpha, head.beta) == (4, 1, 8)


def test_training(tmp_path):
    root = PROJECT.parents[1]
    teacher = tmp_path / 'teacher.pth'
    torch.save(dict(state_dict=build_network('wrn16-2_1xb32_digits').state_dict()), teacher)
    command = [
        sys.executable, 'tools/train.py', str(CONFIG), '--work-dir', str(tmp_path / 'run'), '--seed', '0',
        '--cfg-options', f'model.teacher.checkpoint={teacher}', 'train_cfg.max_epochs=1',
        'train_dataloader.dataset.train_size=50', 'val_dataloader.dataset.indices=20']
    done = subprocess.run(command, cwd=root, env={'PYTHONPATH': str(PROJECT), 'PATH': '/usr/bin:/bin'},
                          capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    log, = tmp_path.glob('run/*/vis_data/scalars.json')
    assert 'loss_dkd.target' in log.read_text() and 'loss_dkd.others' in log.read_text()
    assert (tmp_path / 'run' / 'epoch_1.pth').is_file()
