"""A fake Slurm on this machine: sbatch, srun, sacct, scancel and scontrol, as described in their manuals.

``install`` writes the commands, which run this file as a script.

The folder holds for each job (``3_0`` is a task of an array) ``states/<job>``, its state; ``pids/<job>``, the PID of
its task; and ``requeue/<job>`` if it should be started again. It holds for each submission ``scripts/<number>``,
``directories/<number>``, and ``controllers/<number>`` while its controller runs. While a file ``busy`` exists, nothing
in the queue changes. ``lock`` may name a file: ``at_requeue`` then says if it was locked when a job was last requeued.
"""
import fcntl
import os
import re
import shlex
import signal
import subprocess
import sys
import time
from pathlib import Path

COMMANDS = ('sbatch', 'srun', 'sacct', 'scancel', 'scontrol')
FOLDERS = ('states', 'pids', 'requeue', 'scripts', 'directories', 'controllers')
# Options in sbatch's manual; all but the last take a value.
SBATCH = ('account array comment constraint cpus-per-task dependency error exclude gpus-per-node gres job-name '
          'kill-on-invalid-dep mail-type mail-user mem mem-per-cpu mem-per-gpu nodelist nodes ntasks-per-node '
          'open-mode output partition qos signal time wckey requeue').split()


def install(folder):
    """Write the commands to ``folder/bin``."""
    for name in ('bin', *FOLDERS):
        (folder / name).mkdir(parents=True)
    for name in COMMANDS:
        command = folder / 'bin' / name
        command.write_text(f'#!/bin/sh\nexec {sys.executable} -S {shlex.quote(__file__)} {shlex.quote(str(folder))} '
                           f'{name} "$@"\n')
        command.chmod(0o755)


def read_script(text):
    """Return the options of an sbatch script, which precede its commands."""
    options = {}
    for line in text.splitlines():
        if line.strip() and not line.startswith('#'):
            break
        if line.startswith('#SBATCH'):
            [word] = shlex.split(line[len('#SBATCH'):])
            name, equals, value = word.removeprefix('--').partition('=')
            if name not in SBATCH or bool(equals) != (name != 'requeue'):
                sys.exit(f"sbatch: unrecognized option '{word}'")
            options[name] = value
    return options


def tasks_of(number, options):
    count = re.fullmatch(r'0-(\d+)%(\d+)', options['array']) if 'array' in options else None
    return ([f'{number}_{task}' for task in range(int(count[1]) + 1)], int(count[2])) if count else ([str(number)], 1)


def get(folder, job):
    return (folder / 'states' / job).read_text()


def put(folder, job, state):
    part = folder / 'states' / f'.{job}'
    part.write_text(state)
    part.rename(folder / 'states' / job)


def sbatch(folder, script):
    text = Path(script).read_text()
    options = read_script(text)
    if options.get('partition') == 'none':
        sys.exit('sbatch: error: invalid partition specified: none\n'
                 'sbatch: error: Batch job submission failed: Invalid partition name specified')
    after = re.fullmatch(r'afterok:(\w+)', options['dependency']) if 'dependency' in options else None
    if 'dependency' in options and not (after and (folder / 'states' / after[1]).is_file()):
        sys.exit('sbatch: error: Batch job submission failed: Job dependency problem')
    with open(folder / 'counter', 'a+') as counter:
        fcntl.flock(counter, fcntl.LOCK_EX)
        counter.write('x')
        counter.flush()
        number = counter.tell()
    for job in tasks_of(number, options)[0]:
        put(folder, job, 'PENDING')
    (folder / 'scripts' / str(number)).write_text(text)
    (folder / 'directories' / str(number)).write_text(os.getcwd())
    (folder / 'controllers' / str(number)).touch()
    subprocess.Popen([sys.executable, '-S', __file__, str(folder), 'control', str(number)],
                     stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
                     start_new_session=True)
    print(f'Submitted batch job {number}')


def control(folder, number):
    try:
        run_jobs(folder, number)
    finally:
        (folder / 'controllers' / number).unlink()


