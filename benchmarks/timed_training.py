#!/usr/bin/env python
"""Run iterations of any training command that uses mmengine's Runner, and record the time of each.

    python benchmarks/timed_training.py 60 tools/train.py wrn16-1_1xb128_cifar10 --work-dir /tmp/run

The other benchmarks call it in new processes. The last printed line is JSON: ``ends``, the time (time.time) after each
iteration including hooks and logging, and ``images``, the images of an iteration in all processes.
"""
import json
import runpy
import sys
import time

from common import StopTraining


def run(iterations: int, tool: str, *arguments: str) -> dict:
    """Run a training command for a number of iterations.

    Args:
        iterations (int): At least 1.
        tool (str): Path of the script.
        arguments: Command line arguments.

    Returns:
        dict: ``ends`` and ``images``, see above.
    """
    from mmengine.dist import get_world_size
    from mmengine.hooks import Hook
    from mmengine.runner import Runner
    timed = {}

    class Clock(Hook):

        def before_train(self, runner):
            timed.update(ends=[], images=runner.train_dataloader.batch_size * get_world_size())

        def after_train_iter(self, runner, batch_idx, data_batch=None, outputs=None):
            timed['ends'].append(time.time())
            if len(timed['ends']) == iterations:
                raise StopTraining

    train, argv = Runner.train, sys.argv

    def train_with_clock(runner):
        runner.register_hook(Clock(), 'LOWEST')  # the last of all hooks
        return train(runner)

    Runner.train, sys.argv = train_with_clock, [tool, *arguments]
    try:
        runpy.run_path(tool, run_name='__main__')
    except StopTraining:
        return timed
    finally:
        Runner.train, sys.argv = train, argv
    raise RuntimeError(f'Script {tool} ended after {len(timed.get("ends", ()))} of {iterations} iterations.')


def images_per_second(timed: dict, skip: int) -> float:
    """Compute images/s from the result of :func:`run`, without the first ``skip`` iterations."""
    ends = timed['ends'][skip - 1:]
    return timed['images'] * (len(ends) - 1) / (ends[-1] - ends[0])


def save_untrained(name: str, path: str) -> str:
    """Save a checkpoint of an untrained network of the zoo, as a teacher, and return its path."""
    import torch

    from mmat.models import build_network
    torch.save(dict(state_dict=build_network(name).state_dict()), path)
    return path


if __name__ == '__main__':
    result = run(int(sys.argv[1]), *sys.argv[2:])
    from mmengine.dist import is_main_process
    if is_main_process():
        print(json.dumps(result))
