#!/usr/bin/env python
"""Classify images and draw their attention maps. Writes OUT_DIR/results.json and a PNG per image."""
import argparse
from pathlib import Path

from mmat.apis import AttentionInferencer, command_line


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument('config', help='config file, or a name from mmat.list_models() or of mmpretrain')
    parser.add_argument('checkpoint',
                        help="checkpoint file, URL, work directory (its last checkpoint), or 'zoo': the zoo's weights")
    parser.add_argument('images', nargs='+', help='image files, URLs, or folders of images')
    parser.add_argument('--layers', nargs='+', metavar='LAYER', type=_parse_layer,
                        help='stage indices or module paths; default: all maps of the attention neck, or all stages')
    parser.add_argument('--out-dir', metavar='DIR', help='default: work_dirs/<config name>/inference')
    parser.add_argument('--batch-size', type=int, default=32, help='default: %(default)s')
    parser.add_argument('--device', help='default: a GPU if available')
    args = parser.parse_args()
    inferencer = AttentionInferencer(
        args.config, True if args.checkpoint == 'zoo' else args.checkpoint, args.device, args.layers)
    folder = Path(args.out_dir or Path('work_dirs') / Path(args.config).stem / 'inference')
    results = inferencer(args.images, args.batch_size, show_dir=folder, out_file=folder / 'results.json')
    for result in results:
        print(f'{result["img_path"]}: {_describe(result)}')
    print(f'Wrote images and results.json to {folder}')


def _describe(result: dict) -> str:
    """Return the predicted classes and their scores: one, or any number for a multi-label network."""
    if 'pred_score' not in result:
        return 'attention only, the network has no head'
    names, scores = result.get('pred_class', result['pred_label']), result['pred_score']
    if not isinstance(scores, list):
        names, scores = [names], [scores]
    return ', '.join(f'{name} ({score:.3f})' for name, score in zip(names, scores)) or 'no label'


def _parse_layer(text: str):
    try:
        return int(text)
    except ValueError:
        return text


if __name__ == '__main__':
    command_line(main)
