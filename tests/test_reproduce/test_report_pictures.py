"""The curves and the attention of a report."""
import base64
import io
import re
import statistics
from pathlib import Path
from xml.etree import ElementTree

import numpy as np
import pytest
import torch
from PIL import Image
from report_tables import (
    begin,
    finish,
    finish_all,
    half_done,
    log,
    make_recipe,
    make_runs,
    markdown_table,
    report,
    training,
    write_config,
)


@pytest.fixture
def table(tmp_path):
    return half_done(tmp_path)


def test_curves_have_the_right_coordinates(table):
    recipe, runs, work_dir = table
    for seed, values in enumerate(([10, 40, 60, 80, 90], [20, 50, 55, 85, 91], [30, 20, 65, 70, 92.5])):
        log(runs['small'][seed], training(values))
    report(*table)
    svg = ElementTree.parse(work_dir / 'curves-1.svg').getroot()
    name = '{http://www.w3.org/2000/svg}'
    lines = {}
    for path in svg.iter(f'{name}path'):
        title = path.find(f'{name}title')
        if title is not None:
            numbers = [float(number) for number in re.findall(r'-?\d*\.?\d+', path.get('d'))]
            lines.setdefault(title.text, []).append(np.cumsum(np.reshape(numbers, (-1, 2)), 0))
    errors = np.array([[90, 60, 40, 20, 10], [80, 50, 45, 15, 9], [70, 80, 35, 30, 7.5]])
    drawn = [lines[f'student, seed {seed}'][0] for seed in range(3)]
    middle, = lines['student, median'][:1]
    for line, values in zip([*drawn, middle], [*errors, np.median(errors, 0)]):
        # An epoch is a tenth of the width; errors increase upwards on a logarithmic scale.
        np.testing.assert_allclose(np.diff(line[:, 0]), (360 - 38 - 12) / 10, atol=0.11)
        slope = (line[:, 1] - drawn[0][0, 1]) / np.log(values / errors[0, 0], where=values != errors[0, 0],
                                                        out=np.full(5, np.nan))
        np.testing.assert_allclose(slope[np.isfinite(slope)], np.nanmedian(slope), rtol=0.02)
        assert np.nanmedian(slope) < 0
    # AT has a single seed, drawn once.
    assert 'AT' in lines and 'AT, seed 0' not in lines and 'teacher, median' in lines


def test_the_median_needs_a_value_of_every_seed(table):
    recipe, runs, work_dir = table
    for seed, run in enumerate(runs['small']):
        lines = training([50, 60, 70])
        log(run, [line for line in lines if seed != 1 or line != {'accuracy/top1': 60, 'step': 2}])
    page, _ = report(*table)
    paths = [attributes['d'] for tag, attributes, _ in page.elements if attributes.get('class') == 'median']
    # Three legend symbols, then the error of the student: two of three points, one step.
    assert paths[:3] == ['M0 0H16'] * 3 and len(re.findall(r'-?[\d.]+', paths[3].partition('l')[2])) == 2


def test_a_curve_has_the_last_values_of_repeated_epochs(tmp_path):
    from mmat.reproduce.report.curves import read_curve
    lines = training([50, 60]) + [dict(line, loss=9.) if 'loss' in line else {**line, 'accuracy/top1': 70}
                                  for line in training([50, 60, 65])[3:]]
    curve = read_curve(lines, 'accuracy/top1', 'error')
    assert curve.value == [(1, 50), (2, 30), (3, 30)]
    assert curve.loss == [(0.5, 1), (1, 0.5), (1.5, 9), (2, 9), (2.5, 9), (3, 9)]
    # Validation every second epoch and after the last.
    assert read_curve(training([50, 60, 70, 80, 90], every=2), 'accuracy/top1', 'accuracy').value == [
        (2, 60), (4, 80), (5, 90)]
    # The mean over each epoch in long training: 1 / iteration, two iterations.
    long = read_curve(training([50] * 21), 'accuracy/top1', 'error').loss
    assert len(long) == 21 and long[1] == (2, statistics.mean([1 / 3, 1 / 4]))
    broken = [dict(loss=float('nan'), epoch=1, iter=1, step=1), dict(loss=2., epoch=1, iter=2, step=2)]
    assert read_curve(broken, 'accuracy/top1', 'error').loss == [(1, 2.)]
    assert read_curve([], 'accuracy/top1', 'error').is_empty


@pytest.mark.parametrize('values', [[100.], [100., 100.], [0., 50.], [float('nan')], [99.9, 10., 5.]])
def test_curves_of_any_shape_can_be_drawn(values, tmp_path):
    recipe = make_recipe([dict(row='one', column='error', config=write_config(tmp_path, 'one', epochs=1))])
    runs = make_runs(recipe, tmp_path / 'table')
    begin(runs['one'][0], training(values))
    page, _ = report(recipe, runs, tmp_path / 'table')
    for attributes, _ in page.find('path'):
        assert not re.search('nan|inf', attributes['d'])
    ElementTree.parse(tmp_path / 'table' / 'curves.svg')


