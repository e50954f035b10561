from pathlib import Path

import pytest
from mmengine.config import Config

from mmat.errors import ConfigError, MissingFileError
from mmat.reproduce.recipe import hash_of, options_of, plan, read_recipe, training_order

TEACHER, STUDENT, AT = 'wrn16-2_1xb32_digits', 'wrn16-1_1xb10_digits', 'wrn16-1_at-wrn16-2_1xb10_digits'
ROOT = Path(__file__).parents[2]


@pytest.fixture
def write(tmp_path):
    """Write a recipe with changed or removed (None) settings; return its path."""

    def write(cells=None, **settings):
        content = dict(title='T', note='N', seeds=(0, 1, 2), cells=cells if cells is not None else [
            dict(row='teacher', column='a', config=TEACHER, seeds=(7, 8)),
            dict(row='student', column='a', config=STUDENT, published=1.5),
            dict(row='with AT', column='a', config=AT, teacher=TEACHER)])
        content.update(settings)
        path = tmp_path / 'my_table.py'
        path.write_text('\n'.join(f'{key} = {value!r}' for key, value in content.items() if value is not None))
        return str(path)

    return write


@pytest.fixture
def make_plan(write, tmp_path):
    def make_plan(*args, cells=None, recipe=None, **kwargs):
        return plan(read_recipe(write(cells, **(recipe or {}))), tmp_path / 'work', *args, **kwargs)

    return make_plan


def seeds(plans):
    return {name: [run.seed for run in runs] for name, runs in plans.items()}


# Reading

def test_defaults_are_filled_in(write):
    recipe = read_recipe(write())
    assert recipe.measure == 'error' and recipe.gpus_per_run == 1
    assert [(cell.metric, cell.published) for cell in recipe.cells] == [
        ('accuracy/top1', None), ('accuracy/top1', 1.5), ('accuracy/top1', None)]
    given = read_recipe(write([dict(row='r', column='c', config=STUDENT, metric='m')], measure='accuracy',
                              gpus_per_run=8, helper=3))
    assert given.measure == 'accuracy' and given.gpus_per_run == 8 and given.cells[0].metric == 'm'


@pytest.mark.parametrize('settings, message', [
    (dict(title=None), r'my_table.py: missing title\b.*recipes/at_digits.py'),
    (dict(title=None, note=None), 'missing title, note'),
    (dict(title=None, titel='T'), "'titel'.*'title'"),
    (dict(mesure='accuracy'), "'mesure'.*'measure'"),
    (dict(gpu_per_run=2), "'gpu_per_run'.*'gpus_per_run'"),
    (dict(title=3), r'my_table.py: title .*\b3\b'),
    (dict(seeds=5), r'my_table.py: seeds .*\b5\b'),
    (dict(cells={}), r'my_table.py: cells .*\{\}'),
    (dict(seeds=()), 'my_table.py: seeds .*empty'),
    (dict(cells=[]), 'my_table.py: cells .*empty'),
    (dict(seeds=(0, '1')), r"my_table.py: seeds .*\(0, 1, 2\).*\(0, '1'\)"),
    (dict(measure='errors'), "my_table.py: measure .*'error'.*'accuracy'.*'errors'"),
    (dict(gpus_per_run=0), r'my_table.py: gpus_per_run .*\b0\b'),
    (dict(gpus_per_run='8'), "my_table.py: gpus_per_run .*'8'"),
])
def test_mistakes_in_a_recipe(write, settings, message):
    with pytest.raises(ConfigError, match=message):
        read_recipe(write(**settings))


@pytest.mark.parametrize('cell, message', [
    (dict(column=None), r"my_table.py, cell .*'row': 'r'.*: missing column\b"),
    (dict(row=None, config=None), 'missing row, config'),
    (dict(techer=TEACHER), "my_table.py, cell 'r', 'c': .*'techer'.*'teacher'"),
    (dict(seeds=3), r"my_table.py, cell 'r', 'c': seeds .*\(0, 1, 2\).*\b3\b"),
    (dict(seeds=()), r"cell 'r', 'c': seeds .*\(0, 1, 2\).*\(\)"),
    (dict(published='8.77'), "cell 'r', 'c': published .*'8.77'"),
    (dict(teacher=TEACHER), f"cell 'r', 'c': teacher .*'{TEACHER}'.* {STUDENT} "),
    (dict(config=AT), f"cell 'r', 'c': teacher .*'{TEACHER}'.* {AT}, .*None"),
    (dict(config=AT, teacher=STUDENT), f"cell 'r', 'c': teacher .*'{TEACHER}'.* {AT}, .*'{STUDENT}'"),
])
def test_mistakes_in_a_cell(write, cell, message):
    content = {**dict(row='r', column='c', config=STUDENT), **cell}
    with pytest.raises(ConfigError, match=message):
        read_recipe(write([{key: value for key, value in content.items() if value is not None}]))


