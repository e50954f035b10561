"""Table 1 of the paper: the methods on CIFAR-10."""
title = 'Attention transfer, Table 1: test error on CIFAR-10'
seeds = (0, 1, 2, 3, 4)
cells = [
    dict(row=row, column=column, config=f'configs/{config}_1xb128_cifar10.py', published=published,
         **(dict(teacher=f'configs/{teacher}_1xb128_cifar10.py') if method else {}))
    for row, student, teacher, numbers in [
        ('NIN-thin from NIN-wide', 'nin/nin-thin', 'nin/nin-wide', (9.38, 8.93, 9.05, 8.55, 8.33, 7.28)),
        ('WRN-16-1 from WRN-16-2', 'wide_resnet/wrn16-1', 'wide_resnet/wrn16-2', (8.77, 7.93, 8.51, 7.41, 7.51, 6.31)),
        ('WRN-16-1 from WRN-40-1', 'wide_resnet/wrn16-1', 'wide_resnet/wrn40-1', (8.77, 8.25, 8.62, 8.39, 8.01, 6.58)),
        ('WRN-16-2 from WRN-40-2', 'wide_resnet/wrn16-2', 'wide_resnet/wrn40-2', (6.31, 5.85, 6.24, 6.08, 5.71, 5.23)),
    ]
    for column, method, config, published in zip(
        ('student', 'AT', 'F-ActT', 'KD', 'AT+KD', 'teacher'), (None, 'at', 'factt', 'kd', 'at-kd', None),
        (student, *(f'{"kd" if method == "kd" else "at"}/{student.split("/")[1]}_{method}-{teacher.split("/")[1]}'
                    for method in ('at', 'factt', 'kd', 'at-kd')), teacher), numbers)
]
note = ('In the paper as here the median of 5 seeds. The paper does not say which teacher taught: here that of the '
        'first seed. Its KD column was probably made with a KL divergence averaged over the classes, a fifth of the '
        'weight used here.')
