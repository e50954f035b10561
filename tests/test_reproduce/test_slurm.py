import contextlib
import json
import os
import shutil
import subprocess
import sys
import time
from pathlib import Path

import fake_slurm
import pytest

import mmat
from mmat.errors import ConfigError, MissingFileError, MissingPackageError, UserError
from mmat.reproduce import slurm
from mmat.reproduce.run import Run
from mmat.reproduce.slurm import Training, check_options, execute_on_slurm
from mmat.reproduce.states import BLOCKED, DONE, FAILED, RUNNING

# Replaces tools/train.py: two epochs that only write the files of a training, resumed from the last checkpoint.
TRAIN = """
import argparse, json, os, sys, time
from pathlib import Path
parser = argparse.ArgumentParser()
parser.add_argument('config')
parser.add_argument('--work-dir', type=Path)
parser.add_argument('--seed')
parser.add_argument('--resume', action='store_true')
parser.add_argument('--cfg-options', nargs='+', default=[])
args = parser.parse_args()
options = dict(word.split('=') for word in args.cfg_options)
teacher = options.get('model.teacher.checkpoint')
text = (Path(teacher) / 'epoch_2.pth').read_text() + ' > ' if teacher else ''
last = args.work_dir / 'last_checkpoint'
begin = int(Path(last.read_text()).stem[-1]) if last.exists() else 0
print('from epoch', begin, flush=True)
for epoch in range(begin + 1, 3):
    while epoch == 2 and (args.work_dir / 'hold').exists():
        time.sleep(0.05)
    if (args.work_dir / 'fail').exists():
        sys.exit('the cause')
    checkpoint = args.work_dir / f'epoch_{epoch}.pth'
    checkpoint.write_text(f'{text}{args.config} {args.seed} in {os.getcwd()} {os.environ.get("FROM_SETUP", "")}')
    last.write_text(str(checkpoint))
    log = args.work_dir / f'started_at_{begin}' / 'vis_data' / 'scalars.json'
    log.parent.mkdir(parents=True, exist_ok=True)
    with open(log, 'a') as file:
        print(json.dumps({'accuracy/top1': 10. * epoch, 'step': epoch}), file=file)
"""


@pytest.fixture(autouse=True)
def quick_trainings(tmp_path, monkeypatch):
    """Let jobs import this package from a folder with a quick tools/train.py."""
    site, package = tmp_path / 'site', Path(mmat.__file__).parent
    for name in ('reproduce', 'utils'):
        shutil.copytree(package / name, site / 'mmat' / name, ignore=shutil.ignore_patterns('__pycache__'))
    for name in ('__init__.py', 'errors.py', 'version.py'):
        shutil.copy(package / name, site / 'mmat')
    (site / 'tools').mkdir()
    (site / 'tools' / 'train.py').write_text(TRAIN)
    (site / 'model-index.yml').touch()
    # Importing it takes half a second, and a run without a dumped config does not use it.
    (site / 'mmengine').mkdir()
    (site / 'mmengine' / 'config.py').write_text('Config = None')
    monkeypatch.setenv('PYTHONPATH', str(site))
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(slurm, 'FILE_DELAY', 1)


@pytest.fixture
def cluster(tmp_path, monkeypatch):
    """Install a fake Slurm on this machine; return its folder."""
    folder = tmp_path / 'cluster'
    fake_slurm.install(folder)
    monkeypatch.setenv('PATH', str(folder / 'bin'), prepend=os.pathsep)
    yield folder
    fake_slurm.scancel(folder, *(path.name for path in (folder / 'states').glob('[0-9]*')))
    (folder / 'busy').unlink(missing_ok=True)
    wait_for(lambda: not any((folder / 'controllers').iterdir()))


def wait_for(condition, seconds=60):
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end
        time.sleep(0.05)


def make(name, seed=0, teacher=None):
    """Make a run of two epochs, in a folder relative to the current one."""
    run = Run(Path('table') / name / f'seed{seed}', f'{name}.py', seed, epochs=2, teacher=teacher)
    run.prepare()
    return run


def execute(runs, watch=lambda states: None, **kwargs):
    states = execute_on_slurm(runs, watch, Path('table') / 'slurm', **{'pause': 0.2, **kwargs})
    return [states[run] for run in runs]


def scripts(cluster):
    """Return the options of each submission, in order."""
    paths = sorted((cluster / 'scripts').iterdir(), key=lambda path: int(path.name))
    return [fake_slurm.read_script(path.read_text()) for path in paths]


def slurm_states(cluster):
    """Return the states of all jobs, in the order of their names."""
    return [fake_slurm.get(cluster, path.name) for path in sorted((cluster / 'states').glob('[0-9]*'))]


