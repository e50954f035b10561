"""The recipes in `recipes`, compared with the papers' tables."""
import re
import shutil
from functools import lru_cache
from pathlib import Path

import pytest
from mmengine.config import Config
from zoo_table import CONFIGS, ROOT, parts

from mmat.reproduce import recipe as recipe_module
from mmat.reproduce.recipe import name_of, plan, read_recipe

RECIPES = {path.stem: str(path) for path in sorted(ROOT.glob('recipes/*.py'))}

# Student, teacher, and the published numbers.
TABLE_1 = [
    ('NIN-thin', 'NIN-wide', 9.38, 8.93, 9.05, 8.55, 8.33, 7.28),
    ('WRN-16-1', 'WRN-16-2', 8.77, 7.93, 8.51, 7.41, 7.51, 6.31),
    ('WRN-16-1', 'WRN-40-1', 8.77, 8.25, 8.62, 8.39, 8.01, 6.58),
    ('WRN-16-2', 'WRN-40-2', 6.31, 5.85, 6.24, 6.08, 5.71, 5.23),
]
METHODS_1 = [('student', None), ('AT', 'at'), ('F-ActT', 'factt'), ('KD', 'kd'), ('AT+KD', 'at-kd'), ('teacher', None)]
REPDISTILLER = [
    ('WRN-16-2', 'WRN-40-2', 73.26, 74.92, 74.08, 75.61),
    ('WRN-40-1', 'WRN-40-2', 71.98, 73.54, 72.77, 75.61),
    ('resnet20', 'resnet56', 69.06, 70.66, 70.55, 72.34),
    ('resnet32', 'resnet110', 71.14, 73.08, 72.31, 74.31),
    ('resnet8x4', 'resnet32x4', 72.50, 73.33, 73.44, 79.42),
    ('vgg8', 'vgg13', 70.36, 72.98, 71.43, 74.64),
]
METHODS_100 = [('student', None), ('KD', 'kd'), ('AT', 'at'), ('teacher', None)]


def pairs(rows, methods, suffix):
    """(row, column, config, published) of a table whose rows are pairs of networks."""
    for student, teacher, *published in rows:
        small, large = (name.lower().replace('wrn-', 'wrn') for name in (student, teacher))
        for (column, method), number in zip(methods, published):
            name = large if column == 'teacher' else f'{small}_{method}-{large}' if method else small
            yield f'{student} from {teacher}', column, f'{name}_{suffix}', number


def single(rows, column='error', suffix=''):
    return [(row, column, name + suffix, number) for row, name, number in rows]


