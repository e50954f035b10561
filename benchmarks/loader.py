#!/usr/bin/env python
"""R3: images/s of the CIFAR loader with crop and flip, compared with torchvision's PIL pipeline.

    python benchmarks/loader.py [--repeats 7] [--batches 300] [--data-root data/cifar10] [--record]

Both load shuffled, augmented and normalised float batches of 128 training images with torch's DataLoader: mmat in this
process, with the data preprocessor of the config, channels_last memory and the allocator of the recommended CPU
setting; torchvision with two workers. They take turns. The loader's share of an epoch is its share of the time of a
training iteration (WRN-16-1 with attention transfer from WRN-16-2).
"""
import argparse
import time

from common import add_arguments, alternate, describe_threads, finish, ratio, row, spread, start
from mmengine.config import Config
from mmengine.registry import FUNCTIONS
from PIL import Image
from torch.utils.data import DataLoader, Dataset
from torchvision import transforms

from mmat.datasets import CIFAR10
from mmat.registry import MODELS
from mmat.utils.cpu import keep_freed_memory
from mmat.utils.zoo import find_config

CONFIG = 'wrn16-1_1xb128_cifar10'


class PILImages(Dataset):
    """Single images with torchvision's transforms."""

    def __init__(self, dataset: CIFAR10, mean: list, std: list):
        self.images = dataset.images.permute(0, 2, 3, 1).contiguous().numpy()
        self.labels = dataset.labels.tolist()
        self.transform = transforms.Compose([
            transforms.Pad(4, padding_mode='reflect'),
            transforms.RandomHorizontalFlip(),
            transforms.RandomCrop(32),
            transforms.ToTensor(),
            transforms.Normalize([each / 255 for each in mean], [each / 255 for each in std]),
        ])

    def __len__(self) -> int:
        return len(self.images)

    def __getitem__(self, index: int) -> tuple:
        return self.transform(Image.fromarray(self.images[index])), self.labels[index]


def seconds_per_batch(loader: DataLoader, prepare, batches: int) -> float:
    """Return the mean time over ``batches`` batches of one epoch, after the first ten."""
    iterator = iter(loader)
    for _ in range(10):
        prepare(next(iterator))
    begin = time.perf_counter()
    for _ in range(batches):
        prepare(next(iterator))
    return (time.perf_counter() - begin) / batches


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    add_arguments(parser, repeats=7)
    parser.add_argument('--batches', type=int, default=300, help="batches of mmat's loader; torchvision's gets a third")
    parser.add_argument('--data-root', default='data/cifar10')
    parser.add_argument('--iteration', type=float, default=None, metavar='MS',
                        help='time of a training iteration from framework.py; adds the share of the loader')
    args = parser.parse_args()
    start(args)
    keep_freed_memory()
    settings = Config.fromfile(find_config(CONFIG)).model.data_preprocessor
    settings.channels_last = True
    preprocessor = MODELS.build(settings)
    dataset = CIFAR10(args.data_root, 'train')
    ours = DataLoader(dataset, 128, shuffle=True, collate_fn=FUNCTIONS.get('mmat.keep_batch'))
    theirs = DataLoader(PILImages(dataset, settings.mean, settings.std), 128, shuffle=True, num_workers=2)
    times = alternate(dict(
        mmat=lambda: seconds_per_batch(ours, lambda batch: preprocessor(batch, training=True), args.batches),
        pil=lambda: seconds_per_batch(theirs, lambda batch: batch, args.batches // 3)), args.repeats)
    shared = dict(repeats=args.repeats, setting=f'batch 128, {describe_threads()}')
    rows = [
        row('R3', 'images/s / PIL with 2 workers', ratio(times, 'pil', 'mmat'), goal='>= 50', **shared),
        row('R3', 'mmat', spread([128 / value for value in times['mmat']]), unit='images/s', **shared),
        row('R3', 'PIL with 2 workers', spread([128 / value for value in times['pil']]), unit='images/s', **shared),
    ]
    if args.iteration:
        rows.append(row('R3', 'share of the loader in an epoch',
                        spread([100 * 1e3 * value / args.iteration for value in times['mmat']]), unit='%',
                        goal='<= 2', **shared))
    finish(rows, args)


if __name__ == '__main__':
    main()
