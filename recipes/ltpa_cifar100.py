"""Learn to pay attention on CIFAR-100: networks of the paper and of its PyTorch re-implementation."""
title = 'Learn to pay attention: test error on CIFAR-100'
seeds = (0, )
cells = [
    dict(row='VGG', column='error', published=30.62, config='vgg_1xb128_cifar100'),
    dict(row='(VGG-att)-dp', column='error', published=24.22, config='vgg-att-dp_1xb128_cifar100'),
    dict(row='(VGG-att2)-indep-dp', column='error', published=23.24, config='vgg-att2-indep-dp_1xb128_cifar100'),
    dict(row='(VGG-att2)-concat-dp', column='error', published=23.91, config='vgg-att2-concat-dp_1xb128_cifar100'),
    dict(row='(VGG-att)-pc', column='error', published=23.70, config='vgg-att-pc_1xb128_cifar100'),
    dict(row='(VGG-att2)-indep-pc', column='error', published=24.00, config='vgg-att2-indep-pc_1xb128_cifar100'),
    dict(row='(VGG-att2)-concat-pc', column='error', published=23.19, config='vgg-att2-concat-pc_1xb128_cifar100'),
    dict(row='(VGG-att3)-concat-pc', column='error', published=22.97, config='vgg-att3-concat-pc_1xb128_cifar100'),
    dict(row='RN-164', column='error', published=25.34, config='rn164_1xb64_cifar100'),
    dict(
        row='re-implementation of (VGG-att3)-concat-pc, before pooling',
        column='error',
        published=22.62,
        config='vgg-reimpl-att3-concat-pc_1xb128_cifar100'),
    dict(
        row='re-implementation of (VGG-att3)-concat-pc, after pooling',
        column='error',
        published=22.92,
        config='vgg-reimpl-att3-concat-pc-after_1xb128_cifar100'),
]
note = ("By default one run of each. The paper's numbers are from notes that were not verified against the paper, "
        'except for VGG and (VGG-att3)-concat-pc, which the re-implementation quotes. Other networks of configs/ltpa, '
        'such as RN-164 with attention, are missing here because no published number is available. The authors train '
        'on YUV images with local contrast normalisation, mmat on RGB images; docs/design_choices.md lists further '
        'differences. An epoch of the re-implementation is three passes over the images, so its 300 epochs are 900 '
        "here. --epochs-scale shortens them by the same factor as the paper's 300 epochs, and the 200 of RN-164.")
