import numpy as np
import pytest
from mmengine.registry import DATASETS, TRANSFORMS, DefaultScope
from PIL import Image

from mmat.datasets import CUB, CropBoundingBox
from mmat.errors import ConfigError, DataError, MissingFileError

# Number, file, class (from 1), whether for training, box (x, y, width, height).
BIRDS = [
    (1, '001.Black_footed_Albatross/Black_Footed_Albatross_0046_18.jpg', 1, 1, (4.0, 2.0, 10.0, 6.0)),
    (2, '001.Black_footed_Albatross/Black_Footed_Albatross_0009_34.jpg', 1, 0, (0.0, 0.0, 20.0, 12.0)),
    (3, '200.Common_Yellowthroat/Common_Yellowthroat_0055_190967.jpg', 200, 1, (1.4, 3.6, 5.2, 4.1)),
    (4, '017.Cardinal/Cardinal_0001_17057.jpg', 17, 0, (10.0, 5.0, 15.0, 15.0)),
]


@pytest.fixture
def folder(tmp_path):
    """The official layout with four images of 20x12 pixels: red is 10 x column, green is 10 x row."""
    root = tmp_path / 'CUB_200_2011'
    columns, rows = np.meshgrid(np.arange(20), np.arange(12))
    picture = np.stack([10 * columns, 10 * rows, np.full_like(rows, 77)], axis=-1).astype(np.uint8)
    for number, name, *_ in BIRDS:
        path = (root / 'images' / name).with_suffix('.jpg')
        path.parent.mkdir(parents=True, exist_ok=True)
        # PNG, which is lossless, under the official name. One is grey, like some images of CUB.
        Image.fromarray(picture if number != 4 else picture[..., 0]).save(path, format='PNG')
    lines = {
        'images.txt': [f'{number} {name}' for number, name, *_ in BIRDS],
        'image_class_labels.txt': [f'{number} {label}' for number, _, label, *_ in BIRDS],
        'train_test_split.txt': [f'{number} {train}' for number, _, _, train, _ in BIRDS],
        'bounding_boxes.txt': [' '.join(map(str, (number, *box))) for number, *_, box in BIRDS],
    }
    for name, content in lines.items():
        (root / name).write_text('\n'.join(content) + '\n')
    return root


def replace(folder, file, old, new):
    text = (folder / file).read_text()
    assert old in text
    (folder / file).write_text(text.replace(old, new))


PIPELINE = [dict(type='mmpretrain.LoadImageFromFile'), dict(type='mmat.CropBoundingBox')]


@pytest.mark.parametrize('split, numbers', [('train', [1, 3]), ('test', [2, 4])])
@pytest.mark.parametrize('scope', ['mmat', 'mmpretrain', 'mmengine'])
def test_images_labels_and_boxes(folder, split, numbers, scope):
    with DefaultScope.overwrite_default_scope(scope):
        dataset = DATASETS.build(dict(
            type='mmat.CUB', data_root=str(folder), split=split, complete=False, pipeline=PIPELINE))
    assert len(dataset) == 2 and len(dataset.metainfo['classes']) == 200
    for index, number in enumerate(numbers):
        _, name, label, _, box = BIRDS[number - 1]
        info = dataset.get_data_info(index)
        assert info['img_path'] == str(folder / 'images' / name)
        assert (info['gt_label'], info['bbox']) == (label - 1, list(box))


def test_the_box_is_cropped(folder):
    image = CUB(str(folder), 'train', complete=False, pipeline=PIPELINE)[0]['img']
    # Loaded as BGR. x from 4, y from 2, 10 wide, 6 high.
    assert image.shape == (6, 10, 3)
    assert image[..., 2].tolist() == [[10 * x for x in range(4, 14)]] * 6
    assert image[..., 1].tolist() == [[10 * y] * 10 for y in range(2, 8)]


def test_grey_images_have_three_channels(folder):
    image = CUB(str(folder), 'test', complete=False, pipeline=PIPELINE)[1]['img']
    # The box extends beyond the image: columns 10 to 25 are clipped to 20, rows 5 to 20 to 12.
    assert image.shape == (7, 10, 3)
    assert (image == image[..., :1]).all()


@pytest.mark.parametrize('margin, box, rows, columns', [
    (0, (4.0, 2.0, 10.0, 6.0), range(2, 8), range(4, 14)),
    (0.1, (4.0, 2.0, 10.0, 6.0), range(1, 9), range(3, 15)),
    # Rounded: x from 1.4 to 6.6 becomes 1 to 7, y from 3.6 to 7.7 becomes 4 to 8.
    (0, (1.4, 3.6, 5.2, 4.1), range(4, 8), range(1, 7)),
    (0.5, (-3.0, 8.0, 30.0, 30.0), range(0, 12), range(0, 20)),
])
def test_margin_and_borders(margin, box, rows, columns):
    image = np.arange(12 * 20 * 3).reshape(12, 20, 3)
    results = CropBoundingBox(margin)(dict(img=image.copy(), bbox=list(box)))
    assert np.array_equal(results['img'], image[np.ix_(rows, columns)])
    assert results['img_shape'] == (len(rows), len(columns))


@pytest.mark.parametrize('box, parts', [
    ({}, ('`bbox`', 'mmat.CUB')),
    (dict(bbox=[5., 0., 2., 2.]), ('[5.0, 0.0, 2.0, 2.0]', '4 x 6')),
    (dict(bbox=[1., 1., 0., 2.]), ('[1.0, 1.0, 0.0, 2.0]', '4 x 6')),
])
def test_boxes_that_cannot_be_cropped(box, parts):
    with pytest.raises(DataError) as error:
        TRANSFORMS.build(dict(type='mmat.CropBoundingBox'))(dict(img=np.zeros((6, 4, 3)), img_path='a.jpg', **box))
    for part in ("'a.jpg'", *parts):
        assert part in str(error.value)


