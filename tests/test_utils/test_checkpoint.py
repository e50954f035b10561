import contextlib
import os
import pickle
import shutil
from collections import OrderedDict

import numpy as np
import pytest
import torch
import torch.nn as nn
from mmengine.logging import MessageHub
from mmengine.model import initialize

from mmat.errors import CheckpointError, MissingFileError
from mmat.utils.checkpoint import find_checkpoint, load_weights, read_checkpoint


def network(width=4):
    return nn.Sequential(OrderedDict(conv=nn.Conv2d(3, width, 3), bn=nn.BatchNorm2d(width), fc=nn.Linear(width, 2)))


def checkpoint(epoch=0):
    """A checkpoint whose weights all equal its epoch."""
    state = network().state_dict()
    return dict(state_dict=OrderedDict((key, torch.full_like(value, epoch)) for key, value in state.items()),
                meta=dict(epoch=epoch))


def work_dir(folder, epochs, pointer=None):
    folder.mkdir(parents=True)
    for epoch in epochs:
        torch.save(checkpoint(epoch), folder / f'epoch_{epoch}.pth')
    if pointer is not None:
        (folder / 'last_checkpoint').write_text(str(pointer))
    return folder


# find_checkpoint

@pytest.mark.parametrize('kind', [str, lambda path: path])
def test_a_file_is_itself(tmp_path, kind):
    folder = work_dir(tmp_path / 'run', [1])
    assert find_checkpoint(kind(folder / 'epoch_1.pth')) == str(folder / 'epoch_1.pth')


@pytest.mark.parametrize('url', ['https://a.b/c.pth', 'http://a.b/c.pth'])
def test_a_url_is_itself(url):
    assert find_checkpoint(url) == url


def test_a_work_dir_means_its_last_checkpoint(tmp_path):
    # Not the highest number: training was resumed from epoch 1 and has come to 2, beside an older run's epoch 3.
    folder = tmp_path / 'run'
    work_dir(folder, [1, 2, 3], folder / 'epoch_2.pth')
    assert find_checkpoint(folder) == str(folder / 'epoch_2.pth')


