#!/usr/bin/env python
"""Draw attention maps of networks, with a row for each image and a column for each network and layer.

The attention of a layer is F_sum^2 of its activations, or the map of an attention neck. Each map is scaled to its own
range and laid over the part of the picture that the network sees. Without picture files, images of the config's test
set are used.
"""
import argparse
from pathlib import Path

from mmengine.config import Config

from mmat.apis import command_line, get_model
from mmat.models.denormalize import denormalize
from mmat.tooling.arguments import add_config_arguments, check_suffix, read_config, write_picture
from mmat.tooling.comparison import compute_attention, load_teachers, pictures_from_dataset, pictures_from_files
from mmat.tooling.samples import PHASES
from mmat.utils.zoo import find_config
from mmat.visualization import render_attention_grid, with_photographs


def parse_args():
    parser = argparse.ArgumentParser(description=__doc__)
    add_config_arguments(parser, 'model.teacher.checkpoint=PATH')
    parser.add_argument('checkpoint', help='checkpoint file, URL or work directory (its last checkpoint)')
    parser.add_argument('images', nargs='*', help='picture files, URLs or folders. Default: images of --split')
    parser.add_argument('--out', required=True, metavar='FILE', help='picture to write: .png')
    parser.add_argument('--split', choices=PHASES, default='test', help='dataset of the images. Default: test')
    parser.add_argument('-n', '--number', type=int, default=8,
                        help='number of images, equally spaced in the dataset. Default: 8')
    parser.add_argument('--layers', nargs='+', metavar='LAYER',
                        help='stages (0, 1, ...) or module paths (backbone.group2, neck.maps.0) of every network. '
                        'Default: the maps of an attention neck, otherwise every stage')
    parser.add_argument('--compare', nargs='+', default=[], metavar='CONFIG:CHECKPOINT',
                        help='other networks to draw')
    parser.add_argument('--teacher', action='store_true',
                        help="also draw a distillation config's teacher, both at the layers that its heads compare")
    args = parser.parse_intermixed_args()
    if args.number < 1:
        parser.error(f'--number must be at least 1, got {args.number}')
    invalid = [each for each in args.compare if not all(each.partition(':')[::2])]
    if invalid:
        parser.error(f'--compare needs CONFIG:CHECKPOINT, got {invalid[0]!r}')
    return args


def main():
    args = parse_args()
    check_suffix(args.out, ['.png'], '--out')
    config = read_config(args)
    layers = [int(layer) if layer.lstrip('-').isdigit() else layer for layer in args.layers] if args.layers else None
    networks = {}
    if args.teacher:
        student_layers, teachers = load_teachers(config)
        networks['student'] = get_model(config, args.checkpoint), layers or student_layers
        networks.update({name: (network, layers or own) for name, (network, own) in teachers.items()})
    else:
        networks[short_config_name(args.config)] = get_model(config, args.checkpoint), layers
    for name, checkpoint in (each.split(':', 1) for each in args.compare):
        network = get_model(Config.fromfile(find_config(name)), checkpoint)
        networks[unique_name(short_config_name(name), checkpoint, networks)] = network, layers
    first, _ = next(iter(networks.values()))
    pictures, titles, photographs = pictures_from_files(config, args.images) if args.images else \
        pictures_from_dataset(config, args.split, args.number, first.data_preprocessor)
    images = with_photographs(denormalize(first.data_preprocessor, dict(inputs=pictures)), photographs)
    write_picture(render_attention_grid(images, compute_attention(networks, pictures), titles), args.out)
    print(f'Wrote {args.out}.')


def short_config_name(config):
    """Return network and method from a config's name, without batch size and dataset."""
    return Path(config).stem.rsplit('_', 2)[0] if Path(config).stem.count('_') > 1 else Path(config).stem


def unique_name(name, checkpoint, taken):
    """Return a column title that is not taken, by adding the checkpoint's name and a number if needed."""
    if name in taken:
        name = f'{name}, {Path(checkpoint).stem}'
    count, title = 1, name
    while title in taken:
        count += 1
        title = f'{name} ({count})'
    return title


if __name__ == '__main__':
    command_line(main)
