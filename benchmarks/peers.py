"""Time iterations of attention transfer in other toolboxes' training scripts.

Each runs unmodified from a checkout: RepDistiller (github.com/HobbitLong/RepDistiller), torchdistill
(github.com/yoshitomo-matsubara/torchdistill) and MMRazor (github.com/open-mmlab/mmrazor). All train WRN-16-1 with
attention transfer from an untrained WRN-16-2, with the three groups, the authors' form of the loss, random crops and
flips, and SGD with momentum. RepDistiller supports CIFAR-100 only and reads the images of CIFAR-10 in that layout. It
also computes the loss of knowledge distillation, at a weight of zero. MMRazor has no wide ResNets and uses mmat's, with
mmpretrain's CIFAR-10 and augmentation; it needs mmcv 2.0 or 2.1.
"""
import os
import pickle
import runpy
import sys
import time
from pathlib import Path
from types import ModuleType

import timed_training
from authors import skip_checksums
from common import StopTraining

_TORCHDISTILL = """
datasets:
  &train cifar10/train: !import_call
    key: 'torchvision.datasets.CIFAR10'
    init:
      kwargs:
        root: '{data}'
        train: True
        transform: !import_call
          key: 'torchvision.transforms.Compose'
          init:
            kwargs:
              transforms:
                - !import_call {{key: 'torchvision.transforms.RandomCrop', init: {{kwargs: {{size: 32, padding: 4}}}}}}
                - !import_call {{key: 'torchvision.transforms.RandomHorizontalFlip', init: {{kwargs: {{p: 0.5}}}}}}
                - !import_call {{key: 'torchvision.transforms.ToTensor', init: }}
                - !import_call
                  key: 'torchvision.transforms.Normalize'
                  init: {{kwargs: {{mean: [0.4914, 0.4822, 0.4465], std: [0.2470, 0.2435, 0.2616]}}}}
models:
  teacher_model:
    key: 'wide_resnet'
    kwargs: &network {{depth: 16, k: 2, dropout_p: 0.0, num_classes: 10, pretrained: False, progress: False}}
    src_ckpt:
  student_model:
    key: 'wide_resnet'
    kwargs: {{<<: *network, k: 1}}
    src_ckpt:
    dst_ckpt: '{folder}/student.pt'
train:
  log_freq: 100
  num_epochs: 200
  train_data_loader: &loader
    dataset_id: *train
    sampler: {{class_or_func: !import_get {{key: 'torch.utils.data.RandomSampler'}}, kwargs: }}
    kwargs: {{batch_size: {batch}, num_workers: {workers}, pin_memory: {cuda}, drop_last: False}}
    cache_output:
  val_data_loader: *loader
  teacher:
    forward_proc: 'forward_batch_only'
    sequential: []
    forward_hook: &layers {{input: [], output: ['layer1', 'layer2', 'layer3']}}
    wrapper: 'DataParallel'
    requires_grad: False
  student:
    forward_proc: 'forward_batch_only'
    adaptations:
    sequential: []
    frozen_modules: []
    forward_hook: *layers
    wrapper: 'DistributedDataParallel'
    requires_grad: True
  optimizer: {{key: 'SGD', kwargs: {{lr: 0.1, momentum: 0.9, weight_decay: 0.0005}}}}
  scheduler: {{key: 'MultiStepLR', kwargs: {{milestones: [60, 120, 160], gamma: 0.2}}}}
  criterion:
    key: 'WeightedSumLoss'
    kwargs:
      sub_terms:
        ce:
          criterion: {{key: 'CrossEntropyLoss', kwargs: {{reduction: 'mean'}}}}
          criterion_wrapper:
            key: 'SimpleLossWrapper'
            kwargs:
              input: {{is_from_teacher: False, module_path: '.', io: 'output'}}
              target: {{uses_label: True}}
          weight: 1.0
        at_loss:
          criterion:
            key: 'ATLoss'
            kwargs:
              at_pairs:
                pair1: {{teacher: &layer1 {{io: 'output', path: 'layer1'}}, student: *layer1}}
                pair2: {{teacher: &layer2 {{io: 'output', path: 'layer2'}}, student: *layer2}}
                pair3: {{teacher: &layer3 {{io: 'output', path: 'layer3'}}, student: *layer3}}
              mode: 'code'
          weight: 1000.0
"""


def torchdistill(checkout: str, data: str, folder: str, iterations: int, batch: int, workers: int) -> dict:
    """Train with this toolbox. Arguments and result are those of :func:`authors.run`."""
    import torch
    cuda = torch.cuda.is_available()
    config = Path(folder, 'config.yaml')
    config.write_text(_TORCHDISTILL.format(data=data, folder=folder, batch=batch, workers=workers, cuda=cuda))
    skip_checksums()
    return _run(checkout, 'examples/torchvision/image_classification.py', iterations, batch,
                '--config', str(config), '--device', 'cuda' if cuda else 'cpu')