def job_of(run):
    return json.loads((run.work_dir / 'job.json').read_text())['id']


def attempts(run):
    """Return the epochs from which the training was started."""
    lines = (run.work_dir / 'train.log').read_text().splitlines()
    return [int(line.split()[-1]) for line in lines if line.startswith('from epoch')]


def leave(states):
    raise KeyboardInterrupt


def test_a_table_is_two_job_arrays_of_which_one_waits_for_the_teacher(cluster, tmp_path):
    teacher = make('teacher')
    runs = [teacher, make('taught', 0, teacher), make('alone'), make('taught', 1, teacher)]
    seen = []
    options = dict(gpus_per_node='1', partition='gpu', setup='export FROM_SETUP=yes')
    assert execute(runs, lambda states: seen.append(dict(states)), jobs=1, options=options) == [DONE] * 4

    first, second = scripts(cluster)
    assert first['array'] == '0-1%1' and 'dependency' not in first and 'kill-on-invalid-dep' not in first
    assert second['array'] == '0-1%1' and second['dependency'] == 'afterok:1_0'
    assert second['kill-on-invalid-dep'] == 'yes'
    common = {'gpus-per-node': '1', 'partition': 'gpu', 'nodes': '1', 'ntasks-per-node': '1', 'cpus-per-task': '4',
              'time': '240', 'requeue': '', 'signal': 'USR2@90', 'job-name': 'mmat', 'open-mode': 'append'}
    assert common.items() <= first.items() and common.items() <= second.items()
    # From Slurm 22.05 on, srun uses one core without it.
    [line] = [line for line in (cluster / 'scripts' / '1').read_text().splitlines() if line.startswith('srun')]
    assert ' --cpus-per-task=4 ' in line
    assert [job_of(run) for run in runs] == ['1_0', '2_0', '1_1', '2_1']
    assert set(seen[0]) == set(runs) and any(states[teacher] == RUNNING for states in seen)

    # In the folder, and with the environment, of the command.
    own = f'teacher.py 0 in {tmp_path} yes'
    assert (teacher.work_dir / 'epoch_2.pth').read_text() == own
    assert (runs[3].work_dir / 'epoch_2.pth').read_text() == f'{own} > taught.py 1 in {tmp_path} yes'
    assert runs[3].result['metrics'] == {'accuracy/top1': 20.}
    assert runs[3].result['teacher_sha256'] == teacher.result['checkpoint_sha256']
    wait_for(lambda: slurm_states(cluster) == ['COMPLETED'] * 4)

    # Finished runs are not submitted again.
    assert execute(runs) == [DONE] * 4
    assert len(scripts(cluster)) == 2


def test_a_failed_teacher_removes_its_students_from_the_queue_and_both_are_resubmitted(cluster):
    teacher = make('teacher')
    runs = [teacher, make('taught', 0, teacher)]
    (teacher.work_dir / 'fail').touch()
    assert execute(runs) == [FAILED, BLOCKED]
    assert 'the cause' in teacher.failure['log'][-1]
    wait_for(lambda: slurm_states(cluster) == ['FAILED', 'CANCELLED by 0'])

    # Slurm is still cleaning up the node.
    fake_slurm.put(cluster, '1', 'COMPLETING')
    (teacher.work_dir / 'fail').unlink()
    assert execute(runs) == [DONE] * 2
    assert [script.get('dependency') for script in scripts(cluster)] == [None, 'afterok:1', None, 'afterok:3']


def test_a_killed_tool_leaves_its_jobs_to_the_next_call(cluster, tmp_path):
    teacher = make('teacher')
    runs = [teacher, make('taught', 0, teacher)]
    (teacher.work_dir / 'hold').touch()
    call = tmp_path / 'call.py'
    call.write_text('from pathlib import Path\n'
                    'from mmat.reproduce.run import open_run\n'
                    'from mmat.reproduce.slurm import execute_on_slurm\n'
                    'taught = open_run(Path("table/taught/seed0"))\n'
                    'execute_on_slurm([taught.teacher, taught], print, Path("table/slurm"), pause=0.2)\n')
    tool = subprocess.Popen([sys.executable, str(call)], stdout=subprocess.DEVNULL)
    try:
        wait_for(lambda: (teacher.work_dir / 'epoch_1.pth').exists() and (runs[1].work_dir / 'job.json').exists())
    finally:
        tool.kill()
        tool.wait()

    def release(states):
        if states[teacher] == RUNNING:
            (teacher.work_dir / 'hold').unlink(missing_ok=True)

    assert execute(runs, release) == [DONE] * 2
    assert len(scripts(cluster)) == 2 and attempts(teacher) == [0]


