#!/usr/bin/env python
"""Time a training step on the CPU while adding the parts of the recommended setting one by one.

    python benchmarks/cpu_setting.py [--repeats 5] [--batch 128]

Prints the median time of a step of WRN-16-1 (forward, loss, backward, SGD) and of a forward pass of the teacher
WRN-16-2, in ms.
"""
import argparse
import json
import subprocess
import sys
import time
from statistics import median

SETTINGS = {
    'fp32': (),
    '+ allocator keeps freed memory': ('allocator', ),
    '+ channels_last': ('allocator', 'channels_last'),
    '+ bf16 autocast (the recommended setting)': ('allocator', 'channels_last', 'bf16'),
}


def measure(parts, batch, steps=6):
    import torch
    import torch.nn.functional as F

    from mmat.models import build_network
    from mmat.utils.cpu import keep_freed_memory
    if 'allocator' in parts:
        keep_freed_memory()
    images, labels = torch.randn(batch, 3, 32, 32), torch.randint(0, 10, (batch, ))
    if 'channels_last' in parts:
        images = images.contiguous(memory_format=torch.channels_last)
    student, teacher = (build_network(f'wrn16-{k}_1xb128_cifar10') for k in (1, 2))
    student.train()
    teacher.eval()
    optimizer = torch.optim.SGD(student.parameters(), 0.1, 0.9, weight_decay=5e-4)

    def train():
        with torch.autocast('cpu', torch.bfloat16, enabled='bf16' in parts):
            loss = F.cross_entropy(student(images), labels)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()

    @torch.no_grad()
    def forward_teacher():
        with torch.autocast('cpu', torch.bfloat16, enabled='bf16' in parts):
            teacher(images)

    times = {}
    for name, step in (('step', train), ('teacher', forward_teacher)):
        step()
        times[name] = []
        for _ in range(steps):
            start = time.perf_counter()
            step()
            times[name].append((time.perf_counter() - start) * 1e3)
    return {name: median(values) for name, values in times.items()}


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument('--repeats', type=int, default=5)
    parser.add_argument('--batch', type=int, default=128)
    parser.add_argument('--one', help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.one is not None:
        print(json.dumps(measure(SETTINGS[args.one], args.batch)))
        return
    results = {name: [] for name in SETTINGS}
    for _ in range(args.repeats):
        for name in SETTINGS:
            # The allocator's setting cannot be undone, so each measurement runs in a new process.
            output = subprocess.run([sys.executable, __file__, '--one', name, '--batch', str(args.batch)],
                                    check=True, capture_output=True, text=True).stdout
            results[name].append(json.loads(output.splitlines()[-1]))
    print(f'| setting | WRN-16-1 step, ms | WRN-16-2 forward, ms |  (medians of {args.repeats})\n|---|---|---|')
    for name, values in results.items():
        print(f'| {name} | {median(v["step"] for v in values):.0f} | {median(v["teacher"] for v in values):.0f} |')


if __name__ == '__main__':
    main()