def test_a_pointer_relative_to_where_training_ran(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    work_dir(tmp_path / 'work_dirs' / 'run', [1, 2], 'work_dirs/run/epoch_1.pth\n')
    assert read_checkpoint('work_dirs/run')['meta']['epoch'] == 1
    # The same from elsewhere.
    monkeypatch.chdir('/')
    assert read_checkpoint(tmp_path / 'work_dirs' / 'run')['meta']['epoch'] == 1


def test_a_checkpoint_kept_outside_the_work_dir(tmp_path):
    # mmengine's CheckpointHook(out_dir=...) writes the files elsewhere and the pointer in the work directory.
    elsewhere = work_dir(tmp_path / 'elsewhere', [5])
    folder = work_dir(tmp_path / 'run', [], elsewhere / 'epoch_5.pth')
    assert find_checkpoint(folder) == str(elsewhere / 'epoch_5.pth')


def test_a_moved_folder(tmp_path):
    work_dir(tmp_path / 'old', [1, 2], tmp_path / 'old' / 'epoch_1.pth')
    shutil.move(tmp_path / 'old', tmp_path / 'new')
    assert find_checkpoint(tmp_path / 'new') == str(tmp_path / 'new' / 'epoch_1.pth')


def test_a_moved_folder_whose_old_place_is_taken_by_another_run(tmp_path):
    work_dir(tmp_path / 'run', [2], tmp_path / 'run' / 'epoch_2.pth')
    shutil.move(tmp_path / 'run', tmp_path / 'kept')
    work_dir(tmp_path / 'run', [2], tmp_path / 'run' / 'epoch_2.pth')
    assert find_checkpoint(tmp_path / 'kept') == str(tmp_path / 'kept' / 'epoch_2.pth')


@pytest.mark.parametrize('pointer', ['/nowhere/epoch_7.pth', '', 'garbage', None])
def test_a_dangling_pointer_gives_the_highest_epoch(tmp_path, pointer):
    # 10 comes after 9, although not in the alphabet; other files are none of a run's checkpoints.
    folder = work_dir(tmp_path / 'run', [1, 9, 10], pointer)
    for name in ('best_accuracy_epoch_99.pth', 'zzz.pth', 'epoch_50.txt'):
        (folder / name).write_bytes(b'')
    assert find_checkpoint(folder) == str(folder / 'epoch_10.pth')


def test_checkpoints_by_iteration(tmp_path):
    folder = tmp_path
    for name in ('iter_900.pth', 'iter_1000.pth'):
        (folder / name).write_bytes(b'')
    assert find_checkpoint(folder) == str(folder / 'iter_1000.pth')


def test_a_folder_without_checkpoint(tmp_path):
    (tmp_path / 'config.py').write_text('')
    with pytest.raises(MissingFileError) as error:
        find_checkpoint(tmp_path)
    for part in (repr(str(tmp_path)), 'last_checkpoint', 'epoch_*.pth'):
        assert part in str(error.value)


@pytest.mark.parametrize('name, close', [('epoch_20.pth', 'epoch_2.pth'), ('wrn16-2_cifra10', 'wrn16-2_cifar10')])
def test_a_missing_file_names_the_closest(tmp_path, name, close):
    work_dir(tmp_path / 'wrn16-2_cifar10', [1])
    # Folders without a checkpoint are not suggested.
    (tmp_path / 'wrn16-2_cifra').mkdir()
    for file in ('epoch_2.pth', 'epoch_20.log'):
        (tmp_path / file).write_bytes(b'')
    with pytest.raises(MissingFileError) as error:
        find_checkpoint(tmp_path / name)
    before, after = str(error.value).split(repr(str(tmp_path / name)))
    assert repr(str(tmp_path / close)) in after and '.log' not in after and 'cifra' not in after


def test_a_run_of_a_table_is_suggested_for_its_config(tmp_path):
    work_dir(tmp_path / 'table' / 'wrn16-2' / 'seed0', [1], 'epoch_1.pth')
    work_dir(tmp_path / 'wrn16-22', [1])
    with pytest.raises(MissingFileError) as error:
        find_checkpoint(tmp_path / 'wrn16-2')
    assert repr(str(tmp_path / 'table' / 'wrn16-2' / 'seed0')) in str(error.value)


def test_a_missing_folder_is_named(tmp_path):
    with pytest.raises(MissingFileError) as error:
        find_checkpoint(tmp_path / 'nowhere' / 'epoch_1.pth')
    assert repr(str(tmp_path / 'nowhere')) in str(error.value)


def test_a_missing_file_among_nothing_alike(tmp_path):
    with pytest.raises(MissingFileError) as error:
        find_checkpoint(tmp_path / 'epoch_1.pth')
    assert repr(str(tmp_path)) in str(error.value)


# read_checkpoint

@pytest.mark.parametrize('legacy', [False, True])
def test_reading(tmp_path, legacy):
    torch.save(checkpoint(3), tmp_path / 'a.pth', _use_new_zipfile_serialization=not legacy)
    content = read_checkpoint(tmp_path / 'a.pth')
    assert content['meta'] == dict(epoch=3)
    assert (content['state_dict']['fc.weight'] == 3).all()


def refused(path):
    with pytest.raises(CheckpointError) as caught:
        read_checkpoint(path)
    message = str(caught.value)
    assert repr(str(path)) in message
    assert '\n' not in message
    return message


@pytest.mark.parametrize('part', [0, 0.001, 0.01, 0.1, 0.5, 0.9, 0.99, 0.9999])
@pytest.mark.parametrize('legacy', [False, True])
def test_a_truncated_file(tmp_path, part, legacy):
    path = tmp_path / 'a.pth'
    torch.save(checkpoint(), path, _use_new_zipfile_serialization=not legacy)
    content = path.read_bytes()
    path.write_bytes(content[:int(part * len(content))])
    refused(path)


NO_CHECKPOINTS = dict(html=b'<!DOCTYPE html><html>404</html>', text=b'hello', newline=b'\n', zeros=b'\x00' * 100,
                      ones=b'\xff' * 100, zip=b'PK\x03\x04' + b'x' * 100, lfs=b'version https://git-lfs')


@pytest.mark.parametrize('content', NO_CHECKPOINTS.values(), ids=NO_CHECKPOINTS)
def test_a_file_that_is_something_else(tmp_path, content):
    path = tmp_path / 'a.pth'
    path.write_bytes(content)
    # A web page in place of a download is not reported as an unsafe object, nor is torch's advice repeated.
    message = refused(path)
    assert 'GLOBAL' not in message and 'weights_only' not in message
    assert 'Error)' in message  # the type of the reader's error


def test_a_file_that_holds_no_dict(tmp_path):
    torch.save([torch.zeros(1)], tmp_path / 'a.pth')
    assert 'list' in refused(tmp_path / 'a.pth')


class RunsCommand:

    def __init__(self, command):
        self.command = command

    def __reduce__(self):
        return os.system, (self.command, )


@pytest.mark.parametrize('legacy', [False, True])
def test_a_checkpoint_that_would_run_code_is_refused_and_not_run(tmp_path, legacy):
    bait, path = tmp_path / 'bait', tmp_path / 'a.pth'
    torch.save(checkpoint() | dict(hook=RunsCommand(f'touch {bait}')), path,
               _use_new_zipfile_serialization=not legacy)
    # The attack works without weights_only.
    torch.load(path, weights_only=False)
    assert bait.exists()
    bait.unlink()
    assert '.system' in refused(path)
    assert not bait.exists()


def test_a_checkpoint_with_a_module_in_it_is_refused(tmp_path):
    torch.save(dict(state_dict={}, model=network()), tmp_path / 'a.pth')
    assert 'torch.nn.modules.container.Sequential' in refused(tmp_path / 'a.pth')


def test_a_checkpoint_of_mmengine_with_its_history_is_read(tmp_path):
    hub = MessageHub('test_history')
    for value in (1., 2., 6.):
        hub.update_scalar('train/loss', value)
    hub.update_info('best', np.float64(3))
    torch.save(checkpoint() | dict(message_hub=hub.state_dict()), tmp_path / 'a.pth')
    with pytest.raises(pickle.UnpicklingError):  # plain torch refuses it
        torch.load(tmp_path / 'a.pth')
    content = read_checkpoint(tmp_path / 'a.pth')['message_hub']
    assert content['log_scalars']['train/loss'].mean() == 3
    assert content['runtime_info']['best'] == 3


class ReachesFurther:
    """Calls getattr for something other than a history's statistics."""

    def __reduce__(self):
        return getattr, (dict, 'fromkeys')


def test_getattr_is_not_let_in_with_the_history(tmp_path):
    torch.save(checkpoint() | dict(hook=ReachesFurther()), tmp_path / 'a.pth')
    assert "'dict'" in refused(tmp_path / 'a.pth')


def test_a_downloaded_checkpoint_is_not_run_either(tmp_path, monkeypatch):
    bait = tmp_path / 'bait'
    monkeypatch.setenv('TORCH_HOME', str(tmp_path))
    files = dict(good=checkpoint(), evil=dict(hook=RunsCommand(f'touch {bait}')))
    monkeypatch.setattr('torch.hub.download_url_to_file',
                        lambda url, file, *args: torch.save(files[url.split('/')[-1][:-4]], file))
    assert read_checkpoint('https://example.invalid/good.pth')['meta']['epoch'] == 0
    message = refused('https://example.invalid/evil.pth')
    assert not bait.exists()
    assert '.system' in message
    # The same through mmengine's init_cfg.
    for name, refusal in (('good', None), ('evil', r'\.system')):
        layer = nn.Linear(2, 2)
        layer.init_cfg = dict(type='Pretrained', checkpoint=f'https://example.invalid/{name}.pth')
        with pytest.raises(CheckpointError, match=refusal) if refusal else contextlib.nullcontext():
            initialize(layer, layer.init_cfg)
    assert not bait.exists()


# load_weights

def loaded(tmp_path, content, model=None):
    model = model or network()
    torch.save(content, tmp_path / 'a.pth')
    load_weights(model, tmp_path / 'a.pth')
    return model


@pytest.mark.parametrize('wrap', [
    lambda content: content,
    # A file may be the weights themselves, and those of a DDP model.
    lambda content: content['state_dict'],
    lambda content: dict(state_dict={f'module.{key}': value for key, value in content['state_dict'].items()}),
])
def test_every_weight_is_loaded(tmp_path, wrap):
    model = loaded(tmp_path, wrap(checkpoint(7)))
    assert all((value == 7).all() for value in model.state_dict().values())


def test_the_checkpoint_is_given_back(tmp_path):
    folder = work_dir(tmp_path / 'run', [4])
    assert load_weights(network(), folder)['meta'] == dict(epoch=4)


def misfit(tmp_path, content, model=None):
    with pytest.raises(CheckpointError, match='Sequential') as error:
        loaded(tmp_path, content, model)
    assert repr(str(tmp_path / 'a.pth')) in str(error.value)
    assert '\n' not in str(error.value)
    return str(error.value)


def test_missing_keys_are_named(tmp_path):
    content = checkpoint()
    del content['state_dict']['fc.bias']
    assert '1 key missing (fc.bias)' in misfit(tmp_path, content)


def test_unexpected_keys_are_named(tmp_path):
    content = checkpoint()
    content['state_dict']['head.fc.weight'] = torch.zeros(1)
    assert '1 key unexpected (head.fc.weight)' in misfit(tmp_path, content)


def test_the_weights_of_another_network(tmp_path):
    message = misfit(tmp_path, dict(state_dict=nn.Sequential(*[nn.Linear(1, 1)] * 3).state_dict()))
    # Three of each kind are listed.
    assert '8 keys missing (conv.weight; conv.bias; bn.weight; ...)' in message
    assert '6 keys unexpected (0.weight; 0.bias; 1.weight; ...)' in message


@pytest.mark.parametrize('counter', [True, False])
def test_the_weights_of_a_wider_network(counter, tmp_path):
    state = network(width=8).state_dict()
    if not counter:  # as in old checkpoints
        del state['bn.num_batches_tracked']
    message = misfit(tmp_path, dict(state_dict=state))
    assert 'conv.weight: (8, 3, 3, 3), expected (4, 3, 3, 3); conv.bias' in message and '7 keys' in message


def test_unexpected_keys_are_reported_rather_than_shapes(tmp_path):
    state = network(width=8).state_dict()
    message = misfit(tmp_path, dict(state_dict={**state, 'more': torch.zeros(1)}))
    assert '1 key unexpected (more)' in message and 'conv' not in message


def test_a_weight_that_is_no_tensor(tmp_path):
    assert 'fc.weight' in misfit(tmp_path, dict(state_dict=checkpoint()['state_dict'] | {'fc.weight': 'text'}))


def test_old_checkpoints_may_lack_the_counter_of_bn(tmp_path):
    content = checkpoint(7)
    del content['state_dict']['bn.num_batches_tracked']
    model = loaded(tmp_path, content)
    assert (model.bn.running_mean == 7).all() and model.bn.num_batches_tracked == 0


def test_loading_a_missing_file(tmp_path):
    with pytest.raises(MissingFileError):
        load_weights(network(), tmp_path / 'a.pth')


def test_a_checkpoint_without_a_state_dict(tmp_path):
    torch.save({0: torch.zeros(1)}, tmp_path / 'a.pth')
    with pytest.raises(CheckpointError, match='state_dict') as error:
        load_weights(network(), tmp_path / 'a.pth')
    assert repr(str(tmp_path / 'a.pth')) in str(error.value)