def repdistiller(checkout: str, data: str, folder: str, iterations: int, batch: int, workers: int) -> dict:
    """Train with this toolbox. Arguments and result are those of :func:`authors.run`."""
    import torch
    os.chdir(folder)
    _write_as_cifar100(Path(data), Path('data', 'cifar-100-python'))
    skip_checksums()

    class Logger:
        """Stub of tensorboard_logger.Logger, which logs at the end of an epoch."""

        def __init__(self, logdir, flush_secs):
            pass

    sys.modules['tensorboard_logger'] = module = ModuleType('tensorboard_logger')
    module.Logger = Logger
    sys.path.insert(0, str(Path(checkout).resolve()))
    from models import model_dict
    teacher = Path('wrn_16_2_cifar100', 'teacher.pth')  # RepDistiller reads the network from the folder name
    teacher.parent.mkdir()
    torch.save(dict(model=model_dict['wrn_16_2'](num_classes=100).state_dict()), teacher)
    return _run(checkout, 'train_student.py', iterations, batch, '--path_t', str(teacher), '--distill', 'attention',
                '--model_s', 'wrn_16_1', '-a', '0', '-b', '1000', '--learning_rate', '0.1', '--batch_size', str(batch),
                '--num_workers', str(workers))


def mmrazor(checkout: str, data: str, folder: str, iterations: int, batch: int, workers: int) -> dict:
    """Train with this toolbox. Arguments and result are those of :func:`authors.run`."""
    from mmengine.config import Config
    from mmpretrain.datasets import CIFAR10

    from mmat.models.build import network_config
    CIFAR10._check_integrity = lambda self: True
    sys.path.insert(0, str(Path(checkout).resolve()))
    student, teacher = ({key: value for key, value in network_config(f'wrn16-{width}_1xb128_cifar10').items()
                         if key != 'data_preprocessor'} for width in (1, 2))
    groups = ['group0', 'group1', 'group2']
    recorders = {group: dict(type='ModuleOutputs', source=f'backbone.{group}') for group in groups}
    distiller = dict(
        type='ConfigurableDistiller', student_recorders=recorders, teacher_recorders=recorders,
        distill_losses={f'loss_{group}': dict(type='ATLoss', loss_weight=1000.) for group in groups},
        loss_forward_mappings={f'loss_{group}': dict(
            s_feature=dict(from_student=True, recorder=group),
            t_feature=dict(from_student=False, recorder=group)) for group in groups})
    config = Config(dict(
        default_scope='mmpretrain', custom_imports=dict(imports=['mmat.models']),
        model=dict(
            _scope_='mmrazor', type='SingleTeacherDistill', architecture=student, teacher=teacher, distiller=distiller,
            data_preprocessor=dict(type='mmpretrain.ClsDataPreprocessor', num_classes=10, mean=[125.3, 123., 113.9],
                                   std=[63., 62.1, 66.7], to_rgb=False)),
        train_dataloader=dict(
            batch_size=batch, num_workers=workers, sampler=dict(type='DefaultSampler', shuffle=True),
            dataset=dict(type='CIFAR10', data_root=data, split='train', pipeline=[
                dict(type='RandomCrop', crop_size=32, padding=4),
                dict(type='RandomFlip', prob=0.5, direction='horizontal'), dict(type='PackInputs')])),
        optim_wrapper=dict(optimizer=dict(type='SGD', lr=0.1, momentum=0.9, weight_decay=5e-4)),
        param_scheduler=dict(type='MultiStepLR', milestones=[60, 120, 160], gamma=0.2),
        train_cfg=dict(by_epoch=True, max_epochs=200)))
    config.dump(Path(folder, 'config.py'))
    return timed_training.run(iterations, str(Path(checkout, 'tools', 'train.py').resolve()),
                              str(Path(folder, 'config.py')), '--work-dir', folder)


def _run(checkout: str, script: str, iterations: int, batch: int, *arguments: str) -> dict:
    """Run a script for a number of optimizer steps, and record the time of each step."""
    from torch.optim.optimizer import register_optimizer_step_post_hook
    ends: list = []

    def record_time(*_):
        ends.append(time.time())
        if len(ends) == iterations:
            raise StopTraining

    checkout = Path(checkout).resolve()
    path, argv = list(sys.path), sys.argv
    sys.path[:0] = [str(checkout), str((checkout / script).parent)]
    sys.argv = [script, *arguments]
    handle = register_optimizer_step_post_hook(record_time)
    try:
        runpy.run_path(str(checkout / script), run_name='__main__')
    except StopTraining:
        return dict(ends=ends, images=batch)
    finally:
        handle.remove()
        sys.path[:], sys.argv = path, argv
    raise RuntimeError(f'Script {script} ended after {len(ends)} of {iterations} iterations.')


def _write_as_cifar100(data: Path, folder: Path) -> None:
    """Write CIFAR-10 in CIFAR-100's layout, with 128 test images."""

    def read(name):
        with open(data / 'cifar-10-batches-py' / name, 'rb') as file:
            content = pickle.load(file, encoding='latin1')
        return content['data'], list(content['labels'])

    import numpy as np
    folder.mkdir(parents=True)
    parts = [read(f'data_batch_{number}') for number in range(1, 6)]
    images, labels = read('test_batch')
    for name, content in dict(
            train=(np.concatenate([part[0] for part in parts]), sum((part[1] for part in parts), [])),
            test=(images[:128], labels[:128])).items():
        (folder / name).write_bytes(pickle.dumps(dict(data=content[0], fine_labels=content[1])))
    (folder / 'meta').write_bytes(pickle.dumps(dict(fine_label_names=[str(number) for number in range(100)])))
