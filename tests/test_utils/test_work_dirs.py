from pathlib import Path

import pytest

from mmat.errors import CheckpointError
from mmat.utils.work_dirs import common_checkpoint


def folders(tmp_path, **names):
    for folder, files in names.items():
        (tmp_path / folder).mkdir()
        for name in files:
            (tmp_path / folder / name).touch()
    return [tmp_path / folder for folder in names]


@pytest.mark.parametrize('names, expected', [
    # Two of each are kept; the number counts, not the text.
    (dict(seed0=['epoch_9.pth', 'epoch_10.pth'], seed1=['epoch_9.pth', 'epoch_10.pth']), 'epoch_10.pth'),
    (dict(seed0=['epoch_9.pth', 'epoch_10.pth'], seed1=['epoch_9.pth', 'epoch_8.pth', 'best_x_epoch_10.pth']),
     'epoch_9.pth'),
    (dict(seed0=['iter_200.pth'], seed1=['iter_200.pth', 'iter_300.pth']), 'iter_200.pth'),
    # Nothing yet, or stopped while they saved their first.
    (dict(seed0=[], seed1=[]), None),
    (dict(seed0=['epoch_1.pth', 'last_checkpoint'], seed1=[]), None),
])
def test_the_last_checkpoint_that_all_have(names, expected, tmp_path):
    assert common_checkpoint(folders(tmp_path, **names)) == expected


def test_folders_that_are_not_there_yet_have_no_checkpoint(tmp_path):
    assert common_checkpoint([tmp_path / 'seed0', Path('nowhere')]) is None


@pytest.mark.parametrize('names, state', [
    # A seed that joins late.
    (dict(seed0=['epoch_59.pth', 'epoch_60.pth'], seed1=[]), 'seed0 .*epoch_60.pth, seed1 .*epoch_N.pth'),
    (dict(seed0=['epoch_4.pth'], seed1=['epoch_5.pth']), 'seed0 .*epoch_4.pth, seed1 .*epoch_5.pth'),
    (dict(seed0=['latest.pth', 'last_checkpoint'], seed1=['latest.pth', 'last_checkpoint']),
     'seed0 .*epoch_N.pth.*, seed1 .*epoch_N.pth'),
    (dict(seed0=['latest.pth', 'last_checkpoint'], seed1=[]), 'seed0 .*epoch_N.pth.*, seed1 .*epoch_N.pth'),
])
def test_checkpoints_without_a_common_one_are_not_overwritten(names, state, tmp_path):
    with pytest.raises(CheckpointError, match=state):
        common_checkpoint(folders(tmp_path, **names))
