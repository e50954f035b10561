#!/usr/bin/env python
"""R4: images/s of attention transfer training on CIFAR-10, compared with other projects' scripts.

    git clone https://github.com/szagoruyko/attention-transfer ../attention-transfer
    python benchmarks/whole.py --authors ../attention-transfer

WRN-16-1 with attention transfer from WRN-16-2. mmat runs tools/train.py in several settings, including loader,
augmentation, hooks and logging. The others run their unmodified scripts from checkouts, in fp32 with their PIL loaders:
the original authors' cifar.py (see authors.py) and other toolboxes (see peers.py). All use the same networks, batch
size, losses and optimizer, with crops and flips. Without a checkout, mmat is compared with the plain eager fp32 loop
with PIL workers defined here. Each measurement runs in a new process; they take turns. Warm-up iterations are not
counted.
"""
import argparse
import json
import sys
import tempfile
from functools import partial
from pathlib import Path
from typing import Callable, NamedTuple

import authors
import peers
from common import ROOT, add_arguments, alternate, describe_threads, finish, in_process, ratio, row, spread, start
from timed_training import images_per_second, run, save_untrained

CONFIG = 'wrn16-1_at-wrn16-2_1xb128_cifar10'
TEACHER = 'wrn16-2_1xb128_cifar10'
CHANNELS_LAST = 'data_preprocessor.channels_last=True'
# Setting -> (arguments of tools/train.py, options of its config, goal).
ON_CPU = {
    'fp32': (['--fp32'], [], '>= 1.2'),
    'fp32, allocator, channels_last': (['--fp32'], [CHANNELS_LAST], ''),
    'recommended (bf16, allocator, channels_last)': ([], [], '>= 2.2'),
}
ON_GPU = {
    'fp32': ([], [], '>= 1.2'),
    'fp32, channels_last': ([], [CHANNELS_LAST], ''),
    'mixed precision, channels_last': (['--amp'], [CHANNELS_LAST], '>= 5'),
}
PLAIN = 'a plain eager loop, PIL-fed'


class Peer(NamedTuple):
    """Another project: name, repository, a file that identifies a checkout, and the function that runs it."""
    name: str
    repository: str
    script: str
    run: Callable[..., dict]


# Command line option for the checkout -> project.
PEERS = {
    'authors': Peer("the authors' script", 'szagoruyko/attention-transfer', 'cifar.py', authors.run),
    'repdistiller': Peer('RepDistiller', 'HobbitLong/RepDistiller', 'train_student.py', peers.repdistiller),
    'torchdistill': Peer('torchdistill', 'yoshitomo-matsubara/torchdistill',
                         'examples/torchvision/image_classification.py', peers.torchdistill),
    'mmrazor': Peer('MMRazor', 'open-mmlab/mmrazor', 'mmrazor/models/losses/at_loss.py', peers.mmrazor),
}


def settings() -> dict:
    """Return the settings of mmat to measure on this machine."""
    import torch
    return ON_GPU if torch.cuda.is_available() else ON_CPU


def train_mmat(name, args, folder):
    """Train with tools/train.py in a setting. Return the result of :func:`timed_training.run`."""
    arguments, options, _ = settings()[name]
    if 'allocator' in name and '--fp32' in arguments:
        from mmat.utils.cpu import keep_freed_memory
        keep_freed_memory()
    return run(
        args.iterations, str(ROOT / 'tools' / 'train.py'), CONFIG, '--work-dir', folder, *arguments, '--cfg-options',
        f'model.teacher.checkpoint={save_untrained(TEACHER, f"{folder}/teacher.pth")}',
        f'train_dataloader.batch_size={args.batch}', f'train_dataloader.dataset.data_root={args.data}',
        f'val_dataloader.dataset.data_root={args.data}',
        'default_hooks.distillation.validate_teacher=False', *options)


