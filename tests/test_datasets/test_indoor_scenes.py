import numpy as np
import pytest
from mmengine.registry import DATASETS, DefaultScope
from PIL import Image

from mmat.datasets import IndoorScenes67
from mmat.errors import ConfigError, DataError, MissingFileError

# Like the official lists: unsorted, with names that hold spaces or another class.
ROOMS = dict(
    train=['winecellar/bodega_12_11_flickr.jpg', 'mall/shopping mall.jpg', 'airport_inside/airport_inside_0001.jpg',
           'mall/int474.jpg'],
    test=['kitchen/int474.jpg', 'winecellar/grey.jpg', 'bar/animation.jpg'])
# Counted by hand in the sorted list of folders.
LABELS = dict(train=[66, 44, 0, 44], test=[37, 66, 4])
LISTS = dict(train='TrainImages.txt', test='TestImages.txt')
PIPELINE = [dict(type='mmat.LoadImage')]


@pytest.fixture
def folder(tmp_path):
    """The official layout with images of 12 x 8 pixels, filled with 10 x index; one is grey, one a GIF."""
    root = tmp_path / 'indoor67'
    for split, names in ROOMS.items():
        for index, name in enumerate(names):
            path = root / 'Images' / name
            path.parent.mkdir(parents=True, exist_ok=True)
            grey = name.endswith('grey.jpg')
            picture = np.full((8, 12) if grey else (8, 12, 3), 10 * index, dtype=np.uint8)
            # Lossless formats under the official name.
            Image.fromarray(picture).save(path, format='GIF' if name.endswith('animation.jpg') else 'PNG')
        # The official lists end without a newline.
        (root / LISTS[split]).write_text('\n'.join(names))
    # Most images of the archive are in neither list.
    Image.new('RGB', (12, 8)).save(root / 'Images' / 'bar' / 'unlisted.jpg')
    return root


def rooms(folder, split='train', **kwargs):
    return IndoorScenes67(str(folder), split, complete=False, **kwargs)


@pytest.mark.parametrize('scope', ['mmat', 'mmpretrain', 'mmengine'])
@pytest.mark.parametrize('split', ['train', 'test'])
def test_images_and_labels(folder, split, scope):
    with DefaultScope.overwrite_default_scope(scope):
        dataset = DATASETS.build(dict(
            type='mmat.IndoorScenes67', data_root=str(folder), split=split, complete=False, pipeline=PIPELINE))
    assert len(dataset) == len(ROOMS[split]) and dataset.test_mode == (split == 'test')
    for index, (name, label) in enumerate(zip(ROOMS[split], LABELS[split])):
        results = dataset[index]
        assert (results['img_path'], results['gt_label']) == (str(folder / 'Images' / name), label)
        assert dataset.metainfo['classes'][label] == name.split('/')[0]
        assert results['img'].shape == (8, 12, 3) and (results['img'] == 10 * index).all()


def test_the_67_classes_are_sorted_by_folder():
    classes = IndoorScenes67.METAINFO['classes']
    assert len(set(classes)) == len(classes) == 67
    assert list(classes) == sorted(classes)
    assert (classes[0], classes[36], classes[57], classes[66]) == (
        'airport_inside', 'kindergarden', 'stairscase', 'winecellar')


@pytest.mark.parametrize('ending', ['\r\n', ' \n', '\n\n', '\t\r\n\r\n'])
def test_line_ends_and_blanks_do_not_matter(folder, ending):
    (folder / 'TrainImages.txt').write_bytes(''.join(name + ending for name in ROOMS['train']).encode())
    dataset = rooms(folder)
    assert [dataset.get_data_info(i)['img_path'] for i in range(len(dataset))] == [
        str(folder / 'Images' / name) for name in ROOMS['train']]


def test_a_subset_by_indices(folder):
    assert rooms(folder, indices=[3, 0]).get_gt_labels().tolist() == [44, 66]


