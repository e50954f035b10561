from pathlib import Path

import pytest
from mmengine.config import Config

from mmat.reproduce.recipe import hash_of, options_of, plan, read_recipe, training_order

TEACHER, STUDENT, AT = 'wrn16-2_1xb32_digits', 'wrn16-1_1xb10_digits', 'wrn16-1_at-wrn16-2_1xb10_digits'
ROOT = Path(__file__).parents[2]


@pytest.fixture
def write(tmp_path):
    """Writes a recipe, with settings of its own or without some (None); gives its path."""

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
    (dict(title=None), 'the recipe .*my_table.py lacks title; recipes/at_digits.py shows what one has'),
    (dict(title=None, note=None), 'lacks title, note'),
    (dict(title=None, titel='T'), "has 'titel', which none has; did you mean 'title'"),
    (dict(mesure='accuracy'), "has 'mesure', which none has; did you mean 'measure'"),
    (dict(gpu_per_run=2), "did you mean 'gpus_per_run'"),
    (dict(title=3), 'title of the recipe .*my_table.py is 3'),
    (dict(seeds=5), 'seeds of the recipe .* is 5'),
    (dict(cells={}), 'cells of the recipe .* is {}'),
    (dict(seeds=()), 'has no seeds'),
    (dict(cells=[]), 'has no cells'),
    (dict(seeds=(0, '1')), r'seeds of the recipe .* must be whole numbers, such as \(0, 1, 2\), got'),
    (dict(measure='errors'), "measure of the recipe .* is 'error' or 'accuracy', got 'errors'"),
    (dict(gpus_per_run=0), 'gpus_per_run of the recipe .* must be at least 1, got 0'),
    (dict(gpus_per_run='8'), "gpus_per_run of the recipe .* is '8'"),
])
def test_what_is_wrong_with_a_recipe(write, settings, message):
    with pytest.raises(ValueError, match=message):
        read_recipe(write(**settings))


@pytest.mark.parametrize('cell, message', [
    (dict(column=None), 'the cell .* of the recipe .*my_table.py lacks column'),
    (dict(row=None, config=None), 'lacks row, config'),
    (dict(techer=TEACHER), "has 'techer', which none has; did you mean 'teacher'"),
    (dict(seeds=3), "seeds of the cell 'r', 'c' of the recipe .* must be whole numbers, .* got 3"),
    (dict(seeds=()), 'must be whole numbers'),
    (dict(published='8.77'), "published of the cell 'r', 'c' .* must be a number, got '8.77'"),
    (dict(teacher=TEACHER), f"has the teacher '{TEACHER}', and its config {STUDENT} has none"),
    (dict(config=AT), f"has the teacher None, and its config {AT} is taught by '{TEACHER}'"),
    (dict(config=AT, teacher=STUDENT), f"has the teacher '{STUDENT}', and its config {AT} is taught by '{TEACHER}'"),
])
def test_what_is_wrong_with_a_cell(write, cell, message):
    content = {**dict(row='r', column='c', config=STUDENT), **cell}
    with pytest.raises(ValueError, match=message):
        read_recipe(write([{key: value for key, value in content.items() if value is not None}]))


def test_a_misspelt_config(write):
    with pytest.raises(FileNotFoundError, match=f"no config 'a/wrn16-1_1xb10_digit.py': .*{STUDENT}"):
        read_recipe(write([dict(row='r', column='c', config='a/wrn16-1_1xb10_digit.py')]))


def test_a_misspelt_recipe(write, monkeypatch, tmp_path):
    path = write()
    with pytest.raises(FileNotFoundError, match=f"no recipe '{path[:-4]}s.py'; there are {path}"):
        read_recipe(f'{path[:-4]}s.py')
    with pytest.raises(FileNotFoundError, match='no recipe'):
        read_recipe(str(tmp_path))
    monkeypatch.chdir(ROOT)
    with pytest.raises(FileNotFoundError, match="no recipe 'at_table1'; there are recipes/at_table1.py"):
        read_recipe('at_table1')
    with pytest.raises(FileNotFoundError, match="no recipe 'x.py'; there are recipes/at_cifar100.py, .*at_table1.py"):
        read_recipe('x.py')
    (tmp_path / 'empty').mkdir()
    monkeypatch.chdir(tmp_path / 'empty')
    with pytest.raises(FileNotFoundError, match="no recipe 'x.py'$"):
        read_recipe('x.py')


