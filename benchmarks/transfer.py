#!/usr/bin/env python
"""R2: time and memory of attention transfer beyond the student's step and the teacher's forward pass.

    python benchmarks/transfer.py [--repeats 20] [--steps 3] [--batch 128] [--fp32] [--record]

The step of mmat's distiller for WRN-16-1 with attention transfer from WRN-16-2, without loader and logging. Its parts
and a straightforward step in plain PyTorch come from benchmarks/bare.py. They take turns in one process. Peak memory is
the growth of a new process for each since before the first step.
"""
import argparse
import json
import resource

import torch
from bare import Steps
from common import (
    add_arguments,
    alternate,
    describe_threads,
    finish,
    in_process,
    interleave,
    quiet,
    ratio,
    row,
    spread,
    start,
)

from mmat.models import build_network
from mmat.registry import MODELS
from mmat.utils.cpu import keep_freed_memory
from mmat.utils.zoo import find_config

CONFIG, TEACHER = 'wrn16-1_at-wrn16-2_1xb128_cifar10', 'wrn16-2_1xb128_cifar10'


def make_subjects(batch: int, fp32: bool) -> dict:
    """Return mmat's attention transfer step, its parts, and the plain PyTorch step."""
    from mmengine.config import Config
    from mmengine.optim import OptimWrapper
    device = 'cuda' if torch.cuda.is_available() else 'cpu'
    if device == 'cpu' and not fp32:
        keep_freed_memory()
    torch.manual_seed(0)
    images, labels = torch.randn(batch, 3, 32, 32, device=device), torch.randint(0, 10, (batch, ), device=device)
    if not fp32:
        images = images.contiguous(memory_format=torch.channels_last)
    teacher, student = build_network(TEACHER).to(device), build_network(CONFIG).to(device)
    config = Config.fromfile(find_config(CONFIG)).model.to_dict()
    distiller = MODELS.build({**config, 'student': student, 'teacher': teacher}).to(device).train()
    distiller.prepare_teacher()
    parts = Steps(build_network(CONFIG).to(device), teacher, images, labels, bf16=not fp32)
    optimizer = OptimWrapper(torch.optim.SGD(student.parameters(), 0.1, 0.9, weight_decay=5e-4))

    def transfer():
        from mmat.datasets import BatchedSamples
        with parts.autocast():
            losses = distiller(images, BatchedSamples(labels), mode='loss')
        optimizer.update_params(distiller.parse_losses(losses)[0])

    return dict(mmat=transfer, student=parts.student_step, teacher=parts.teacher_forward, plain=parts.transfer_step)


@quiet()
def peak_memory(subject: str, batch: int, fp32: bool) -> float:
    """Return the peak memory of a subject in MiB."""
    subjects = make_subjects(batch, fp32)
    subjects['parts'] = lambda: (subjects['student'](), subjects['teacher']())
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    for _ in range(6):
        subjects[subject]()
    if torch.cuda.is_available():
        return torch.cuda.max_memory_allocated() / 2**20
    return (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) / 2**10


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    add_arguments(parser, repeats=20)
    parser.add_argument('--steps', type=int, default=3, help='calls per block; default: 3')
    parser.add_argument('--batch', type=int, default=128)
    parser.add_argument('--fp32', action='store_true', help='without the recommended CPU setting')
    parser.add_argument('--peak', help=argparse.SUPPRESS)
    args = parser.parse_args()
    start(args)
    if args.peak:
        print(json.dumps(peak_memory(args.peak, args.batch, args.fp32)))
        return
    setting = f'{"fp32, NCHW" if args.fp32 else "bf16 autocast, channels_last, allocator"}, batch {args.batch}, ' \
        f'{describe_threads()}'
    options = ['--batch', args.batch, *(['--fp32'] if args.fp32 else [])]
    memory = alternate({
        name: lambda name=name: in_process('--peak', name, *options, threads=args.threads)
        for name in ('mmat', 'parts', 'plain')}, min(args.repeats, 5))
    times = interleave(make_subjects(args.batch, args.fp32), args.repeats, args.steps, warmup=2)
    shared = dict(repeats=args.repeats, setting=setting)
    finish([
        row('R2', 'AT step / (student step + teacher forward)', ratio(times, 'mmat', ['student', 'teacher']),
            goal='<= 1.03', **shared),
        row('R2', 'AT step as one writes it / (student step + teacher forward)',
            ratio(times, 'plain', ['student', 'teacher']), **shared),
        row('R2', 'AT step', spread([1e3 * value for value in times['mmat']]), unit='ms', **shared),
        row('R2', 'student step', spread([1e3 * value for value in times['student']]), unit='ms', **shared),
        row('R2', 'teacher forward', spread([1e3 * value for value in times['teacher']]), unit='ms', **shared),
        row('R2', 'peak memory, AT step / (student step + teacher forward)', ratio(memory, 'mmat', 'parts'),
            goal='<= 1.05', repeats=len(memory['mmat']), setting=setting),
        row('R2', 'peak memory, AT step as one writes it / (student step + teacher forward)',
            ratio(memory, 'plain', 'parts'), repeats=len(memory['mmat']), setting=setting),
        row('R2', 'peak memory of the AT step', spread(memory['mmat']), unit='MiB', repeats=len(memory['mmat']),
            setting=setting),
    ], args)


if __name__ == '__main__':
    main()