def test_a_misspelt_config(write):
    with pytest.raises(MissingFileError, match=f"'a/wrn16-1_1xb10_digit.py'.*{STUDENT}"):
        read_recipe(write([dict(row='r', column='c', config='a/wrn16-1_1xb10_digit.py')]))


def test_a_misspelt_recipe(write, monkeypatch, tmp_path):
    path = write()
    with pytest.raises(MissingFileError, match=f"'{path[:-4]}s.py'.*'{path}'"):
        read_recipe(f'{path[:-4]}s.py')
    with pytest.raises(MissingFileError, match=str(tmp_path)):
        read_recipe(str(tmp_path))
    monkeypatch.chdir(ROOT)
    with pytest.raises(MissingFileError, match="'at_table1'.*'recipes/at_table1.py'"):
        read_recipe('at_table1')
    with pytest.raises(MissingFileError, match="'x.py'.* recipes/at_cifar100.py, .*recipes/at_table1.py"):
        read_recipe('x.py')
    (tmp_path / 'empty').mkdir()
    monkeypatch.chdir(tmp_path / 'empty')
    with pytest.raises(MissingFileError, match=r"'x.py'\.$"):
        read_recipe('x.py')


def test_two_configs_of_one_name(write, tmp_path):
    other = tmp_path / f'{STUDENT}.py'
    other.write_text(f"_base_ = '{ROOT}/configs/wide_resnet/{STUDENT}.py'")
    cells = [dict(row=row, column='c', config=config) for row, config in (('1', STUDENT), ('2', str(other)))]
    with pytest.raises(ConfigError, match=f'{ROOT}/configs/wide_resnet/{STUDENT}.py .*{other}'):
        read_recipe(write(cells))


def test_a_config_in_several_cells_is_trained_once(write):
    cells = [dict(row=row, column='c', config=STUDENT, seeds=numbers) for row, numbers in (('1', (0, )), ('2', (1, )))]
    with pytest.raises(ConfigError, match=rf'{STUDENT} .*\bseeds\b.*\(0,\).*\(1,\)'):
        read_recipe(write(cells))


# Planning

def test_teachers_come_first_once_and_teach_with_their_first_seed(make_plan):
    plans = make_plan(cells=[dict(row='with AT', column='a', config=AT, teacher=TEACHER),
                             dict(row='student', column='a', config=STUDENT),
                             dict(row='student', column='again', config=STUDENT),
                             dict(row='teacher', column='a', config=TEACHER, seeds=(7, 8))])
    assert seeds(plans) == {TEACHER: [7, 8], AT: [0, 1, 2], STUDENT: [0, 1, 2]}
    assert list(plans) == [TEACHER, AT, STUDENT]
    assert {run.teacher for run in plans[AT]} == {plans[TEACHER][0]}
    assert {run.teacher for run in plans[TEACHER] + plans[STUDENT]} == {None}


def test_a_teacher_without_a_cell_is_trained_with_the_first_seed_of_the_recipe(make_plan):
    plans = make_plan(cells=[dict(row='r', column='c', config=AT, teacher=f'configs/wide_resnet/{TEACHER}.py')],
                      recipe=dict(seeds=(5, 3)))
    assert seeds(plans) == {TEACHER: [5], AT: [5, 3]}


def test_a_run(make_plan, tmp_path):
    run = make_plan()[AT][1]
    assert run.work_dir == tmp_path / 'work' / AT / 'seed1' and run.config == AT and run.name == AT
    assert (run.seed, run.epochs, run.options, run.processes) == (1, 60, {}, 1)
    assert run.teacher.work_dir == tmp_path / 'work' / TEACHER / 'seed7' and run.teacher.epochs == 10
    assert not (tmp_path / 'work').exists()


