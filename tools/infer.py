#!/usr/bin/env python
"""Class scores and attention of pictures: a line for each, and the folder OUT_DIR with results.json and a PNG each."""
import argparse
from pathlib import Path

from mmat.apis import AttentionInferencer, command_line


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument('config', help='config file, or a name from mmat.list_models() or of mmpretrain')
    parser.add_argument('checkpoint',
                        help="checkpoint file, URL, or work directory (its last checkpoint); zoo for the zoo's weights")
    parser.add_argument('images', nargs='+', help='files, URLs, or folders of them')
    parser.add_argument('--layers', nargs='+', metavar='LAYER', type=_layer,
                        help='stage indices or module paths; default: every attention map, or else every stage')
    parser.add_argument('--out-dir', metavar='DIR', help='default: work_dirs/<config name>/inference')
    parser.add_argument('--batch-size', type=int, default=32, help='default: %(default)s')
    parser.add_argument('--device', help='default: a GPU where there is one')
    args = parser.parse_args()
    inferencer = AttentionInferencer(
        args.config, True if args.checkpoint == 'zoo' else args.checkpoint, args.device, args.layers)
    folder = Path(args.out_dir or Path('work_dirs') / Path(args.config).stem / 'inference')
    results = inferencer(args.images, args.batch_size, show_dir=folder, out_file=folder / 'results.json')
    for result in results:
        name = result.get('pred_class', result['pred_label'])
        print(f'{result["img_path"]}: {name} ({result["pred_score"]:.3f})')
    print(f'Pictures and results.json are in {folder}')


def _layer(word: str):
    try:
        return int(word)
    except ValueError:
        return word


if __name__ == '__main__':
    command_line(main)
