#!/usr/bin/env python
"""JPEG decoding and the ImageNet training pipeline, images a second in one process: Pillow, OpenCV, torchvision.io.

    python benchmarks/decode.py --threads 1 [--images FOLDER]

Pillow is what mmat.LoadImage decodes with, OpenCV mmcv's default and so that of the ImageNet configs. The pictures are
those of a folder, or random windows of 500x375 of the two photographs that scikit-learn brings, some mirrored, brighter
or darker, as JPEG of quality 90, 4:2:0. The pipeline is that of configs/_base_/datasets/imagenet_bs32.py from the file
to the packed image, with each decoder; torchvision's is its decoder with transforms of its own that do the same on
tensors. On a GPU nvJPEG decodes too, all pictures in one call. How far pixels differ from Pillow's is printed below.
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


def draw_pictures(count):
    """JPEGs as bytes."""
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
    """From a path to a packed image of 224x224."""
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
    parser.add_argument('--images', metavar='FOLDER', help='JPEG files to take instead')
    parser.add_argument('--count', type=int, default=64, help='pictures; default: 64')
    args = parser.parse_args()
    start(args)
    if args.threads:
        cv2.setNumThreads(args.threads)
    if args.images:
        files = sorted(path for path in Path(args.images).iterdir() if path.suffix.lower() in ('.jpg', '.jpeg'))
        pictures, source = [path.read_bytes() for path in files[:args.count]], f'of {Path(args.images).resolve().name}'
    else:
        pictures, source = list(draw_pictures(args.count)), '500x375, quality 90, of two photographs'
    if not pictures:
        parser.error(f'--images: {args.images} has no JPEG file')
    decoders = {'Pillow': decode_pillow, 'OpenCV': decode_opencv, 'torchvision': decode_torchvision}
    calls = {name: lambda decode=decode: [decode(each) for each in pictures] for name, decode in decoders.items()}
    if torch.cuda.is_available():
        tensors = [torch.frombuffer(bytearray(each), dtype=torch.uint8) for each in pictures]
        calls['nvJPEG'] = lambda: decode_jpeg(tensors, device='cuda')
    setting = f'{len(pictures)} JPEGs {source}, {describe_threads()}'
    rows = list(tell('JPEG decoding', interleave(calls, args.repeats), len(pictures), setting))
    with tempfile.TemporaryDirectory() as folder:
        paths = [f'{folder}/{index}.jpg' for index in range(len(pictures))]
        for path, content in zip(paths, pictures):
            Path(path).write_bytes(content)
        calls = {name: lambda step=step: [step(path) for path in paths] for name, step in pipelines().items()}
        rows += tell('read, decode, crop, resize, flip', interleave(calls, args.repeats), len(pictures), setting)
    finish(rows, args)
    for name, others in (('OpenCV', [decode_opencv(each)[..., ::-1] for each in pictures]),
                         ('torchvision', [decode_torchvision(each).permute(1, 2, 0).numpy() for each in pictures])):
        off = [np.abs(decode_pillow(each).astype(int) - other) for each, other in zip(pictures, others)]
        print(f'{name} against Pillow: mean difference {np.mean([each.mean() for each in off]):.3g} of 255, '
              f'largest {max(each.max() for each in off)}')


def tell(what, times, count, setting):
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