@pytest.mark.parametrize('count, expected', [
    (1, {TEACHER: [7], STUDENT: [0], AT: [0]}),
    (3, {TEACHER: [7, 8], STUDENT: [0, 1, 2], AT: [0, 1, 2]}),
    (5, {TEACHER: [7, 8], STUDENT: [0, 1, 2, 3, 4], AT: [0, 1, 2, 3, 4]}),  # a cell's separate seeds stay
])
def test_the_number_of_seeds(make_plan, count, expected):
    assert seeds(make_plan(count)) == expected


def test_further_seeds_count_up_from_the_largest(make_plan):
    plans = make_plan(4, cells=[dict(row='r', column='c', config=STUDENT)], recipe=dict(seeds=(9, 2)))
    assert seeds(plans) == {STUDENT: [9, 2, 10, 11]}


@pytest.mark.parametrize('only, expected', [
    ([AT], {TEACHER: [7], AT: [0, 1, 2]}),
    (['with AT'], {TEACHER: [7], AT: [0, 1, 2]}),
    (['student'], {STUDENT: [0, 1, 2]}),
    (['wrn16-1_1*'], {STUDENT: [0, 1, 2]}),
    (['s*', 't*'], {TEACHER: [7, 8], STUDENT: [0, 1, 2]}),
    (['*'], {TEACHER: [7, 8], STUDENT: [0, 1, 2], AT: [0, 1, 2]}),
])
def test_only_some(make_plan, only, expected):
    assert seeds(make_plan(only=only)) == expected


def test_only_with_an_unknown_name(make_plan):
    with pytest.raises(ConfigError, match="--only 'studnet' .*'student'"):
        make_plan(only=['teacher', 'studnet'])


def test_a_teacher_that_has_a_teacher(make_plan, tmp_path):
    last = tmp_path / 'wrn16-1_at-at_1xb10_digits.py'
    last.write_text(f"_base_ = '{ROOT}/configs/at/{AT}.py'\n"
                    f"model = dict(teacher=dict(_delete_=True, model='configs/at/{AT}.py'))")
    cells = [dict(row='1', column='c', config=str(last), teacher=AT),
             dict(row='2', column='c', config=AT, teacher=TEACHER), dict(row='3', column='c', config=STUDENT)]
    plans = make_plan(cells=cells)
    assert list(plans) == [TEACHER, AT, last.stem, STUDENT]
    assert {run.teacher for run in plans[last.stem]} == {plans[AT][0]} and len(plans[AT]) == 3
    assert [(run.name, run.seed) for run in training_order(plans)] == [
        (TEACHER, 0), (AT, 0), (last.stem, 0), (STUDENT, 0), (AT, 1), (last.stem, 1), (STUDENT, 1),
        (AT, 2), (last.stem, 2), (STUDENT, 2)]
    assert seeds(make_plan(cells=cells, only=[last.stem])) == {TEACHER: [0], AT: [0], last.stem: [0, 1, 2]}


def batch_seeds(plans):
    return {name: [run.batch_seed for run in runs] for name, runs in plans.items()}


def test_seeds_of_a_cell_share_the_batches_of_its_first(make_plan):
    cells = [dict(row='teacher', column='a', config=TEACHER, seeds=(7, )),
             dict(row='student', column='a', config=STUDENT, seeds=(4, 5)),
             dict(row='with AT', column='a', config=AT, teacher=TEACHER)]
    plain, shared = make_plan(cells=cells), make_plan(cells=cells, share_batches=True)
    assert seeds(plain) == seeds(shared)
    for one, other in zip(training_order(plain), training_order(shared)):
        assert {**vars(one), 'teacher': None} == {**vars(other), 'teacher': None, 'batch_seed': None}
    assert batch_seeds(plain) == {TEACHER: [None], STUDENT: [None] * 2, AT: [None] * 3}
    assert batch_seeds(shared) == {TEACHER: [None], STUDENT: [4, 4], AT: [0, 0, 0]}
    assert batch_seeds(make_plan(1, cells=cells, share_batches=True))[AT] == [None]
    assert batch_seeds(make_plan(5, cells=cells, share_batches=True))[AT] == [0] * 5
    # A teacher has its cell's batches, even if the cell's other seeds are not trained.
    assert batch_seeds(make_plan(only=[AT], share_batches=True)) == {TEACHER: [7], AT: [0, 0, 0]}
    no_cell = make_plan(cells=cells[2:], share_batches=True)
    assert batch_seeds(no_cell) == {TEACHER: [None], AT: [0, 0, 0]}


