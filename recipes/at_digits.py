"""Quick start: attention transfer on the handwritten digits of scikit-learn."""
title = 'Attention transfer on handwritten digits: test error'
seeds = (0, 1, 2, 3, 4)
cells = [
    dict(row='teacher WRN-16-2', column='error', config='configs/wide_resnet/wrn16-2_1xb32_digits.py', seeds=(0, )),
    dict(row='student WRN-16-1', column='error', config='configs/wide_resnet/wrn16-1_1xb10_digits.py'),
    dict(
        row='student + AT',
        column='error',
        config='configs/at/wrn16-1_at-wrn16-2_1xb10_digits.py',
        teacher='configs/wide_resnet/wrn16-2_1xb32_digits.py'),
]
note = ('All networks are tested on the same 797 images. The teacher was trained on 1,000 images, the students on 50 '
        'of them, five per digit. The seeds and batches of the students are the same in both rows.')