# Incomplete and damaged folders

@pytest.mark.parametrize('split, official', [('train', '5,360'), ('test', '1,340')])
def test_refuses_a_truncated_list(folder, split, official):
    with pytest.raises(DataError, match=rf'{LISTS[split]}.* {len(ROOMS[split])} .*{official}.*complete=False'):
        IndoorScenes67(str(folder), split)


def test_only_the_official_number_of_images_is_complete(tmp_path):
    (tmp_path / 'Images' / 'bar').mkdir(parents=True)
    names = [f'bar/{i}.jpg' for i in range(1341)]
    for name in names:
        (tmp_path / 'Images' / name).touch()
    (tmp_path / 'TestImages.txt').write_text('\n'.join(names[:1340]))
    assert len(IndoorScenes67(str(tmp_path), 'test')) == 1340
    (tmp_path / 'TestImages.txt').write_text('\n'.join(names))
    with pytest.raises(DataError, match='1,341 .*1,340'):
        IndoorScenes67(str(tmp_path), 'test')


@pytest.mark.parametrize('line, message', [
    ('livingrom/a.jpg', r"'livingrom' .*'livingroom'"),
    ('Mall/int474.jpg', r"'Mall' .*'mall'"),
    ('Images/mall/int474.jpg', r"'Images' .*\b67\b"),
    ('../mall/int474.jpg', r"'\.\.' .*\b67\b"),
    ('int474.jpg', r"class/file\.jpg.*'int474\.jpg'"),
    ('mall\\int474.jpg', r"class/file\.jpg.*'mall\\\\int474\.jpg'"),
    ('mall/', r"class/file\.jpg.*'mall/'"),
    ('/int474.jpg', r"class/file\.jpg.*'/int474\.jpg'"),
    ('mall/int474.jpg', r"'mall/int474\.jpg'"),
    ('\xff\xfe', r'class/file\.jpg'),
])
def test_the_error_names_a_malformed_line(folder, line, message):
    (folder / 'TrainImages.txt').write_text('\n'.join([*ROOMS['train'], line]), encoding='latin1')
    with pytest.raises(DataError, match=rf'/indoor67/TrainImages\.txt., line 5: .*{message}'):
        rooms(folder)


def test_the_error_counts_missing_images_and_names_the_first(folder):
    (folder / 'Images' / ROOMS['train'][1]).rename(folder / 'Images/mall/shopping_mall.jpg')
    (folder / 'Images' / ROOMS['train'][2]).unlink()
    with pytest.raises(MissingFileError) as error:
        rooms(folder)
    for part in (' 2 of the 4 ', 'TrainImages.txt', '/Images', "'mall/shopping mall.jpg'", "'shopping_mall.jpg'"):
        assert part in str(error.value)
    assert len(rooms(folder, 'test')) == 3


def test_a_missing_class_folder(folder):
    (folder / 'Images' / ROOMS['train'][0]).unlink()
    (folder / 'Images/winecellar/grey.jpg').unlink()
    (folder / 'Images/winecellar').rmdir()
    with pytest.raises(MissingFileError, match=r" 1 of the 4 .*'winecellar/bodega_12_11_flickr\.jpg'\.$"):
        rooms(folder)


def test_the_error_names_a_missing_list(folder):
    (folder / 'TestImages.txt').unlink()
    with pytest.raises(MissingFileError, match=r'/indoor67.: TestImages\.txt .*https://.*dataset\.data_root='):
        rooms(folder, 'test')
    # The training split does not need it.
    assert len(rooms(folder)) == 4


def test_no_folder():
    with pytest.raises(MissingFileError, match=r"'nowhere': TrainImages\.txt, Images/ "):
        rooms('nowhere')


def test_refuses_another_split(folder):
    with pytest.raises(ConfigError, match="IndoorScenes67.*'train' .*'test'.*'val'"):
        IndoorScenes67(str(folder), 'val')
