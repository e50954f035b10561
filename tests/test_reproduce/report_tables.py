"""Write run folders by hand and read their reports, for the tests of reports."""
import hashlib
import json
import re
from html.parser import HTMLParser

from mmengine.config import Config

from mmat.reproduce.recipe import plan
from mmat.reproduce.report import write_report

VOID = {'meta', 'img', 'br'}
VERSIONS = dict(mmat='0.1.0', python='3.11.7', torch='2.15.0', torchvision='0.29.2', mmengine='0.10.7',
                mmpretrain='1.2.0', numpy='2.4.6')
RESULT = dict(wall_time=3725, attempts=1, date='2026-11-20', precision='bf16 autocast', hardware='2 cores of a CPU',
              commit='0123456789ab', versions=VERSIONS)


def write_config(folder, name, epochs=10, **settings):
    """Write a minimal config, by default with a number of epochs only."""
    content = dict(train_cfg=dict(by_epoch=True, max_epochs=epochs), model=dict(type='none'), **settings)
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / f'{name}.py'
    path.write_text('\n'.join(f'{key} = {value!r}' for key, value in content.items()))
    return str(path)


def make_recipe(cells, seeds=(0, 1, 2), measure='error', title='A table', note='A note.'):
    cells = [{**dict(metric='accuracy/top1', published=None), **cell} for cell in cells]
    return Config(dict(title=title, note=note, seeds=seeds, measure=measure, gpus_per_run=1, cells=cells))


def two_rows(folder):
    """Return the cells of two rows with student, AT and teacher; the student is the same in both rows."""
    configs = {name: write_config(folder, name) for name in (
        'small', 'small_at-big', 'big', 'small_at-deep', 'deep')}

    def cell(row, column, config, published, teacher=None):
        return dict(row=row, column=column, config=configs[config], published=published,
                    **(dict(teacher=configs[teacher]) if teacher else {}))

    return [cell('from big', 'student', 'small', 8.77), cell('from big', 'AT', 'small_at-big', 7.93, 'big'),
            cell('from big', 'teacher', 'big', 6.31), cell('from deep', 'student', 'small', 8.77),
            cell('from deep', 'AT', 'small_at-deep', 8.25, 'deep'), cell('from deep', 'teacher', 'deep', None)]


def make_runs(recipe, work_dir, **options):
    """Plan the runs and write their `run.json`."""
    runs = plan(recipe, work_dir, **options)
    for group in runs.values():
        for run in group:
            run.prepare()
    return runs


def begin(run, lines=(), attempts=1):
    """Record that the run was started and logged some lines."""
    record = {**run.record, 'attempts': [dict(started=1., ended=2., host='here', commit='0123456789ab')] * attempts}
    (run.work_dir / 'run.json').write_text(json.dumps(record))
    log(run, lines)


def log(run, lines, when='20261120_101010'):
    path = run.work_dir / when / 'vis_data' / 'scalars.json'
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(''.join(json.dumps(line) + '\n' for line in lines))


def training(values, per_epoch=2, key='accuracy/top1', every=1):
    """Return the log of a training with a loss of 1 / iteration."""
    lines = []
    for epoch, value in enumerate(values, 1):
        for iteration in range((epoch - 1) * per_epoch + 1, epoch * per_epoch + 1):
            lines.append(dict(lr=0.1, loss=1 / iteration, epoch=epoch, iter=iteration, step=iteration))
        if epoch % every == 0 or epoch == len(values):
            lines.append({key: value, 'step': epoch})
    return lines


def finish(run, accuracy, content=None, **changes):
    """Record a result of the run, with a checkpoint and its correct hash."""
    begin(run, training([accuracy / 2, accuracy]))
    checkpoint = run.work_dir / f'epoch_{run.epochs}.pth'
    if not checkpoint.is_file():
        checkpoint.write_bytes(run.label.encode() if content is None else content)
    digest = hashlib.sha256(checkpoint.read_bytes()).hexdigest()
    teacher = run.teacher and run.teacher.result
    result = {**RESULT, **dict(
        metrics={'accuracy/top1': accuracy, 'accuracy/top5': accuracy + 5}, epochs=run.epochs,
        checkpoint=checkpoint.name, checkpoint_sha256=digest,
        teacher_sha256=teacher and teacher['checkpoint_sha256']), **changes}
    (run.work_dir / 'result.json').write_text(json.dumps(result))


def finish_all(runs, accuracies):
    """Finish runs, given config name -> accuracy of each seed; teachers must precede their students."""
    for name, values in accuracies.items():
        for run, accuracy in zip(runs[name], values):
            finish(run, accuracy)


def fail(run, lines=('Traceback', 'ValueError: wrong'), status=1):
    begin(run)
    (run.work_dir / 'failure.json').write_text(json.dumps(dict(status=status, log=list(lines))))


class Page(HTMLParser):
    """The elements of a page as (tag, attributes, text); fails if tags are not balanced."""

    def __init__(self, text):
        super().__init__()
        self.elements, self.open = [], []
        self.feed(text)
        self.close()
        assert not self.open

    def handle_starttag(self, tag, attributes):
        assert len(dict(attributes)) == len(attributes)
        entry = [tag, dict(attributes), '']
        self.elements.append(entry)
        if tag not in VOID:
            self.open.append(entry)

    def handle_endtag(self, tag):
        assert self.open.pop()[0] == tag

    def handle_data(self, data):
        for entry in self.open:
            entry[2] += data

    def find(self, tag, class_=None):
        return [(attributes, ' '.join(text.split())) for name, attributes, text in self.elements
                if name == tag and (class_ is None or class_ in (attributes.get('class') or '').split())]

    def texts(self, tag, class_=None):
        return [text for _, text in self.find(tag, class_)]


def report(recipe, runs, work_dir, name='a_table'):
    """Write a report; return the page and the Markdown."""
    paths = write_report(name, recipe, runs, work_dir)
    assert [path.name for path in paths] == ['report.html', 'report.md', 'results.csv']
    assert not list(work_dir.glob('.*'))
    return Page(paths[0].read_text()), paths[1].read_text()


def markdown_table(text, index=0):
    """Return the cells of a table, row by row."""
    tables = re.findall(r'(?:^\|.*\|\n)+', text, re.M)
    rows = [[cell.strip() for cell in re.split(r'(?<!\\)\|', line)[1:-1]] for line in tables[index].splitlines()]
    assert len({len(row) for row in rows}) == 1
    return [rows[0], *rows[2:]]


def half_done(folder):
    """Write a table of two rows and three columns; student and teacher of the first row and one AT run are finished."""
    recipe = make_recipe(two_rows(folder / 'configs'))
    runs = make_runs(recipe, folder / 'table')
    finish_all(runs, {'small': [90, 91, 92.5], 'big': [93.5, 94, 93], 'small_at-big': [93]})
    return recipe, runs, folder / 'table'