def run_jobs(folder, number):
    """Start and watch the jobs of a submission, as Slurm's controller does."""
    script = folder / 'scripts' / number
    options = read_script(script.read_text())
    jobs, parallel = tasks_of(number, options)
    after = options.get('dependency', '').removeprefix('afterok:')
    running = {}
    while True:
        busy = (folder / 'busy').exists()
        if after and not busy and get(folder, after).split()[0] not in ('PENDING', 'RUNNING'):
            if get(folder, after) == 'COMPLETED':
                after = ''
            else:
                for job in jobs if options['kill-on-invalid-dep'] == 'yes' else ():
                    put(folder, job, 'CANCELLED by 0')
                return
        for job in jobs:
            if job in running:
                status = running[job].poll()
                if status is None:
                    continue
                del running[job]
                if (folder / 'requeue' / job).exists():
                    (folder / 'requeue' / job).unlink()
                    put(folder, job, 'PENDING')
                elif get(folder, job) == 'RUNNING':
                    put(folder, job, 'FAILED' if status else 'COMPLETED')
            elif get(folder, job) == 'PENDING' and not after and not busy and len(running) < parallel:
                array, _, task = job.partition('_')
                names = dict(SLURM_JOB_ID=array if task in ('', '0') else str(9000 + int(task)))
                names.update(dict(SLURM_ARRAY_JOB_ID=array, SLURM_ARRAY_TASK_ID=task) if task else {})
                put(folder, job, 'RUNNING')
                running[job] = subprocess.Popen(
                    ['bash', str(script)], cwd=(folder / 'directories' / number).read_text(), env={
                        **os.environ, **names, 'FAKE_JOB': job, 'SLURM_PROCID': '0', 'SLURM_NTASKS': '1',
                        'SLURM_CPUS_PER_TASK': options['cpus-per-task']})
        if not running and not any(get(folder, job) == 'PENDING' for job in jobs):
            return
        time.sleep(0.05)


def srun(folder, *words):
    words = list(words)
    files = {}
    while words[0].startswith('--'):
        word = words.pop(0)
        if word in ('--output', '--error'):
            files[word] = words.pop(0)
        elif word != '--unbuffered' and not word.startswith('--cpus-per-task='):
            sys.exit(f"srun: unrecognized option '{word}'")
    job = os.environ['FAKE_JOB']
    for descriptor, name in ((1, files['--output']), (2, files['--error'])):
        for pattern, value in zip(('%j', '%A', '%a', '%t'), (job, *job.split('_'), '0') if '_' in job else
                                  (job, '', '', '0')):
            name = name.replace(pattern, value)
        os.dup2(os.open(name, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o644), descriptor)
    (folder / 'pids' / job).write_text(str(os.getpid()))
    os.execvp(words[0], words)


def sacct(folder, *words):
    asked = {number for flag, number in zip(words, words[1:]) if flag == '-j'}
    assert words[:3] == ('-o', 'JobID,State,NodeList', '--parsable2') and len(words) == 3 + 2 * len(asked)
    print('JobID|State|NodeList')
    for number in sorted(asked):
        waiting = []
        for path in sorted((folder / 'states').glob(f'{number}*')):
            job = path.name
            if job.split('_')[0] == number:
                word = get(folder, job)
                if word == 'PENDING' and '_' in job:
                    waiting.append(job.split('_')[1])
                else:
                    print(f'{job}|{word}|node1\n{job}.batch|{word.split()[0]}|node1')
        if waiting:
            print(f'{number}_[{",".join(waiting)}%2]|PENDING|None assigned')


def task(folder, job):
    try:
        return int((folder / 'pids' / job).read_text())
    except FileNotFoundError:
        return None


def send(pid, number):
    try:
        if pid:
            os.kill(pid, number)
    except ProcessLookupError:
        pass


def scancel(folder, *words):
    if '--signal' in words:
        [job, _, name] = words
        return send(task(folder, job), getattr(signal, name if name.startswith('SIG') else f'SIG{name}'))
    for job in words:
        word = get(folder, job)
        if word in ('PENDING', 'RUNNING'):
            put(folder, job, 'CANCELLED by 1000')
        if word == 'RUNNING':
            send(task(folder, job), signal.SIGKILL)


def scontrol(folder, command, job):
    assert command == 'requeue' and 'requeue' in read_script(
        (folder / 'scripts' / job.split('_')[0]).read_text())
    if (folder / 'lock').exists():
        with open((folder / 'lock').read_text()) as file:
            try:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
                word = 'free'
            except BlockingIOError:
                word = 'held'
        (folder / 'at_requeue').write_text(word)
    (folder / 'requeue' / job).touch()
    send(task(folder, job), signal.SIGTERM)


def lose(folder, job, word):
    """End a job as if its node failed or its memory was full."""
    put(folder, job, word)
    send(task(folder, job), signal.SIGKILL)


if __name__ == '__main__':
    sys.exit(globals()[sys.argv[2]](Path(sys.argv[1]), *sys.argv[3:]))