# The expected cells, in the order of the papers: row, column, config, published.
TABLES = {
    'at_digits': single([
        ('teacher WRN-16-2', 'wrn16-2_1xb32_digits', None),
        ('student WRN-16-1', 'wrn16-1_1xb10_digits', None),
        ('student + AT', 'wrn16-1_at-wrn16-2_1xb10_digits', None)]),
    'at_table1': list(pairs(TABLE_1, METHODS_1, '1xb128_cifar10')),
    'at_table2': single(suffix='_1xb128_cifar10', rows=[
        ('no attention transfer', 'wrn16-1', 8.77),
        ('F_sum', 'wrn16-1_at-fsum1-wrn16-2', 7.99),
        ('F_sum^2', 'wrn16-1_at-wrn16-2', 7.93),
        ('F_sum^4', 'wrn16-1_at-fsum4-wrn16-2', 8.09),
        ('F_max^1', 'wrn16-1_at-fmax1-wrn16-2', 8.08)]),
    'at_table2_layers': single(suffix='_1xb128_cifar10', rows=[
        ('group 1', 'wrn16-1_at-group0-wrn16-2', 8.11),
        ('group 2', 'wrn16-1_at-group1-wrn16-2', 7.96),
        ('group 3', 'wrn16-1_at-group2-wrn16-2', 7.97),
        ('all three', 'wrn16-1_at-wrn16-2', 7.93)]),
    'at_table3': single(suffix='_1xb128_cifar10', rows=[
        ('no transfer', 'nin-thin-nobn', 13.5),
        ('min-l2', 'nin-thin-nobn_minl2', 12.5),
        ('gradient-based AT', 'nin-thin-nobn_gradat-nin-wide-nobn', 12.1),
        ('KD', 'nin-thin-nobn_kd-nin-wide-nobn', 12.1),
        ('symmetry norm', 'nin-thin-nobn_flipsym', 11.8),
        ('activation-based AT', 'nin-thin-nobn_at-nin-wide-nobn', 11.2)]),
    'at_table4': [
        ('CUB-200-2011', 'student', 'resnet18_1xb64_cub', 28.5),
        ('CUB-200-2011', 'KD', 'resnet18_kd-resnet34_1xb64_cub', 27),
        ('CUB-200-2011', 'AT', 'resnet18_at-resnet34_1xb64_cub', 27),
        ('CUB-200-2011', 'teacher', 'resnet34_1xb64_cub', 26.5),
        ('Scenes (MIT Indoor-67)', 'student', 'resnet18_1xb64_indoor67', 28.2),
        ('Scenes (MIT Indoor-67)', 'KD', 'resnet18_kd-resnet34_1xb64_indoor67', 28.1),
        ('Scenes (MIT Indoor-67)', 'AT', 'resnet18_at-resnet34_1xb64_indoor67', 27.1),
        ('Scenes (MIT Indoor-67)', 'teacher', 'resnet34_1xb64_indoor67', 26)],
    'at_imagenet': [(row, column, f'{name}_8xb32_in1k', number) for row, name, *numbers in [
        ('student', 'resnet18', 30.4, 10.8),
        ('KD', 'resnet18_kd-resnet34', None, None),
        ('AT', 'resnet18_at-resnet34', 29.3, 10.0),
        ('AT, last two groups', 'resnet18_at-group23-resnet34', None, None),
        ('teacher', 'resnet34', 26.72, 8.74)] for column, number in zip(('top-1', 'top-5'), numbers)],
    'at_cifar100': list(pairs(REPDISTILLER, METHODS_100, '1xb64_cifar100')),
    'ltpa_cifar100': single([
        ('VGG', 'vgg_1xb128_cifar100', 30.62),
        ('(VGG-att)-dp', 'vgg-att-dp_1xb128_cifar100', 24.22),
        ('(VGG-att2)-indep-dp', 'vgg-att2-indep-dp_1xb128_cifar100', 23.24),
        ('(VGG-att2)-concat-dp', 'vgg-att2-concat-dp_1xb128_cifar100', 23.91),
        ('(VGG-att)-pc', 'vgg-att-pc_1xb128_cifar100', 23.70),
        ('(VGG-att2)-indep-pc', 'vgg-att2-indep-pc_1xb128_cifar100', 24.00),
        ('(VGG-att2)-concat-pc', 'vgg-att2-concat-pc_1xb128_cifar100', 23.19),
        ('(VGG-att3)-concat-pc', 'vgg-att3-concat-pc_1xb128_cifar100', 22.97),
        ('RN-164', 'rn164_1xb64_cifar100', 25.34),
        ('re-implementation of (VGG-att3)-concat-pc, before pooling',
         'vgg-reimpl-att3-concat-pc_1xb128_cifar100', 22.62),
        ('re-implementation of (VGG-att3)-concat-pc, after pooling',
         'vgg-reimpl-att3-concat-pc-after_1xb128_cifar100', 22.92)]),
}
SEEDS = dict(at_digits=5, at_table1=5, at_table2=5, at_table2_layers=5, at_table3=3, at_table4=3, at_imagenet=1,
             at_cifar100=3, ltpa_cifar100=1)
# Recipes with published numbers that were not read in the paper.
UNVERIFIED = ('at_table2_layers', 'ltpa_cifar100')

