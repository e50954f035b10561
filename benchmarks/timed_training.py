#!/usr/bin/env python
"""Some iterations of a command that trains through mmengine's Runner, as it is, with the time at the end of each.

    python benchmarks/timed_training.py 60 tools/train.py wrn16-1_1xb128_cifar10 --work-dir /tmp/run

The other benchmarks call it, in processes of its own. The last line printed is JSON: ``ends``, the clock (time.time)
after each iteration, its hooks and its logging included, and ``images`` of an iteration in all processes.
"""
import json
import runpy
import sys
import time

from common import Enough


def run(iterations: int, tool: str, *arguments: str) -> dict:
    """Run a command until it has trained so many iterations.

    Args:
        iterations (int): At least 1.
        tool (str): Path of its script.
        arguments: Of its command line.

    Returns:
        dict: ``ends`` and ``images``, see above.
    """
    from mmengine.dist import get_world_size
    from mmengine.hooks import Hook
    from mmengine.runner import Runner
    told = {}

    class Clock(Hook):

        def before_train(self, runner):
            told.update(ends=[], images=runner.train_dataloader.batch_size * get_world_size())

        def after_train_iter(self, runner, batch_idx, data_batch=None, outputs=None):
            told['ends'].append(time.time())
            if len(told['ends']) == iterations:
                raise Enough

    train, argv = Runner.train, sys.argv

    def train_with_clock(runner):
        runner.register_hook(Clock(), 'LOWEST')  # the last of all hooks
        return train(runner)

    Runner.train, sys.argv = train_with_clock, [tool, *arguments]
    try:
        runpy.run_path(tool, run_name='__main__')
    except Enough:
        return told
    finally:
        Runner.train, sys.argv = train, argv
    raise RuntimeError(f'{tool} ended after {len(told.get("ends", ()))} of {iterations} iterations')


def images_per_second(told: dict, skip: int) -> float:
    """Of what :func:`run` gives, without the first ``skip`` iterations."""
    ends = told['ends'][skip - 1:]
    return told['images'] * (len(ends) - 1) / (ends[-1] - ends[0])


def save_untrained(name: str, path: str) -> str:
    """A checkpoint of an untrained network of the zoo, which teaches at the cost of a trained one; gives its path."""
    import torch

    from mmat.models import build_network
    torch.save(dict(state_dict=build_network(name).state_dict()), path)
    return path


if __name__ == '__main__':
    # Of several processes one prints.
    result = run(int(sys.argv[1]), *sys.argv[2:])
    from mmengine.dist import is_main_process
    if is_main_process():
        print(json.dumps(result))