def test_a_job_that_times_out_stops_its_training_and_resumes(cluster):
    run = make('alone')
    (run.work_dir / 'hold').touch()
    (cluster / 'lock').write_text(str(run.work_dir.absolute() / 'lock'))
    sent = []

    def interrupt(states):
        if not sent and (run.work_dir / 'last_checkpoint').exists():
            # Slurm sends it because of `--signal`, to the job's process.
            sent.append(subprocess.run(['scancel', job_of(run), '--signal', 'USR2'], check=True))
        if len(run.record['attempts']) == 2:
            (run.work_dir / 'hold').unlink(missing_ok=True)

    assert execute([run], interrupt) == [DONE]
    assert attempts(run) == [0, 1] and len(scripts(cluster)) == 1
    assert (cluster / 'at_requeue').read_text() == 'free'
    assert run.result['attempts'] == 2


def test_a_job_that_dies_with_its_node_leaves_a_failure_and_resumes_in_the_next_call(cluster):
    run = make('alone')
    (run.work_dir / 'hold').touch()

    def lose(states):
        if states[run] == RUNNING and (run.work_dir / 'last_checkpoint').exists():
            fake_slurm.lose(cluster, job_of(run), 'OUT_OF_MEMORY')

    assert execute([run], lose) == [FAILED]
    assert run.failure['status'] == -9
    assert 'from epoch 0' in run.failure['log']
    assert any('OUT_OF_MEMORY' in line and f' {job_of(run)}.' in line for line in run.failure['log'])
    assert 'Loading pickle' in (run.work_dir.parents[1] / 'slurm' / f'{job_of(run)}_0_log.out').read_text()

    (run.work_dir / 'hold').unlink()
    assert execute([run]) == [DONE]
    assert attempts(run) == [0, 1] and run.failure is None


def test_an_interrupt_keeps_the_queue_and_students_of_a_lost_teacher_are_resubmitted(cluster, capsys):
    teacher = make('teacher')
    runs = [teacher, make('taught', 0, teacher)]
    (cluster / 'busy').touch()
    with pytest.raises(KeyboardInterrupt):
        execute(runs, leave)
    assert capsys.readouterr().err.strip().endswith(': scancel 1 2')
    assert slurm_states(cluster) == ['PENDING'] * 2

    # Slurm has not yet removed the student, and the teacher already has another job.
    fake_slurm.scancel(cluster, '1')
    for some in ([teacher], runs):
        with pytest.raises(KeyboardInterrupt):
            execute(some, leave)
    assert slurm_states(cluster) == ['CANCELLED by 1000'] * 2 + ['PENDING'] * 2

    # The teacher has no other job yet.
    fake_slurm.scancel(cluster, '3')
    assert execute(runs, lambda states: (cluster / 'busy').unlink(missing_ok=True)) == [DONE] * 2
    assert [script.get('dependency') for script in scripts(cluster)] == [
        None, 'afterok:1', None, 'afterok:3', None, 'afterok:5']
    wait_for(lambda: slurm_states(cluster) == ['CANCELLED by 1000'] * 4 + ['COMPLETED'] * 2)


def test_a_run_that_is_trained_outside_slurm_is_waited_for(cluster):
    runs, seen, held = [make('alone'), make('alone', 1)], [], contextlib.ExitStack()
    for run in runs:
        held.enter_context(run.lock())

    def watch(states):
        seen.append(list(states.values()))
        if len(seen) == 3:
            (runs[0].work_dir / 'result.json').write_text('{"metrics": {}}')
            (runs[1].work_dir / 'failure.json').write_text('{"status": 1, "log": []}')
            held.close()

    with held:
        assert execute(runs, watch) == [DONE, FAILED]
    assert seen[1] == [RUNNING] * 2 and not scripts(cluster)


def test_a_job_unknown_to_slurm_is_not_waited_for_forever(cluster, monkeypatch):
    run = make('alone')
    (cluster / 'busy').touch()
    with pytest.raises(KeyboardInterrupt):
        execute([run], leave)
    (cluster / 'states' / '1').rename(cluster / 'gone')
    monkeypatch.setattr(slurm, 'ACCOUNTING_DELAY', 0.5)
    with pytest.raises(UserError, match=r"job 1 \(alone, seed 0\).*delete '.*alone/seed0/job.json'"):
        execute([run])
    assert len(scripts(cluster)) == 1
    (cluster / 'gone').rename(cluster / 'states' / '1')


def test_the_local_cluster_of_submitit_keeps_the_order_too():
    teacher = make('teacher')
    runs = [teacher, make('taught', 0, teacher), make('failing')]
    (runs[2].work_dir / 'fail').touch()
    most = []

    def watch(states):
        most.append(sum(state == RUNNING for state in states.values()))

    assert execute(runs, watch, cluster='local', jobs=1) == [DONE, DONE, FAILED]
    assert max(most) == 1
    assert 'teacher.py' in (runs[1].work_dir / 'epoch_2.pth').read_text()