def test_refuses_a_negative_margin():
    with pytest.raises(ConfigError, match='margin.*-0.1'):
        CropBoundingBox(margin=-0.1)


# Incomplete and damaged folders

@pytest.mark.parametrize('file', ['images.txt', 'image_class_labels.txt', 'train_test_split.txt', 'bounding_boxes.txt'])
def test_the_error_names_a_missing_file(folder, file):
    (folder / file).unlink()
    with pytest.raises(MissingFileError, match=rf'/CUB_200_2011.: {file} .*https://.*dataset\.data_root='):
        CUB(str(folder))


def test_no_folder():
    with pytest.raises(MissingFileError, match='images.txt, image_class_labels.txt, train_test_split.txt, bounding_b'):
        CUB('nowhere')


@pytest.mark.parametrize('file, old, new, message', [
    ('image_class_labels.txt', '3 200', '3 201', r'image 3 .*\b201\b.* 1 .*\b200\b'),
    ('image_class_labels.txt', '3 200', '3 0', r'image 3 .*\b0\b.* 1 .*\b200\b'),
    ('image_class_labels.txt', '3 200', '3 x', r"image 3 .*\b1\b.*'x'"),
    ('image_class_labels.txt', '3 200\n', '', r'\b1 images .*images\.txt.* image 3\b'),
    ('bounding_boxes.txt', '3 1.4', '9 1.4', r'\b2 images .*images\.txt.* image 3\b'),
    ('bounding_boxes.txt', '3 1.4 3.6', '3 1.4', r"image 3 .*\b4\b.*'1\.4 5\.2 4\.1'"),
    ('bounding_boxes.txt', '3 1.4', '3 nan', r"image 3 .*\b4\b.*'nan 3\.6 5\.2 4\.1'"),
    ('image_class_labels.txt', '3 200', '3 199', r"image 3 .*\b199\b.*'200\.Common_Yellowthroat'"),
    ('images.txt', '3 200.Common_Y', '3 200.Common Y', r"image 3 .*'200\.Common Y"),
    ('bounding_boxes.txt', '3 1.4', '1 1.4', r'line 3: image 1\b'),
    ('train_test_split.txt', '3 1', '3 2', r'image 3 .*\(train\).*\(test\).*\b2\b'),
    ('images.txt', '3 200', 'three 200', r"line 3: .*'three 200"),
    ('images.txt', '\n3 200.Common_Yellowthroat/Common_Yellowthroat_0055_190967.jpg', '\n3', r"line 3: .*'3'"),
])
def test_the_error_names_a_malformed_line(folder, file, old, new, message):
    replace(folder, file, old, new)
    with pytest.raises(DataError, match=rf'/{file}.*{message}'):
        CUB(str(folder), 'train', complete=False)


def test_the_error_names_a_folder_of_another_class(folder):
    replace(folder, 'images.txt', '3 200', '3 2000')
    with pytest.raises(DataError, match=r"image 3 .*\b200\b.*'2000\.Common_Yellowthroat'"):
        CUB(str(folder), 'train', complete=False)


def test_the_error_names_a_missing_image_and_the_closest(folder):
    (folder / 'images' / BIRDS[0][1]).unlink()
    with pytest.raises(MissingFileError) as error:
        CUB(str(folder), 'train', complete=False)
    for part in ('images.txt', '/images', ' 1 of the 2 ', repr(BIRDS[0][1]), "'Black_Footed_Albatross_0009_34.jpg'"):
        assert part in str(error.value)
    assert len(CUB(str(folder), 'test', complete=False)) == 2


@pytest.mark.parametrize('split, official', [('train', '5,994'), ('test', '5,794')])
def test_refuses_an_incomplete_split(folder, split, official):
    with pytest.raises(DataError, match=rf'\b{split}\b.*/images\.txt.* 2 .*{official}.*complete=False'):
        CUB(str(folder), split)


def test_only_the_official_numbers_of_images_are_complete(tmp_path):
    sizes = dict(train=5994, test=5794)
    (tmp_path / 'images' / '001.A').mkdir(parents=True)
    (tmp_path / 'images' / '001.A' / 'a.jpg').touch()
    names = ['001.A/a.jpg'] * sum(sizes.values())
    for file, lines in {
        'images.txt': names,
        'image_class_labels.txt': ['1'] * len(names),
        'train_test_split.txt': ['1'] * sizes['train'] + ['0'] * sizes['test'],
        'bounding_boxes.txt': ['0 0 2 2'] * len(names),
    }.items():
        (tmp_path / file).write_text(''.join(f'{number} {line}\n' for number, line in enumerate(lines, start=1)))
    assert {split: len(CUB(str(tmp_path), split)) for split in sizes} == sizes
    replace(tmp_path, 'train_test_split.txt', '\n5994 1\n', '\n5994 0\n')
    for split, found in (('train', '5,993'), ('test', '5,795')):
        with pytest.raises(DataError, match=f' {found} images'):
            CUB(str(tmp_path), split)


@pytest.mark.parametrize('ending', ['\r\n', ' \n', '\n\n'])
def test_line_ends_and_blanks_do_not_matter(folder, ending):
    for path in folder.glob('*.txt'):
        path.write_bytes(path.read_text().replace('\n', ending).encode())
    assert CUB(str(folder), 'train', complete=False).get_gt_labels().tolist() == [0, 199]


def test_refuses_another_split(folder):
    with pytest.raises(ConfigError, match="'train' .*'test'.*'val'"):
        CUB(str(folder), 'val')
