#!/usr/bin/env python
"""Draw the correct and the wrong predictions with the highest scores.

Reads predictions from tools/test.py --out FILE.pkl. Writes success.png and fail.png, the single images in folders of
these names, and results.json.
"""
import argparse
from pathlib import Path

from mmat.apis import command_line
from mmat.errors import DataError
from mmat.models import build_network
from mmat.models.targets import class_names, read_targets
from mmat.tooling.arguments import add_config_arguments, read_config, write_figure, write_json, write_picture
from mmat.tooling.predictions import check_single_label, most_confident, read_predictions
from mmat.tooling.samples import build_dataset, read_batch, to_rgb
from mmat.visualization.picture_grid import draw_picture_grid


def parse_args():
    parser = argparse.ArgumentParser(description=__doc__)
    add_config_arguments(parser, 'test_dataloader.dataset.data_root=PATH')
    parser.add_argument('predictions', help='.pkl file; only tensors and plain values are read from it')
    parser.add_argument('--out-dir', required=True, metavar='FOLDER', help='output folder')
    parser.add_argument('--topk', type=int, default=20, help='number of images of each kind. Default: 20')
    args = parser.parse_args()
    if args.topk < 1:
        parser.error(f'--topk must be at least 1, got {args.topk}')
    return args


def main():
    args = parse_args()
    config = read_config(args)
    predictions = read_predictions(args.predictions)
    check_single_label(predictions, 'analyze_results.py')
    dataset = build_dataset(config, 'test')
    preprocessor = build_network(config).data_preprocessor
    report = {}
    for kind in ('success', 'fail'):
        chosen = most_confident(predictions, kind == 'success', args.topk)
        report[kind] = draw_predictions(kind, chosen, config, dataset, preprocessor, Path(args.out_dir))
    write_json(report, Path(args.out_dir) / 'results.json')
    print(f'Wrote {len(report["success"])} correct and {len(report["fail"])} wrong predictions to {args.out_dir}.')


def draw_predictions(kind, chosen, config, dataset, preprocessor, folder):
    """Draw predictions and return a dict of plain values for each."""
    if not chosen:
        return []
    indices = [int(each['sample_idx']) for each in chosen]
    labels = [int(each['gt_label']) for each in chosen]
    if max(indices) >= len(dataset):
        raise DataError(f'The predictions are from another test set: they have image {max(indices)}, the test set of '
                        f'the config has {len(dataset)} images.')
    batch, stored = read_batch(config, 'test', dataset, indices)
    if read_targets(batch['data_samples']).tolist() != labels:
        raise DataError('The predictions are from another test set: their `gt_label` differ from those of the config.')
    classes = class_names(dataset)
    pictures = [to_rgb(picture, preprocessor) for picture in stored]
    rows, titles = [], []
    for rank, (picture, index, label, each) in enumerate(zip(pictures, indices, labels, chosen), start=1):
        score = float(each['pred_score'].max())
        truth, predicted = (classes[value] if classes else str(value) for value in (label, int(each['pred_label'])))
        file = f'{kind}/{rank:03d}.png'
        write_picture(picture, folder / file)
        titles.append(f'{index}: {predicted} {score:.3f}' + ('' if kind == 'success' else f'\nis {truth}'))
        rows.append(dict(file=file, sample_idx=index, gt_label=truth, pred_label=predicted, pred_score=score))
    caption = 'position in the test set: predicted class and its probability' + (
        '' if kind == 'success' else ', and the true class')
    write_figure(draw_picture_grid([[picture] for picture in pictures], titles, caption), folder / f'{kind}.png')
    return rows


if __name__ == '__main__':
    command_line(main)
