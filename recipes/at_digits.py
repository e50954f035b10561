"""The quick start: attention transfer on handwritten digits that come with scikit-learn."""
title = 'Attention transfer on handwritten digits'
seeds = (0, 1, 2, 3, 4)
rows = [
    dict(name='teacher WRN-16-2', config='configs/wide_resnet/wrn16-2_1xb32_digits.py', seeds=(0, )),
    dict(name='student WRN-16-1', config='configs/wide_resnet/wrn16-1_1xb10_digits.py'),
    dict(
        name='student + AT',
        config='configs/at/wrn16-1_at-wrn16-2_1xb10_digits.py',
        teacher='configs/wide_resnet/wrn16-2_1xb32_digits.py'),
]
note = ('Tested on the same 797 images. The teacher was trained on 1,000 images; the students on 50 of them, five of '
        'each digit,\nwith the same seeds and batches in both rows.')