def test_two_configs_of_one_name(write, tmp_path):
    (tmp_path / f'{STUDENT}.py').write_text(f"_base_ = '{ROOT}/configs/wide_resnet/{STUDENT}.py'")
    cells = [dict(row=row, column='c', config=config)
             for row, config in (('1', STUDENT), ('2', str(tmp_path / f'{STUDENT}.py')))]
    with pytest.raises(ValueError, match='has two configs of one name, by which results go'):
        read_recipe(write(cells))


def test_a_config_in_several_cells_is_one_training(write):
    cells = [dict(row=row, column='c', config=STUDENT, seeds=numbers) for row, numbers in (('1', (0, )), ('2', (1, )))]
    with pytest.raises(ValueError, match=rf'the config {STUDENT} in several cells, .* with seeds \(0,\) and \(1,\)'):
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
    (5, {TEACHER: [7, 8], STUDENT: [0, 1, 2, 3, 4], AT: [0, 1, 2, 3, 4]}),  # seeds of its own are no fewer
])
def test_so_many_seeds(make_plan, count, expected):
    assert seeds(make_plan(count)) == expected


def test_more_seeds_go_on_counting_from_the_greatest(make_plan):
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


def test_only_what_is_not_there(make_plan):
    with pytest.raises(ValueError, match="--only 'studnet' matches no config and no row .*; the closest are 'student'"):
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
    # A teacher has the batches that it has as a cell, whether the other seeds of that are wanted or not.
    assert batch_seeds(make_plan(only=[AT], share_batches=True)) == {TEACHER: [7], AT: [0, 0, 0]}
    no_cell = make_plan(cells=cells[2:], share_batches=True)
    assert batch_seeds(no_cell) == {TEACHER: [None], AT: [0, 0, 0]}


@pytest.mark.parametrize('arguments, message', [
    (dict(processes=2), '--share-batches trains all seeds in one process, and here 2 share a training: --gpus-per-run'),
    (dict(options={'train_dataloader.num_workers': 2}), f'--share-batches: the seeds of {STUDENT} cannot share their '
     'batches: .*num_workers'),
    (dict(options={'default_hooks.checkpoint.max_keep_ckpts': 1}), 'cannot share their batches: .*max_keep_ckpts'),
])
def test_batches_that_cannot_be_shared(make_plan, arguments, message):
    make_plan(only=['student'], **arguments)
    with pytest.raises(ValueError, match=message):
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
def test_the_whole_batch_stays(name, batch, processes, expected):
    config = Config(dict(train_dataloader=dict(batch_size=batch), train_cfg=dict(max_epochs=3)), cfg_text='-',
                    filename=f'configs/{name}.py')
    assert options_of(config, 1., processes) == expected


def test_the_recipe_says_how_many_share_a_training(make_plan):
    assert make_plan(recipe=dict(gpus_per_run=2))[STUDENT][0].processes == 2
    run = make_plan(recipe=dict(gpus_per_run=2), processes=5, only=[STUDENT])[STUDENT][0]
    assert run.processes == 5 and run.options == {'train_dataloader.batch_size': 2}


@pytest.mark.parametrize('arguments, message', [
    (dict(seeds=0), '--seeds must be at least 1, got 0'),
    (dict(seeds=-1), '--seeds must be at least 1, got -1'),
    (dict(processes=0), '--gpus-per-run must be at least 1, got 0'),
    (dict(processes=3), f'the batch of .*{TEACHER}.py, 32, cannot be shared among 3 processes'),
    (dict(scale=0.), 'can be scaled by a positive number only, got 0.0'),
])
def test_what_cannot_be_planned(make_plan, arguments, message):
    with pytest.raises(ValueError, match=message):
        make_plan(**arguments)


def test_a_hash_changes_with_what_a_config_says(tmp_path):
    texts = ['a = dict(b=1, c=[2])\n', '# said otherwise\na = dict(c=[2], b=1)\n', 'a = dict(b=1, c=[3])\n']
    hashes = []
    for number, text in enumerate(texts):
        path = tmp_path / f'{number}.py'
        path.write_text(text)
        hashes.append(hash_of(Config.fromfile(path)))
    assert hashes[0] == hashes[1] != hashes[2] and all(map(str.isalnum, hashes))
