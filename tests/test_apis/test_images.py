import io
from pathlib import Path
from urllib.error import URLError

import numpy as np
import pytest
from PIL import Image

from mmat.apis.images import list_images, read_image, unique_stems
from mmat.errors import DataError, FileError, MissingFileError

# Left half red, right half blue, RGB.
RED_BLUE = np.zeros((4, 6, 3), np.uint8)
RED_BLUE[:, :3, 0] = RED_BLUE[:, 3:, 2] = 255


def png(picture):
    content = io.BytesIO()
    picture.save(content, 'PNG')
    return content.getvalue()


# Reading

@pytest.mark.parametrize('mode', ['RGB', 'RGBA', 'P'])
@pytest.mark.parametrize('as_file', [True, False])
def test_colours_arrive_as_bgr(mode, as_file, tmp_path):
    picture = Image.fromarray(RED_BLUE).convert(mode)
    if as_file:
        picture.save(tmp_path / 'a.png')
    found = read_image(str(tmp_path / 'a.png') if as_file else picture)
    assert found.dtype == np.uint8 and found.shape == (4, 6, 3)
    assert found[0, 0].tolist() == [0, 0, 255] and found[0, 5].tolist() == [255, 0, 0]


def test_an_array_is_taken_as_it_is():
    assert np.array_equal(read_image(RED_BLUE), RED_BLUE)
    view = read_image(RED_BLUE[::-1, :, ::-1])
    assert np.array_equal(view, RED_BLUE[::-1, :, ::-1]) and view.flags.c_contiguous


@pytest.mark.parametrize('picture, expected', [
    (Image.new('L', (5, 3), 100), 100),
    (Image.new('LA', (5, 3), (100, 0)), 100),
    (Image.new('1', (5, 3), 1), 255),
    # 16 bits: 100 * 257.
    (Image.fromarray(np.full((3, 5), 25700, np.uint16)), 100),
], ids=['L', 'LA', '1', 'I;16'])
def test_grey_becomes_three_channels(picture, expected, tmp_path):
    picture.save(tmp_path / 'a.png')
    for source in (picture, str(tmp_path / 'a.png')):
        found = read_image(source)
        assert found.shape == (3, 5, 3) and (found == expected).all()


def test_16_bits_in_32():
    assert (read_image(Image.fromarray(np.full((3, 5), 25700, np.int32))) == 100).all()


@pytest.mark.filterwarnings('error')
def test_a_palette_with_transparency(tmp_path):
    picture = Image.fromarray(RED_BLUE).convert('P')
    picture.save(tmp_path / 'a.png', transparency=bytes([0] * 256))
    assert read_image(str(tmp_path / 'a.png'))[0, 0].tolist() == [0, 0, 255]


def test_a_photograph_is_turned_upright(tmp_path):
    exif = Image.Exif()
    exif[0x0112] = 3  # upside down
    Image.fromarray(RED_BLUE).save(tmp_path / 'a.png', exif=exif)
    assert read_image(str(tmp_path / 'a.png'))[0, 0].tolist() == [255, 0, 0]


def test_a_jpeg_by_any_name(tmp_path):
    Image.new('RGB', (8, 8), (200, 0, 0)).save(tmp_path / 'a.png', 'JPEG')
    assert abs(read_image(str(tmp_path / 'a.png')).astype(int) - [0, 0, 200]).max() < 5


@pytest.mark.parametrize('content', [b'', b'not a picture', png(Image.effect_noise((40, 40), 50))[:700],
                                     b'%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 4 4\n'])
def test_a_file_that_is_no_picture(content, tmp_path):
    (tmp_path / 'a.png').write_bytes(content)
    with pytest.raises(DataError) as error:
        read_image(str(tmp_path / 'a.png'))
    message = str(error.value)
    assert repr(str(tmp_path / 'a.png')) in message and 'Error)' in message and '\n' not in message


def test_a_file_of_floats(tmp_path):
    Image.fromarray(np.zeros((3, 3), np.float32)).save(tmp_path / 'a.tif')
    with pytest.raises(DataError, match="a.tif'.*'F'"):
        read_image(str(tmp_path / 'a.tif'))


