#!/usr/bin/env python
"""Time and peak memory of a training step of each transfer method, relative to the student alone.

    python benchmarks/methods.py [--repeats 3] [--steps 10] [--batch 128] [--only wrn16-1] [--fp32] [--device cpu]

Each measurement runs in a new process: the step of the config (distiller and optimizer on random images, without loader
and logging) under the recommended CPU setting, or in fp32; on a GPU with torch's defaults, fp32 with TF32 convolutions.
Prints Markdown: medians over the repeats, which interleave the methods, and ratios to the student alone. Peak memory on
a CPU is the largest growth of the process since before the first step; on a GPU, the largest CUDA allocation, including
weights.
"""
import argparse
import json
import resource
import subprocess
import sys
import time
from statistics import median

from common import quiet

CONFIGS = {
    'wrn16-1': [
        'wrn16-1', 'wrn16-1_at-wrn16-2', 'wrn16-1_factt-wrn16-2', 'wrn16-1_kd-wrn16-2', 'wrn16-1_at-kd-wrn16-2'
    ],
    'nin-thin-nobn': [
        'nin-thin-nobn', 'nin-thin-nobn_at-nin-wide-nobn', 'nin-thin-nobn_kd-nin-wide-nobn', 'nin-thin-nobn_minl2',
        'nin-thin-nobn_gradat-nin-wide-nobn', 'nin-thin-nobn_flipsym'
    ],
}


def build(name, fp32, device):
    """Build the config's model with an untrained teacher, which costs as much as a trained one."""
    import torch
    from mmengine.config import Config
    from mmengine.registry import OPTIM_WRAPPERS

    from mmat.apis.launch import apply_cpu_setting
    from mmat.models import build_network
    from mmat.registry import MODELS
    from mmat.utils.zoo import find_config
    config = Config.fromfile(find_config(name + '_1xb128_cifar10'))
    if device == 'cpu' and not fp32:
        apply_cpu_setting(config)
    if config.model.get('teacher'):
        teacher = build_network(config.model.teacher.model)
        model = MODELS.build({**config.model.to_dict(), 'teacher': teacher})
    else:
        model = MODELS.build(config.model)
    model.train().to(device)
    options = {key: value for key, value in config.optim_wrapper.optimizer.items() if key != 'type'}
    optimizer = torch.optim.SGD(model.parameters(), **options)
    wrapper = {'type': 'OptimWrapper', **config.optim_wrapper, 'optimizer': optimizer}
    return model, OPTIM_WRAPPERS.build(wrapper)


@quiet()
def measure(name, batch, steps, fp32, device):
    import torch

    from mmat.datasets.in_memory import BatchedSamples
    model, optimizer = build(name, fp32, device)
    data = dict(inputs=torch.randint(0, 256, (batch, 3, 32, 32), dtype=torch.uint8),
                data_samples=BatchedSamples(torch.randint(0, 10, (batch, ))))
    if hasattr(model, 'set_progress'):
        model.set_progress(0, 0, 200, 200 * 391)
        model.prepare_teacher()
    on_gpu = device != 'cpu'
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    times = []
    for _ in range(steps + 2):
        start = time.perf_counter()
        model.train_step(data, optimizer)
        if on_gpu:
            torch.cuda.synchronize()
        times.append((time.perf_counter() - start) * 1e3)
    peak = torch.cuda.max_memory_allocated() / 2**20 if on_gpu else \
        (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) / 2**10
    return dict(ms=median(times[2:]), mib=peak)


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument('--repeats', type=int, default=3)
    parser.add_argument('--steps', type=int, default=10)
    parser.add_argument('--batch', type=int, default=128)
    parser.add_argument('--only', choices=CONFIGS)
    parser.add_argument('--fp32', action='store_true')
    parser.add_argument('--device', default='cpu')
    parser.add_argument('--one', help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.one is not None:
        print(json.dumps(measure(args.one, args.batch, args.steps, args.fp32, args.device)))
        return
    print('| config | step, ms | ratio | peak memory, MiB | ratio |\n|---|---|---|---|---|')
    for student in [args.only] if args.only else CONFIGS:
        results = {name: [] for name in CONFIGS[student]}
        for _ in range(args.repeats):
            for name in results:
                command = [sys.executable, __file__, '--one', name, '--batch', str(args.batch), '--steps',
                           str(args.steps), '--device', args.device, *(['--fp32'] if args.fp32 else [])]
                output = subprocess.run(command, check=True, capture_output=True, text=True).stdout
                results[name].append(json.loads(output.splitlines()[-1]))
        ms, mib = ({name: median(value[key] for value in values) for name, values in results.items()}
                   for key in ('ms', 'mib'))
        for name in results:
            print(f'| {name} | {ms[name]:.0f} | {ms[name] / ms[student]:.2f} | {mib[name]:.0f} | '
                  f'{mib[name] / mib[student]:.2f} |', flush=True)


if __name__ == '__main__':
    main()
