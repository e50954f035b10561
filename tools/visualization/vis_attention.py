#!/usr/bin/env python
"""Draw what networks look at: a row for each image, columns for each network and layer.

The attention of a layer is F_sum^2 of its activations, or the map that an attention neck has learned; each map is
stretched to its own range. Without images, those of the config's test set are taken.
"""
import argparse
from pathlib import Path

from mmengine.config import Config

from mmat.apis import command_line, get_model
from mmat.models.denormalize import denormalize
from mmat.tooling.arguments import add_config_arguments, check_suffix, read_config, write_picture
from mmat.tooling.comparison import compare_attention, pictures_from_dataset, pictures_from_files, read_teacher
from mmat.tooling.samples import PHASES
from mmat.utils.zoo import find_config
from mmat.visualization import render_attention_grid


def parse_args():
    parser = argparse.ArgumentParser(description=__doc__)
    add_config_arguments(parser, 'model.teacher.checkpoint=PATH')
    parser.add_argument('checkpoint', help='checkpoint file, URL, or work directory (its last checkpoint)')
    parser.add_argument('images', nargs='*', help='picture files, URLs or folders of pictures; default: of --split')
    parser.add_argument('--out', required=True, metavar='FILE', help='the picture to write: .png')
    parser.add_argument('--split', choices=PHASES, default='test', help='whose images to take. Default: test')
    parser.add_argument('-n', '--number', type=int, default=8,
                        help='how many of them, at equal distances. Default: 8')
    parser.add_argument('--layers', nargs='+', metavar='LAYER',
                        help='stages (0, 1, ...) or module paths (backbone.group2, neck.maps.0) of every network; '
                        'default: the maps of an attention neck, or else every stage')
    parser.add_argument('--compare', nargs='+', default=[], metavar='CONFIG:CHECKPOINT',
                        help='other networks to draw beside it')
    parser.add_argument('--teacher', action='store_true',
                        help='of a distillation config draw the teacher too; both at the layers that are compared')
    args = parser.parse_intermixed_args()
    if args.number < 1:
        parser.error(f'--number must be at least 1, got {args.number}')
    odd = [each for each in args.compare if not all(each.partition(':')[::2])]
    if odd:
        parser.error(f'--compare takes CONFIG:CHECKPOINT, got {odd[0]!r}')
    return args


def main():
    args = parse_args()
    check_suffix(args.out, ['.png'], '--out')
    config = read_config(args)
    layers = [int(layer) if layer.lstrip('-').isdigit() else layer for layer in args.layers] if args.layers else None
    networks = {}
    if args.teacher:
        teacher, student_layers, teacher_layers = read_teacher(config)
        networks['student'] = get_model(config, args.checkpoint), layers or student_layers
        networks['teacher'] = teacher, layers or teacher_layers
    else:
        networks[name_of(args.config)] = get_model(config, args.checkpoint), layers
    for name, checkpoint in (each.split(':', 1) for each in args.compare):
        network = get_model(Config.fromfile(find_config(name)), checkpoint)
        networks[unique(name_of(name), checkpoint, networks)] = network, layers
    pictures, titles = pictures_from_files(config, args.images) if args.images else \
        pictures_from_dataset(config, args.split, args.number)
    first, _ = next(iter(networks.values()))
    seen = denormalize(first.data_preprocessor, dict(inputs=pictures), training=False)
    write_picture(render_attention_grid(seen, compare_attention(networks, pictures), titles), args.out)
    print(f'wrote {args.out}')


def name_of(config):
    """Network and method of a config's name, without batch size and dataset."""
    return Path(config).stem.rsplit('_', 2)[0] if Path(config).stem.count('_') > 1 else Path(config).stem


def unique(name, checkpoint, taken):
    """A name for the top of its columns that no other network has."""
    if name in taken:
        name = f'{name}, {Path(checkpoint).stem}'
    count, free = 1, name
    while free in taken:
        count += 1
        free = f'{name} ({count})'
    return free


if __name__ == '__main__':
    command_line(main)