def test_columns_that_share_runs_are_drawn_by_column(tmp_path):
    cells = [dict(row=row, column=column, config=write_config(tmp_path, row), metric=f'accuracy/{column}')
             for row in ('one', 'two') for column in ('top1', 'top5')]
    recipe = make_recipe(cells)
    runs = make_runs(recipe, tmp_path / 'table')
    finish_all(runs, {'one': [90, 90, 90], 'two': [80, 80, 80]})
    page, text = report(recipe, runs, tmp_path / 'table')
    assert page.texts('h3')[:2] == ['top1', 'top5'] and page.texts('ul', 'series-names') == ['onetwo'] * 2
    assert [row[2:] for row in markdown_table(text) if row[1].startswith('measured')] == [
        ['**10.00**', '**5.00**'], ['20.00', '15.00']]


def luminance(colour):
    """Return linear RGB and the relative luminance (WCAG 2)."""
    channels = np.array([int(colour[i:i + 2], 16) for i in (1, 3, 5)]) / 255
    linear = np.where(channels <= 0.04045, channels / 12.92, ((channels + 0.055) / 1.055)**2.4)
    return linear, linear @ [0.2126, 0.7152, 0.0722]


def contrast(one, other):
    low, high = sorted((luminance(one)[1], luminance(other)[1]))
    return (high + 0.05) / (low + 0.05)


def oklab(linear):
    lms = np.cbrt(np.clip([[.4122214708, .5363325363, .0514459929], [.2119034982, .6806995451, .1073969566],
                           [.0883024619, .2817188376, .6299787005]] @ linear, 0, None))
    return [[.2104542553, .7936177850, -.0040720468], [1.9779984951, -2.4285922050, .4505937099],
            [.0259040371, .7827717662, -.8086757660]] @ lms


# Colour blindness in linear RGB (Machado, Oliveira & Fernandes, 2009, severity 1).
VISIONS = dict(
    normal=np.eye(3),
    protanopia=[[.152286, 1.052583, -.204868], [.114503, .786281, .099216], [-.003882, -.048116, 1.051998]],
    deuteranopia=[[.367322, .860646, -.227968], [.280085, .672501, .047413], [-.011820, .042940, .968881]],
    tritanopia=[[1.255528, -.076749, -.178779], [-.078411, .930809, .147602], [.004733, .691367, .303900]])


@pytest.mark.parametrize('mode', [0, 1])
def test_colours_are_readable_and_distinguishable(mode):
    import mmat.reproduce.report as package
    folder = Path(package.__file__).parent
    colours = {}
    for sheet in ('chart.css', 'page.css'):
        blocks = re.findall(r':root \{(.*?)\}', (folder / sheet).read_text(), re.S)
        assert len(blocks) == 2  # light and dark
        colours.update(re.findall(r'--([\w-]+): (#[0-9a-f]{6})', blocks[mode]))
    for ink, papers in dict(ink=('paper', 'ground'), muted=('paper', 'ground'), bad=('ground', ),
                            **{'banner-ink': ('banner', )}).items():
        assert all(contrast(colours[ink], colours[paper]) >= 4.5 for paper in papers), ink
    series = [colours[f's{index}'] for index in range(6)]
    assert all(contrast(colour, colours['paper']) >= 3 for colour in series)
    for name, matrix in VISIONS.items():
        seen = [oklab(np.clip(np.array(matrix) @ luminance(colour)[0], 0, 1)) for colour in series]
        apart = [np.linalg.norm(one - other) for index, one in enumerate(seen) for other in seen[:index]]
        assert min(apart) > 0.12, name


@pytest.fixture
def networks(network_config, tmp_path):
    """A teacher without a cell, a student and a student with AT, on 8x8 digits with real checkpoints."""
    from mmat.models import build_network
    loader = dict(batch_size=8, num_workers=0, dataset=dict(type='mmat.Digits', split='test', size=8),
                  sampler=dict(type='DefaultSampler', shuffle=False), collate_fn=dict(type='mmat.keep_batch'))
    configs = {name: write_config(tmp_path / 'configs', name, test_dataloader=loader)
               for name in ('big', 'small', 'small_at-big')}
    for path in configs.values():
        text = Path(path).read_text().replace("model = {'type': 'none'}", f'model = {network_config()!r}')
        Path(path).write_text(text)
    recipe = make_recipe([
        dict(row='student $\\nonsense$', column='error', config=configs['small']),
        dict(row='student with AT', column='error', config=configs['small_at-big'], teacher=configs['big'])],
        seeds=(0, ))
    runs = make_runs(recipe, tmp_path / 'table')
    for index, name in enumerate(('big', 'small', 'small_at-big')):
        torch.manual_seed(index)
        network = build_network(network_config())
        network.init_weights()
        file = io.BytesIO()
        torch.save(dict(state_dict=network.state_dict()), file)
        finish(runs[name][0], 90, file.getvalue())
    return recipe, runs, tmp_path / 'table'