every_recipe = pytest.mark.parametrize('name', RECIPES)


@pytest.fixture(autouse=True, scope='module')
def configs_are_read_once():
    class Reader:
        fromfile = staticmethod(lru_cache(Config.fromfile))

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(recipe_module, 'Config', Reader)
        yield


def read(name):
    return read_recipe(RECIPES[name])


def planned(name, **options):
    return plan(read(name), Path('work'), **options)


def test_every_recipe_has_an_expected_table():
    assert set(RECIPES) == set(TABLES) == set(SEEDS)


@every_recipe
def test_the_cells_are_those_of_the_table(name):
    cells = [(cell.row, cell.column, name_of(cell.config), cell.published) for cell in read(name).cells]
    assert cells == TABLES[name]
    assert {config for *_, config, _ in cells} <= set(CONFIGS)


@every_recipe
def test_each_student_has_the_teacher_of_its_config_and_all_share_its_first_seed(name):
    recipe, runs = read(name), planned(name)
    for cell in recipe.cells:
        taught_by = parts(name_of(cell.config))[2]
        teacher = cell.get('teacher') and name_of(cell.teacher)
        assert (teacher and parts(teacher)[0]) == taught_by
        # No teacher has a teacher, and both use the same data.
        assert teacher is None or parts(teacher)[1] is None and parts(teacher)[5] == parts(name_of(cell.config))[5]
        for run in runs[name_of(cell.config)]:
            assert (run.teacher and (run.teacher.name, run.teacher.seed)) == (teacher and (teacher, 0))
    everyone = [run for group in runs.values() for run in group]
    assert {run.teacher for run in everyone if run.teacher} <= set(everyone)


@every_recipe
def test_seeds_are_as_the_note_says(name):
    recipe, runs = read(name), planned(name)
    assert list(recipe.seeds) == list(range(SEEDS[name]))
    if name != 'at_digits':
        assert ('By default one run of each' if SEEDS[name] == 1 else f'median of {SEEDS[name]} seeds') in recipe.note
    for cell in recipe.cells:
        assert len(runs[name_of(cell.config)]) == len(cell.get('seeds') or recipe.seeds)
        # Cells of one config are one set of trainings, so they cannot differ in their seeds.
        assert all(other.get('seeds') == cell.get('seeds') for other in recipe.cells if other.config == cell.config)
    teachers = {name_of(cell.teacher) for cell in recipe.cells if cell.get('teacher')}
    alone = {name_of(cell.config) for cell in recipe.cells if cell.get('seeds')}
    assert alone == (teachers if name in ('at_digits', 'at_cifar100') else set())


@every_recipe
def test_the_metrics_are_measured_by_the_configs(name):
    recipe = read(name)
    assert recipe.measure == ('accuracy' if name == 'at_cifar100' else 'error')
    for cell in recipe.cells:
        rank = 5 if cell.column == 'top-5' else 1
        assert cell.metric == f'accuracy/top{rank}'
        evaluator = recipe_module.Config.fromfile(str(CONFIGS[name_of(cell.config)])).val_evaluator
        assert rank in evaluator.get('metrics', evaluator).topk


@every_recipe
@pytest.mark.parametrize('processes', [None, 1, 2])
def test_the_total_batch_size_fits_the_learning_rate(name, processes):
    recipe = read(name)
    for group in plan(recipe, Path('work'), seeds=1, processes=processes).values():
        for run in group:
            config = recipe_module.Config.fromfile(str(CONFIGS[run.name]))
            each = run.options.get('train_dataloader.batch_size', config.train_dataloader.batch_size)
            assert run.processes == (processes or recipe.gpus_per_run)
            assert each * run.processes == config.auto_scale_lr.base_batch_size
            if processes is None:
                # The recipe's processes match the configs' names.
                assert run.processes == parts(run.name)[3] and not run.options