def test_a_job_trains_only_its_run_and_after_the_teacher(monkeypatch):
    teacher = make('teacher')
    run = make('taught', 0, teacher)
    monkeypatch.setenv('SUBMITIT_EXECUTOR', 'slurm')
    monkeypatch.setenv('SLURM_JOB_ID', '7')
    monkeypatch.setattr(slurm, 'FILE_DELAY', 0)
    with pytest.raises(RuntimeError, match=r"taught/seed0/job.json'.*job 7\b"):
        Training(run.work_dir)()
    (run.work_dir / 'job.json').write_text('{"id": "7"}')
    with pytest.raises(RuntimeError, match='taught, seed 0 .*teacher, seed 0.*table/teacher/seed0'):
        Training(run.work_dir)()
    assert 'attempts": []' in (run.work_dir / 'run.json').read_text()


def test_options_of_submitit_may_be_text(cluster):
    options = dict(
        partition='gpu', account='vision', qos='high', timeout_min='90', mem_gb='2.5', mem_per_cpu='2G',
        mem_per_gpu='4G', cpus_per_task='3', gpus_per_node='1', gres='gpu:a100:1', constraint='a100&nvlink',
        nodelist='n1,n2', exclude='n3', name='table', comment='the last', mail_type='FAIL,END', mail_user='me@here',
        wckey='w', setup='module load cuda', signal_delay_s='60', max_num_timeout='3')
    assert set(options) == set(slurm.OPTIONS)
    (cluster / 'busy').touch()
    with pytest.raises(KeyboardInterrupt):
        execute([make('alone')], leave, options=options)
    [script] = scripts(cluster)
    assert {name: script[name] for name in script if name not in (
        'error', 'output', 'open-mode', 'requeue', 'nodes', 'ntasks-per-node')} == {
        'partition': 'gpu', 'account': 'vision', 'qos': 'high', 'time': '90', 'mem': '2560MB', 'mem-per-cpu': '2G',
        'mem-per-gpu': '4G', 'cpus-per-task': '3', 'gpus-per-node': '1', 'gres': 'gpu:a100:1',
        'constraint': 'a100&nvlink', 'nodelist': 'n1,n2', 'exclude': 'n3', 'job-name': 'table', 'comment': 'the last',
        'mail-type': 'FAIL,END', 'mail-user': 'me@here', 'wckey': 'w', 'signal': 'USR2@60'}
    assert '\nmodule load cuda\n' in (cluster / 'scripts' / '1').read_text()


@pytest.mark.parametrize('options, message', [
    (dict(partion='gpu'), "--slurm.*'partion'.*'partition'"),
    (dict(time='90'), "--slurm.*'time'.*'timeout_min'"),
    (dict(timeout_min='1:30'), "--slurm timeout_min .*whole number above 0.*'1:30'"),
    (dict(mem_gb='0'), "--slurm mem_gb .*number above 0.*'0'"),
    (dict(partition=''), "--slurm partition .*text.*''"),
    (dict(gpus_per_node='2'), r'--slurm gpus_per_node .*--gpus-per-run.*\b1\b.*\b2\b'),
])
def test_invalid_options(options, message, tmp_path):
    with pytest.raises(ConfigError, match=message):
        check_options(options, [Run(tmp_path, 'config.py', 0, 1)])


def test_errors_before_anything_is_written(cluster, tmp_path, monkeypatch):
    run = make('alone')
    with pytest.raises(UserError, match='alone, seed 0: sbatch: error: invalid partition .*none'):
        execute([run], options=dict(partition='none'))
    assert not (run.work_dir / 'job.json').exists()
    shutil.rmtree('table/slurm')
    with pytest.raises(ConfigError, match=r'--jobs .*\b0\b'):
        execute([run], jobs=0)
    monkeypatch.setenv('PATH', str(tmp_path))
    with pytest.raises(MissingFileError, match='sbatch, srun, sacct'):
        execute([run])
    monkeypatch.setitem(sys.modules, 'submitit', None)
    with pytest.raises(MissingPackageError, match=r"submitit.*pip install 'mmat\[slurm\]'"):
        execute([run])
    assert not Path('table/slurm').exists()


def test_importing_it_is_fast():
    code = 'import sys, mmat.reproduce.slurm; print({"torch", "mmengine", "submitit"} & set(sys.modules))'
    assert subprocess.run([sys.executable, '-c', code], capture_output=True, text=True).stdout == 'set()\n'
