# How the "Learn to Pay Attention" authors initialize attention modules.
authors_init = [
    dict(type='Kaiming', layer='Conv2d', mode='fan_out', nonlinearity='relu'),
    dict(type='Uniform', layer='_BatchNorm', a=0, b=1, bias=0),
]