@every_recipe
def test_a_tenth_of_the_epochs(name):
    for group in planned(name, seeds=1, scale=0.1).values():
        for run in group:
            whole = recipe_module.Config.fromfile(str(CONFIGS[run.name])).train_cfg.max_epochs
            assert run.epochs == run.options['train_cfg.max_epochs'] == round(whole / 10)


@every_recipe
def test_the_note_of_each_recipe(name):
    recipe = read(name)
    assert len(recipe.note) > 80 and recipe.note.endswith('.')
    assert name not in UNVERIFIED or 'not verified' in recipe.note
    for path in re.findall(r'configs/[\w/]+(?:\.md)?', recipe.note):
        assert (ROOT / path).exists()
    for number in re.findall(r'\d\d\.\d\d', recipe.note):
        # torchdistill's accuracies, as errors.
        assert float(number) in [round(100 - accuracy, 2) for accuracy in (69.76, 71.37, 70.90)]


def test_tables_can_share_their_trainings_in_one_folder():
    first = planned('at_table1')

    def specification(run):
        return run and (run.work_dir, run.config, run.seed, run.epochs, run.options, run.processes,
                        specification(run.teacher))

    for name, shared in (
            ('at_table2', {'wrn16-2_1xb128_cifar10', 'wrn16-1_1xb128_cifar10', 'wrn16-1_at-wrn16-2_1xb128_cifar10'}),
            ('at_table2_layers', {'wrn16-2_1xb128_cifar10', 'wrn16-1_at-wrn16-2_1xb128_cifar10'})):
        runs = planned(name)
        assert runs.keys() & first.keys() == shared
        for each in shared:
            known = [specification(run) for run in first[each]]
            assert all(specification(run) in known for run in runs[each])


# Recipes of users

def test_a_copied_recipe_works_from_any_folder(tmp_path, monkeypatch):
    shutil.copy(RECIPES['at_table2'], tmp_path / 'mine.py')
    monkeypatch.chdir(tmp_path)
    runs = plan(read_recipe('mine.py'), Path('work'), only=['F_max*'])
    assert {name: len(group) for name, group in runs.items()} == {
        'wrn16-2_1xb128_cifar10': 1, 'wrn16-1_at-fmax1-wrn16-2_1xb128_cifar10': 5}


def test_relative_paths_of_configs_in_another_folder(tmp_path, monkeypatch):
    configs = tmp_path / 'experiments' / 'configs'
    configs.mkdir(parents=True)
    zoo = ROOT / 'configs'
    (configs / 'big_4xb16_digits.py').write_text(
        f'_base_ = {str(zoo / "wide_resnet/wrn16-2_1xb32_digits.py")!r}\ntrain_dataloader = dict(batch_size=16)\n')
    (configs / 'small.py').write_text(
        f'_base_ = {str(zoo / "at/wrn16-1_at-wrn16-2_1xb10_digits.py")!r}\n'
        "model = dict(teacher=dict(model='experiments/configs/big_4xb16_digits.py'))\n")
    (tmp_path / 'experiments' / 'mine.py').write_text(
        "title, note, seeds = 'Mine', 'A trial.', (3, 4)\n"
        "cells = [dict(row='small', column='accuracy', config='experiments/configs/small.py',\n"
        "              teacher='experiments/configs/big_4xb16_digits.py')]\n")
    monkeypatch.chdir(tmp_path)
    runs = plan(read_recipe('experiments/mine.py'), Path('work'))
    assert list(runs) == ['big_4xb16_digits', 'small']
    teacher, = runs['big_4xb16_digits']
    assert [(run.seed, run.teacher) for run in runs['small']] == [(3, teacher), (4, teacher)]
    # 4 x 16, in one process.
    assert (teacher.seed, teacher.options) == (3, {'train_dataloader.batch_size': 64})
    assert runs['small'][0].work_dir == Path('work/small/seed3') and not runs['small'][0].options
    assert 'model.teacher.checkpoint=work/big_4xb16_digits/seed3' in runs['small'][0].command()
