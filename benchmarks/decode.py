#!/usr/bin/env python
"""Images/s of JPEG decoding and of the ImageNet training pipeline in one process: Pillow, OpenCV, torchvision.io.

    python benchmarks/decode.py --threads 1 [--images FOLDER]

mmat.LoadImage decodes with Pillow; mmcv, and with it the ImageNet configs, with OpenCV. The images are those of a
folder, or random 500x375 windows of scikit-learn's two photographs, with random mirroring and brightness, as JPEG of
quality 90, 4:2:0. The pipeline follows configs/_base_/datasets/imagenet_bs32.py, from the file to the packed image;
for torchvision, its equivalent tensor transforms. On a GPU, nvJPEG also decodes all images in one call. The differences
of pixels from Pillow's are printed below the table.
"""
import argparse
import io
import tempfile
from pathlib import Path

import cv2
import numpy as np
import torch
from common import ROOT, add_arguments, describe_threads, finish, interleave, ratio, row, spread, start
from PIL import Image
from torchvision.io import decode_jpeg, read_file
from torchvision.transforms import v2


def make_jpegs(count):
    """Yield JPEGs as bytes."""
    from sklearn.datasets import load_sample_images
    generator = np.random.default_rng(0)
    for index in range(count):
        photograph = load_sample_images().images[index % 2]
        top, left = (generator.integers(size - window + 1) for size, window in zip(photograph.shape, (375, 500)))
        window = photograph[top:top + 375, left:left + 500, ::generator.choice([-1, 1])][:, ::generator.choice([-1, 1])]
        file = io.BytesIO()
        Image.fromarray(np.clip(window * generator.uniform(0.7, 1.2), 0, 255).astype(np.uint8)).save(
            file, 'JPEG', quality=90)
        yield file.getvalue()


def decode_pillow(content):
    return np.array(Image.open(io.BytesIO(content)).convert('RGB'))


def decode_opencv(content):
    return cv2.imdecode(np.frombuffer(content, np.uint8), cv2.IMREAD_COLOR)


def decode_torchvision(content):
    return decode_jpeg(torch.frombuffer(bytearray(content), dtype=torch.uint8))


def pipelines():
    """Return functions from a path to a packed image of 224x224, by decoder."""
    from mmengine.config import Config
    from mmengine.dataset import Compose
    from mmengine.registry import DefaultScope
    DefaultScope.get_instance('decode', scope_name='mmpretrain')
    config = Config.fromfile(ROOT / 'configs' / '_base_' / 'datasets' / 'imagenet_bs32.py')
    load, *rest = [step.to_dict() for step in config.train_dataloader.dataset.pipeline]
    tensors = v2.Compose([v2.RandomResizedCrop(224, antialias=True), v2.RandomHorizontalFlip()])

    def composed(steps):
        pipeline = Compose(steps)
        return lambda path: pipeline(dict(img_path=path, gt_label=0))['inputs']

    return {'Pillow': composed([dict(type='mmat.LoadImage'), *rest]), 'OpenCV': composed([load, *rest]),
            'torchvision': lambda path: tensors(decode_jpeg(read_file(path)))}


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    add_arguments(parser)
    parser.add_argument('--images', metavar='FOLDER', help='read JPEG files from this folder instead')
    parser.add_argument('--count', type=int, default=64, help='number of images; default: 64')
    args = parser.parse_args()
    start(args)
    if args.threads:
        cv2.setNumThreads(args.threads)
    if args.images:
        files = sorted(path for path in Path(args.images).iterdir() if path.suffix.lower() in ('.jpg', '.jpeg'))
        images, source = [path.read_bytes() for path in files[:args.count]], f'of {Path(args.images).resolve().name}'
    else:
        images, source = list(make_jpegs(args.count)), '500x375, quality 90, of two photographs'
    if not images:
        parser.error(f'--images: The folder {args.images} has no JPEG file.')
    decoders = {'Pillow': decode_pillow, 'OpenCV': decode_opencv, 'torchvision': decode_torchvision}
    calls = {name: lambda decode=decode: [decode(each) for each in images] for name, decode in decoders.items()}
    if torch.cuda.is_available():
        tensors = [torch.frombuffer(bytearray(each), dtype=torch.uint8) for each in images]
        calls['nvJPEG'] = lambda: decode_jpeg(tensors, device='cuda')
    setting = f'{len(images)} JPEGs {source}, {describe_threads()}'
    rows = list(make_rows('JPEG decoding', interleave(calls, args.repeats), len(images), setting))
    with tempfile.TemporaryDirectory() as folder:
        paths = [f'{folder}/{index}.jpg' for index in range(len(images))]
        for path, content in zip(paths, images):
            Path(path).write_bytes(content)
        calls = {name: lambda step=step: [step(path) for path in paths] for name, step in pipelines().items()}
        rows += make_rows('read, decode, crop, resize, flip', interleave(calls, args.repeats), len(images), setting)
    finish(rows, args)
    for name, others in (('OpenCV', [decode_opencv(each)[..., ::-1] for each in images]),
                         ('torchvision', [decode_torchvision(each).permute(1, 2, 0).numpy() for each in images])):
        differences = [np.abs(decode_pillow(each).astype(int) - other) for each, other in zip(images, others)]
        print(f'{name} against Pillow: mean difference {np.mean([each.mean() for each in differences]):.3g} of 255, '
              f'largest {max(each.max() for each in differences)}')


def make_rows(what, times, count, setting):
    repeats = len(next(iter(times.values())))
    for name, seconds in times.items():
        yield row('decode', what, spread([count / each for each in seconds]), 'images/s', '', repeats,
                  f'{name}, {setting}')
    for name in times:
        if name != 'Pillow':
            yield row('decode', f"{what}: images/s / Pillow's", ratio(times, 'Pillow', name), 'ratio', '', repeats,
                      f'{name}, {setting}')


if __name__ == '__main__':
    main()
