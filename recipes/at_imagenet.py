"""Attention transfer on ImageNet, ResNet-18 from ResNet-34. Each row is one training with two numbers."""
title = 'Attention transfer on ImageNet: ResNet-18 from ResNet-34, validation error'
seeds = (0, )
# The configs' 8 GPUs x 32. With --gpus-per-run 4 it is 4 x 64.
gpus_per_run = 8
top1, top5 = dict(column='top-1', metric='accuracy/top1'), dict(column='top-5', metric='accuracy/top5')
teacher = 'resnet34_8xb32_in1k'
cells = [
    dict(row='student', published=30.4, config='resnet18_8xb32_in1k', **top1),
    dict(row='student', published=10.8, config='resnet18_8xb32_in1k', **top5),
    dict(row='KD', config='resnet18_kd-resnet34_8xb32_in1k', teacher=teacher, **top1),
    dict(row='KD', config='resnet18_kd-resnet34_8xb32_in1k', teacher=teacher, **top5),
    dict(row='AT', published=29.3, config='resnet18_at-resnet34_8xb32_in1k', teacher=teacher, **top1),
    dict(row='AT', published=10.0, config='resnet18_at-resnet34_8xb32_in1k', teacher=teacher, **top5),
    dict(row='AT, last two groups', config='resnet18_at-group23-resnet34_8xb32_in1k', teacher=teacher, **top1),
    dict(row='AT, last two groups', config='resnet18_at-group23-resnet34_8xb32_in1k', teacher=teacher, **top5),
    dict(row='teacher', published=26.72, config=teacher, **top1),
    dict(row='teacher', published=8.74, config=teacher, **top5),
]
note = ("By default one run of each. Published: the paper's authors'. Their code transfers all four groups; the "
        'paper, according to notes on it that were not checked there again, the last two, so the number of AT may be '
        'of either. That of the teacher is of the weights with which their code teaches; here the teacher is trained '
        'as its students are. Another toolbox, torchdistill, gives top-1 errors of 30.24 (student), 28.63 (KD) and '
        '29.10 (AT).')