def test_attention_of_teacher_and_students(networks):
    page, text = report(*networks)
    (attributes, _), = page.find('img')
    content = base64.b64decode(attributes['src'].partition(',')[2])
    assert content == (networks[2] / 'attention.png').read_bytes()
    picture = np.asarray(Image.open(io.BytesIO(content)).convert('RGB')).astype(int)
    assert (int(attributes['height']), int(attributes['width'])) == picture.shape[:2]
    from mmat.datasets import Digits
    labels = [str(int(Digits('test').labels[index])) for index in (0, 265, 531, 796)]
    for part in ('teacher, student $\\nonsense$, student with AT', ', '.join(labels)):
        assert part in attributes['alt']
    assert 'attention.png' in text
    assert any('big, seed 0' in content for content in page.texts('summary'))
    # Three networks of three stages, each map about 130 pixels wide.
    coloured = (np.ptp(picture, -1) > 12).any(0)
    assert 9 * 100 < coloured.sum() < 9 * 145


def test_networks_are_shown_once(networks):
    recipe, runs, work_dir = networks
    # The only finished run of the second row is the student of the first.
    small, at, big = (runs[name][0].config for name in ('small', 'small_at-big', 'big'))
    cells = [dict(row='one', column='student', config=small), dict(row='one', column='AT', config=at, teacher=big),
             dict(row='two', column='student', config=small), dict(row='two', column='AT', config=write_config(
                 work_dir.parent / 'configs', 'later'))]
    recipe = make_recipe(cells, seeds=(0, ))
    page, text = report(recipe, make_runs(recipe, work_dir), work_dir)
    (attributes, _), = page.find('img')
    assert 'teacher, student, AT ' in attributes['alt']
    assert 'attention-1.png' in text and 'attention-2.png' not in text


def test_many_networks_take_several_lines():
    from mmat.reproduce.report.maps import _render
    images, maps = torch.rand(1, 3, 8, 8), torch.rand(1, 4, 4)
    one, four = (_render(images, {f'net {index}': dict(a=maps, b=maps, c=maps) for index in range(count)}, ['cat'])
                 for count in (2, 4))
    # Four networks of three maps make two lines of six.
    assert four[1:] == (one[1], 2 * one[2])


def test_networks_without_attention_maps_have_a_reason(networks):
    recipe, runs, work_dir = networks
    (runs['small'][0].work_dir / 'epoch_10.pth').unlink()
    page, text = report(*networks)
    reason, = page.texts('p', 'missing')
    assert reason.startswith('student $\\nonsense$ ') and 'epoch_10.pth' in reason and 'epoch\\_10.pth is' in text
    assert 'teacher, student with AT ' in page.find('img')[0][0]['alt']
    for run in (runs['big'][0], runs['small_at-big'][0]):
        (run.work_dir / 'epoch_10.pth').write_bytes(b'no checkpoint')
    page, text = report(*networks)
    assert not page.find('img') and len(page.texts('p', 'missing')) == 3


def test_missing_data_is_reported(networks):
    recipe, runs, work_dir = networks
    for name in runs:
        path = Path(runs[name][0].config)
        path.write_text(path.read_text().replace("'mmat.Digits', 'split': 'test', 'size': 8",
                                                 "'mmat.CIFAR10', 'split': 'test', 'data_root': 'nowhere'"))
    page, text = report(*networks)
    reason, = page.texts('p', 'missing')
    assert 'CIFAR10' in reason and "'nowhere'" in reason
    assert not page.find('img') and 'CIFAR10' in text and not (work_dir / 'attention.png').exists()


def test_the_size_of_a_large_table(tmp_path):
    from mmat.reproduce.report.charts import draw_curves_file
    from mmat.reproduce.report.content import Cell, Group
    from mmat.reproduce.report.curves import Curve
    from mmat.reproduce.run import Run
    generator = np.random.default_rng(0)
    cells = []
    for column in range(6):
        runs = [Run(Path('x'), 'x', seed, 200) for seed in range(5)]
        curves = {run: Curve(*([(epoch, float(value)) for epoch, value in enumerate(each, 1)]
                               for each in generator.uniform(5, 90, (2, 200)))) for run in runs}
        cells.append(Cell('row', str(column), 1., 'accuracy/top1', runs, 200, str(column),
                          dict(values=dict.fromkeys(range(5), 1.), median=1.), curves))
    # Four of these and four pictures of at most 130 KB in base64 stay below 1.5 MB.
    assert len(draw_curves_file(Group('row', cells), 'error')) < 160_000