def train_plain_loop(data, folder, iterations, batch, workers):
    """Train with a careful plain PyTorch loop: fp32, NCHW, PIL images and torchvision transforms in workers."""
    import time

    import torch
    import torch.nn.functional as F
    import torchvision.transforms as T
    from PIL import Image
    from torch.utils.data import DataLoader, Dataset

    from mmat.datasets import CIFAR10
    from mmat.models import build_network
    device = 'cuda' if torch.cuda.is_available() else 'cpu'
    torch.backends.cudnn.benchmark = True
    content = CIFAR10(data_root=data, split='train')

    class Images(Dataset):
        arrays, labels = content.images.permute(0, 2, 3, 1).contiguous().numpy(), content.labels.tolist()
        transform = T.Compose([
            T.Pad(4, padding_mode='reflect'), T.RandomHorizontalFlip(), T.RandomCrop(32), T.ToTensor(),
            T.Normalize([125.3 / 255, 123 / 255, 113.9 / 255], [63 / 255, 62.1 / 255, 66.7 / 255])])

        def __len__(self):
            return len(self.labels)

        def __getitem__(self, index):
            return self.transform(Image.fromarray(self.arrays[index])), self.labels[index]

    def forward(network, x):
        x, groups = network.backbone.conv0(x), []
        for name in network.backbone.stage_names:
            x = getattr(network.backbone, name)(x)
            groups.append(x)
        return network.head.fc(F.relu(network.backbone.bn(x)).mean((2, 3))), groups

    def attention(x):
        return F.normalize(x.pow(2).mean(1).flatten(1))

    student, teacher = (build_network(f'wrn16-{width}_1xb128_cifar10').to(device) for width in (1, 2))
    student.train()
    teacher.eval()
    optimizer = torch.optim.SGD(student.parameters(), 0.1, 0.9, weight_decay=5e-4)
    ends = []
    while True:
        for images, labels in DataLoader(Images(), batch, shuffle=True, num_workers=workers,
                                         pin_memory=device == 'cuda'):
            images, labels = images.to(device), labels.to(device)
            logits, groups = forward(student, images)
            with torch.no_grad():
                targets = forward(teacher, images)[1]
            loss = F.cross_entropy(logits, labels)
            for s, t in zip(groups, targets):
                loss = loss + 1e3 * (attention(s) - attention(t)).square().mean()
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            loss.item()  # scripts log the loss of each iteration
            ends.append(time.time())
            if len(ends) == iterations:
                return dict(ends=ends, images=batch)


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    add_arguments(parser)
    for option, peer in PEERS.items():
        parser.add_argument(f'--{option}', metavar='PATH', help=f'checkout of github.com/{peer.repository}')
    parser.add_argument('--data', default=str(ROOT / 'data' / 'cifar10'), help='folder of CIFAR-10')
    parser.add_argument('--iterations', type=int, default=60, help='iterations of a measurement; default: 60')
    parser.add_argument('--skip', type=int, default=10, help='warm-up iterations, not counted; default: 10')
    parser.add_argument('--batch', type=int, default=128)
    parser.add_argument('--workers', type=int, default=2, help="workers of the other projects' loaders; default: 2")
    parser.add_argument('--one', help=argparse.SUPPRESS)
    args = parser.parse_args()
    args.data = str(Path(args.data).resolve())
    if not 1 <= args.skip <= args.iterations - 1:
        parser.error(f'--skip must be from 1 to {args.iterations - 1}, got {args.skip}.')
    checkouts = {peer: str(Path(getattr(args, option)).resolve()) for option, peer in PEERS.items()
                 if getattr(args, option)}
    for peer, checkout in checkouts.items():
        if not (Path(checkout) / peer.script).is_file():
            parser.error(f'The folder {checkout} is not a checkout of {peer.repository}: it has no {peer.script}.')
    others = {peer.name: partial(peer.run, checkout) for peer, checkout in checkouts.items()}
    others = others or {PLAIN: train_plain_loop}
    if args.one:
        with tempfile.TemporaryDirectory() as folder:
            timed = (others[args.one](args.data, folder, args.iterations, args.batch, args.workers)
                     if args.one in others else train_mmat(args.one, args, folder))
            print(json.dumps(images_per_second(timed, args.skip)))
        return
    start(args)
    speeds = alternate({name: partial(in_process, *sys.argv[1:], '--one', name) for name in [*others, *settings()]},
                       args.repeats)
    common = f'batch {args.batch}, {describe_threads()}, {args.workers} workers'
    rows = [row('R4', 'images/s of AT training', spread(speeds[name]), 'images/s', '', args.repeats,
                f'{name}, {common}') for name in speeds]
    for other in others:
        # The goals of the settings refer to the authors' script. The goal against other toolboxes is to be as fast.
        has_goals = other in (PLAIN, PEERS['authors'].name)
        rows += [row('R4', f'images/s of AT training / {other}', ratio(speeds, name, other), 'ratio',
                     goal if has_goals else '>= 1', args.repeats, f'{name}, {common}')
                 for name, (_, _, goal) in settings().items()]
    finish(rows, args)


if __name__ == '__main__':
    main()
