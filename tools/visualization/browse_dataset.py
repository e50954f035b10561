#!/usr/bin/env python
"""Draw images of a config's dataset as they are stored and as the network gets them after augmentation."""
import argparse
from pathlib import Path

from mmengine.runner import set_random_seed

from mmat.apis import command_line
from mmat.models import build_network
from mmat.models.denormalize import denormalize
from mmat.models.targets import class_names, label_names
from mmat.tooling import samples
from mmat.tooling.arguments import add_config_arguments, read_config, write_figure, write_picture
from mmat.visualization.picture_grid import draw_picture_grid

CAPTIONS = dict(original='as stored', transformed='as the network gets it', concat='left: as stored, right: as the '
                'network gets it')


def parse_args():
    parser = argparse.ArgumentParser(description=__doc__)
    add_config_arguments(parser, 'model.data_preprocessor.padding=8')
    parser.add_argument('--out-dir', required=True, metavar='FOLDER', help='folder for PHASE_MODE.png')
    parser.add_argument('-p', '--phase', choices=samples.PHASES, default='train',
                        help='dataset of the images; only train is augmented. Default: train')
    parser.add_argument('-n', '--show-number', type=int, default=20,
                        help='number of images, equally spaced in the dataset. Default: 20')
    parser.add_argument('-m', '--mode', choices=CAPTIONS, default='concat',
                        help='original: as stored; transformed: as the network gets them; concat: both side by '
                        'side. Default: concat')
    parser.add_argument('--seed', type=int, default=0, help='seed of the augmentation. Default: 0')
    parser.add_argument('--separate', action='store_true', help='also write each picture to a separate file')
    args = parser.parse_args()
    if args.show_number < 1:
        parser.error(f'--show-number must be at least 1, got {args.show_number}')
    return args


def main():
    args = parse_args()
    config = read_config(args)
    dataset = samples.build_dataset(config, args.phase)
    preprocessor = build_network(config).data_preprocessor
    indices = samples.spaced_indices(args.show_number, len(dataset))
    set_random_seed(args.seed)
    batch, stored = samples.read_batch(config, args.phase, dataset, indices)
    # Read before the preprocessor mixes images.
    names = label_names(batch, class_names(dataset)) or [''] * len(indices)
    pictures = {}
    if args.mode != 'transformed':
        pictures['original'] = [samples.to_rgb(picture, preprocessor) for picture in stored]
    if args.mode != 'original':
        images = denormalize(preprocessor, batch, training=args.phase == 'train')
        pictures['transformed'] = list(images.permute(0, 2, 3, 1).numpy())
    path = Path(args.out_dir) / f'{args.phase}_{args.mode}.png'
    titles = [f'{index}: {name}' if name else str(index) for index, name in zip(indices, names)]
    figure = draw_picture_grid(list(zip(*pictures.values())), titles,
                               f'position in the dataset and class; {CAPTIONS[args.mode]}')
    write_figure(figure, path)
    print(f'Wrote {path}.')
    if args.separate:
        for kind, each in pictures.items():
            for index, picture in zip(indices, each):
                write_picture(picture, Path(args.out_dir) / args.phase / f'{index:06d}_{kind}.png')
        print(f'Wrote {len(indices) * len(pictures)} pictures to {Path(args.out_dir) / args.phase}.')


if __name__ == '__main__':
    command_line(main)