@pytest.mark.parametrize('array, found', [
    (np.zeros((4, 4), np.uint8), r'uint8 of shape \(4, 4\)'),
    (np.zeros((4, 4, 4), np.uint8), r'uint8 of shape \(4, 4, 4\)'),
    (np.zeros((3, 4, 4), np.uint8), r'uint8 of shape \(3, 4, 4\)'),
    (np.zeros((2, 4, 4, 3), np.uint8), r'uint8 of shape \(2, 4, 4, 3\)'),
    (np.zeros((4, 4, 3), np.float32), r'float32 of shape \(4, 4, 3\)'),
    (np.zeros((0, 4, 3), np.uint8), r'uint8 of shape \(0, 4, 3\)'),
])
def test_an_array_of_another_kind(array, found):
    with pytest.raises(DataError, match=rf'uint8 of shape \(H, W, 3\).*BGR.* {found}'):
        read_image(array)


@pytest.mark.parametrize('source', [3, None, {'img': 1}, b'bytes'])
def test_something_else(source):
    with pytest.raises(DataError, match=f'PIL image.* {type(source).__name__}'):
        read_image(source)


def test_a_url(monkeypatch):
    asked = []

    def urlopen(url, *args, **kwargs):
        asked.append(url)
        if 'nowhere' in url:
            raise URLError('no such host')
        return io.BytesIO(png(Image.fromarray(RED_BLUE)))

    monkeypatch.setattr('mmengine.fileio.backends.http_backend.urlopen', urlopen)
    assert read_image('https://a.invalid/b.png')[0, 0].tolist() == [0, 0, 255]
    with pytest.raises(FileError, match="'https://nowhere.invalid/b.png'.*no such host"):
        read_image('https://nowhere.invalid/b.png')
    assert asked == ['https://a.invalid/b.png', 'https://nowhere.invalid/b.png']


@pytest.mark.parametrize('url', ['nowhere://a/b.png', 'https://a b/c.png'])
def test_a_url_that_no_backend_reads(url):
    with pytest.raises(FileError) as error:
        read_image(url)
    assert repr(url) in str(error.value)


# Listing

@pytest.fixture
def folder(tmp_path):
    for name in ('b.png', 'A.JPG', 'c.txt', '.d.png', 'sub/e.png', 'f.png/g.png'):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).touch()
    return tmp_path


def test_a_folder_is_its_pictures_by_name(folder):
    expected = [str(folder / 'A.JPG'), str(folder / 'b.png')]
    assert list_images(folder) == list_images(str(folder)) == list_images([folder]) == expected


def test_a_list_keeps_its_order(folder):
    url = 'https://a.invalid/b.png'
    found = list_images([folder / 'b.png', RED_BLUE, folder, url, str(folder / 'c.txt')])
    assert found[0] == str(folder / 'b.png') and found[1] is RED_BLUE
    assert found[2:] == [str(folder / 'A.JPG'), str(folder / 'b.png'), url, str(folder / 'c.txt')]
    assert list_images(RED_BLUE)[0] is RED_BLUE and list_images(url) == [url]


@pytest.mark.parametrize('path, message', [
    ('bb.png', "bb.png'.*'b.png'"),
    ('zzzzzzzzzz', r"zzzzzzzzzz'\.$"),
    ('sup/e.png', "sup/e.png'.*sup'"),
])
def test_a_missing_path(path, message, folder):
    with pytest.raises(MissingFileError, match=message):
        list_images([str(folder / 'b.png'), str(folder / path)])


def test_no_images(folder):
    (folder / 'empty').mkdir()
    with pytest.raises(DataError, match=r"empty'.*\(.jpg, .*\)\.$"):
        list_images(folder / 'empty')
    (folder / 'empty' / 'inside').mkdir()
    with pytest.raises(DataError, match="empty'.*inside"):
        list_images(str(folder / 'empty'))
    with pytest.raises(DataError, match='empty'):
        list_images([])


# Names

def test_names_are_distinct():
    sources = ['x/a.png', 'y/a.jpg', RED_BLUE, Path('z/A.png').as_posix(), 'https://b.invalid/q/a_2.png?size=3#x',
               'https://b.invalid/', 'some.dir/b.c.png']
    assert unique_stems(sources) == ['a', 'a_2', '2', 'A_3', 'a_2_2', '5', 'b.c']
