"""Attention transfer on ImageNet, ResNet-18 from ResNet-34. Each row is one run with two metrics."""
title = 'Attention transfer on ImageNet: ResNet-18 from ResNet-34, validation error'
seeds = (0, )
# 8 GPUs x 32, as in the configs; --gpus-per-run 4 makes it 4 x 64.
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
note = ("By default one run of each. Published numbers: by the paper's authors. Their code transfers all four groups, "
        'the paper only the last two, according to notes that were not verified against the paper, so the published AT '
        'number may belong to either. The published teacher number is of the weights that their code loads; here the '
        'teacher is trained like its students. torchdistill, another toolbox, reports top-1 errors of 30.24 (student), '
        '28.63 (KD) and 29.10 (AT).')
