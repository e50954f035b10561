import io
from pathlib import Path
from urllib.error import URLError

import cv2
import numpy as np
import pytest
from PIL import Image

from mmat.apis.images import list_images, read_image, unique_stems
from mmat.datasets import LoadImage
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
    assert repr(str(tmp_path / 'a.png')) in message and '0x' not in message and '\n' not in message


def test_a_damaged_picture_in_memory():
    content = png(Image.effect_noise((40, 40), 50))[:700]
    with pytest.raises(DataError, match='PIL image'):
        read_image(Image.open(io.BytesIO(content)))


@pytest.mark.parametrize('array, mode', [
    (np.zeros((3, 3), np.float32), 'F'), (np.full((3, 3), 200, np.int32), 'I'), (np.full((3, 3), 7000, np.int32), 'I')])
def test_a_file_of_32_bits_has_no_known_range(array, mode, tmp_path):
    path = str(tmp_path / 'a.tif')
    Image.fromarray(array).save(path)
    for read in READERS.values():
        with pytest.raises(DataError, match=f"a.tif'.*'{mode}'"):
            read(path)


@pytest.mark.parametrize('value', [-1, 65536])
def test_integers_outside_16_bits(value):
    with pytest.raises(DataError, match="'I'"):
        read_image(Image.fromarray(np.array([[0, value]], np.int32)))


# The same pixels in training and inference

READERS = dict(training=lambda path: LoadImage()(dict(img_path=path))['img'], inference=read_image)
NOISE = np.random.default_rng(0).integers(0, 256, (6, 9, 4), dtype=np.uint8)
NOISE16 = np.random.default_rng(0).integers(0, 65536, (6, 9, 4), dtype=np.uint16)
RGB, GRAY, ALPHA = NOISE[..., :3], NOISE[..., :1].repeat(3, 2), NOISE[..., 3:]
SOLID = (np.arange(54).reshape(6, 9, 1) * [3, 2, 1]).astype(np.uint8)


def exif(orientation):
    tags = Image.Exif()
    tags[0x0112] = orientation
    return tags


def palette(colors=SOLID):
    return Image.fromarray(colors).convert('P', palette=Image.Palette.ADAPTIVE)


def opencv(array):
    return lambda path: cv2.imwrite(path, array)


def pillow(image, **options):
    return lambda path: image.save(path, **options)


# Suffix, writer and expected RGB.
KINDS = {
    'gray 16': ('.png', pillow(Image.fromarray(NOISE16[..., 0])), (NOISE16[..., :1] >> 8).repeat(3, 2)),
    'gray 16 TIFF': ('.tif', pillow(Image.fromarray(NOISE16[..., 0])), (NOISE16[..., :1] >> 8).repeat(3, 2)),
    'gray 16 PGM': ('.pgm', opencv(NOISE16[..., 0]), (NOISE16[..., :1] >> 8).repeat(3, 2)),
    'gray 16 rotated': ('.png', pillow(Image.fromarray(NOISE16[..., 0]), exif=exif(3)),
                        (NOISE16[::-1, ::-1, :1] >> 8).repeat(3, 2)),
    'RGB 16': ('.png', opencv(NOISE16[..., 2::-1]), NOISE16[..., :3] >> 8),
    'RGB 16 TIFF': ('.tif', opencv(NOISE16[..., 2::-1]), NOISE16[..., :3] >> 8),
    'RGBA 16': ('.png', opencv(NOISE16[..., [2, 1, 0, 3]]), NOISE16[..., :3] >> 8),
    'RGBA': ('.png', pillow(Image.fromarray(NOISE)), RGB),
    'RGBA WebP': ('.webp', pillow(Image.fromarray(NOISE), lossless=True, exact=True), RGB),
    'RGB with a transparent color': ('.png', pillow(Image.fromarray(RGB), transparency=(1, 2, 3)), RGB),
    'LA': ('.png', pillow(Image.fromarray(NOISE[..., [0, 3]])), GRAY),
    'gray with a transparent value': ('.png', pillow(Image.fromarray(NOISE[..., 0]), transparency=90), GRAY),
    'palette with alpha': ('.png', pillow(palette(), transparency=bytes([0, 128] * 27)), SOLID),
    'palette with a transparent index': ('.png', pillow(palette(), transparency=5), SOLID),
    'GIF with a transparent index': ('.gif', pillow(palette(), transparency=5), SOLID),
    'animated GIF': ('.gif', pillow(palette(), save_all=True, append_images=[palette(SOLID[::-1])]), SOLID),
    'animated PNG': ('.png', pillow(Image.fromarray(RGB), save_all=True, append_images=[Image.new('RGB', (9, 6))]),
                     RGB),
    'TIFF of two pages': ('.tif', pillow(Image.fromarray(RGB), save_all=True, append_images=[Image.new('L', (5, 5))]),
                          RGB),
    'CMYK': ('.tif', pillow(Image.fromarray(RGB).convert('CMYK')), RGB),
    '1 bit': ('.png', pillow(Image.fromarray(NOISE[..., 0] > 127)), (GRAY > 127) * 255),
}
ROTATIONS = {1: lambda image: image, 2: np.fliplr, 3: lambda image: np.rot90(image, 2), 4: np.flipud,
             5: lambda image: image.transpose(1, 0, 2), 6: lambda image: np.rot90(image, -1),
             7: lambda image: np.rot90(image, 2).transpose(1, 0, 2), 8: np.rot90}
for orientation, rotate in ROTATIONS.items():
    for suffix in ('.png', '.tif', '.webp'):
        options = dict(lossless=True) if suffix == '.webp' else {}
        KINDS[f'EXIF {orientation} {suffix}'] = (
            suffix, pillow(Image.fromarray(RGB), exif=exif(orientation), **options), rotate(RGB))


@pytest.mark.parametrize('kind', KINDS)
def test_training_and_inference_read_the_same_pixels(kind, tmp_path):
    suffix, write, expected = KINDS[kind]
    path = str(tmp_path / f'a{suffix}')
    write(path)
    for read in (*READERS.values(), lambda path: read_image(Image.open(path))):
        found = read(path)
        assert found.dtype == np.uint8 and found.flags.c_contiguous
        assert np.array_equal(found[..., ::-1], expected)


def test_16_bits_keep_256_levels(tmp_path):
    path = str(tmp_path / 'r.png')
    Image.fromarray(np.linspace(0, 65535, 256).astype(np.uint16)[None].repeat(8, 0)).save(path)
    for read in READERS.values():
        assert np.array_equal(read(path), np.arange(256)[None, :, None].repeat(8, 0).repeat(3, 2))


def test_jpeg_2000(tmp_path):
    gray, color, deep = (str(tmp_path / name) for name in ('gray.jp2', 'color.jp2', 'deep.jp2'))
    Image.fromarray(NOISE16[..., 0]).save(gray, irreversible=False)
    Image.fromarray(RGB).save(color, irreversible=False)
    # Pillow would read white as black.
    cv2.imwrite(deep, np.full((64, 64, 3), 65535, np.uint16))
    for read in READERS.values():
        assert np.array_equal(read(gray)[..., 0], NOISE16[..., 0] >> 8)
        assert np.array_equal(read(color)[..., ::-1], RGB)
        with pytest.raises(DataError, match="deep.jp2'.* 8 bits.* 16"):
            read(deep)


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