@pytest.mark.parametrize('arguments, message', [
    (dict(processes=2), r'--share-batches .*\b2\b.*--gpus-per-run 1'),
    (dict(options={'train_dataloader.num_workers': 2}), f'--share-batches: .*{STUDENT} .*num_workers'),
    (dict(options={'default_hooks.checkpoint.max_keep_ckpts': 1}), f'--share-batches: .*{STUDENT} .*max_keep_ckpts'),
])
def test_batches_that_cannot_be_shared(make_plan, arguments, message):
    make_plan(only=['student'], **arguments)
    with pytest.raises(ConfigError, match=message):
        make_plan(only=['student'], share_batches=True, **arguments)


def test_seed_by_seed_and_teachers_first(make_plan):
    plans = make_plan(cells=[dict(row='student', column='a', config=STUDENT),
                             dict(row='with AT', column='a', config=AT, teacher=TEACHER)])
    assert [(run.name, run.seed) for run in training_order(plans)] == [
        (TEACHER, 0), *((name, seed) for seed in (0, 1, 2) for name in (STUDENT, AT))]


def test_scaled_epochs_by_hand(make_plan):
    plans = make_plan(1, scale=0.1)
    assert plans[STUDENT][0].epochs == 6 and plans[TEACHER][0].epochs == 1
    assert plans[STUDENT][0].options == {'train_cfg.max_epochs': 6, 'param_scheduler.milestones': [2, 4, 5]}
    assert plans[TEACHER][0].options == {'train_cfg.max_epochs': 1, 'param_scheduler.milestones': [1, 1, 1]}


@pytest.mark.parametrize('name, batch, processes, expected', [
    ('net_1xb128_x', 128, 1, {}),
    ('net_1xb128_x', 128, 4, {'train_dataloader.batch_size': 32}),
    ('net_8xb32_x', 32, 8, {}),
    ('net_8xb32_x', 32, 1, {'train_dataloader.batch_size': 256}),
    ('net_8xb32_x', 32, 2, {'train_dataloader.batch_size': 128}),
    ('net', 30, 3, {'train_dataloader.batch_size': 10}),
])
def test_the_total_batch_size_stays(name, batch, processes, expected):
    config = Config(dict(train_dataloader=dict(batch_size=batch), train_cfg=dict(max_epochs=3)), cfg_text='-',
                    filename=f'configs/{name}.py')
    assert options_of(config, 1., processes) == expected


def test_the_recipe_sets_the_processes_of_a_training(make_plan):
    assert make_plan(recipe=dict(gpus_per_run=2))[STUDENT][0].processes == 2
    run = make_plan(recipe=dict(gpus_per_run=2), processes=5, only=[STUDENT])[STUDENT][0]
    assert run.processes == 5 and run.options == {'train_dataloader.batch_size': 2}


@pytest.mark.parametrize('arguments, message', [
    (dict(seeds=0), r'--seeds .*\b0\b'),
    (dict(seeds=-1), r'--seeds .*-1\b'),
    (dict(processes=0), r'--gpus-per-run .*\b0\b'),
    (dict(processes=3), rf'\b32 .*{TEACHER}.py .*\b3\b'),
    (dict(scale=0.), r'--epochs-scale .*\b0\.0'),
])
def test_what_cannot_be_planned(make_plan, arguments, message):
    with pytest.raises(ConfigError, match=message):
        make_plan(**arguments)


def test_a_hash_changes_with_what_a_config_says(tmp_path):
    texts = ['a = dict(b=1, c=[2])\n', '# written differently\na = dict(c=[2], b=1)\n', 'a = dict(b=1, c=[3])\n']
    hashes = []
    for number, text in enumerate(texts):
        path = tmp_path / f'{number}.py'
        path.write_text(text)
        hashes.append(hash_of(Config.fromfile(path)))
    assert hashes[0] == hashes[1] != hashes[2] and all(map(str.isalnum, hashes))
