import numpy as np
import pytest
from mmengine.registry import TRANSFORMS
from PIL import Image

from mmat.datasets import LoadImage
from mmat.errors import DataError, FileError, MissingFileError

# Colours of four squares of 16 x 16 pixels, which JPEG keeps up to rounding.
SQUARES = np.array([[(250, 10, 40), (0, 128, 255)], [(90, 90, 90), (20, 200, 60)]], dtype=np.uint8)
PICTURE = SQUARES.repeat(16, axis=0).repeat(16, axis=1)


def load(path):
    return TRANSFORMS.build(dict(type='mmat.LoadImage'))(dict(img_path=str(path)))


@pytest.mark.parametrize('mode, file_format, tolerance', [
    ('RGB', 'JPEG', 2), ('CMYK', 'JPEG', 2), ('RGB', 'PNG', 0), ('RGBA', 'PNG', 0), ('P', 'PNG', 0), ('P', 'GIF', 0),
    ('RGB', 'BMP', 0)])
def test_any_kind_of_image_under_any_name(tmp_path, mode, file_format, tolerance):
    image = Image.fromarray(PICTURE)
    image = image.convert(mode, palette=Image.Palette.ADAPTIVE) if mode == 'P' else image.convert(mode)
    options = dict(quality=100, subsampling=0) if file_format == 'JPEG' else {}
    image.save(tmp_path / 'a room.jpg', format=file_format, **options)
    with Image.open(tmp_path / 'a room.jpg') as written:
        assert (written.mode, written.format) == (mode, file_format)
    results = load(tmp_path / 'a room.jpg')
    assert results['img'].shape == (32, 32, 3) and results['img'].dtype == np.uint8
    assert results['img_shape'] == results['ori_shape'] == (32, 32)
    # BGR, as in mmcv.
    assert np.abs(results['img'][..., ::-1].astype(int) - PICTURE).max() <= tolerance


@pytest.mark.parametrize('mode', ['L', 'LA', '1'])
def test_grey_images_have_three_equal_channels(tmp_path, mode):
    grey = np.where(PICTURE[..., 0] > 50, 255, 0).astype(np.uint8)
    Image.fromarray(grey).convert(mode).save(tmp_path / 'a.jpg', format='PNG')
    assert np.array_equal(load(tmp_path / 'a.jpg')['img'], np.stack([grey] * 3, axis=-1))


@pytest.mark.parametrize('content', ['half', 'nothing', 'a page'])
def test_the_error_names_a_damaged_file(tmp_path, content):
    path = tmp_path / 'a.jpg'
    Image.fromarray(PICTURE).save(path)
    whole = path.read_bytes()
    path.write_bytes({'half': whole[:len(whole) // 2], 'nothing': b'', 'a page': b'<html>Not found</html>'}[content])
    with pytest.raises(DataError, match=r'/a\.jpg') as error:
        load(path)
    assert '\n' not in str(error.value) and '0x' not in str(error.value)


def test_the_error_names_a_missing_file(tmp_path):
    with pytest.raises(MissingFileError, match=r'nowhere\.jpg.* train_dataloader\.dataset\.data_root='):
        LoadImage()(dict(img_path=str(tmp_path / 'nowhere.jpg')))


def test_the_error_names_a_folder(tmp_path):
    with pytest.raises(FileError) as error:
        load(tmp_path)
    assert repr(str(tmp_path)) in str(error.value)
