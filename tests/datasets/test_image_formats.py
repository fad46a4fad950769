"""Every kind of image file through ``YOLOCrackDataset`` and MMSegmentation's own ``LoadImageFromFile``."""

import re
from pathlib import Path
from types import SimpleNamespace

import cv2
import numpy as np
import pytest
import tifffile
from mmcv.transforms import LoadImageFromFile
from mmengine.config import Config
from mmengine.dataset import Compose
from mmengine.registry import DefaultScope
from mmseg.apis.utils import _preprare_data
from mmseg.registry import TRANSFORMS
from PIL import Image
from PIL.Image import Transpose

from crack_plugin.datasets import ImageError, LoadYOLOPolygons, YOLOCrackDataset
from crack_plugin.datasets.conversion import image_size
from crack_plugin.datasets.inspection import inspect_samples, open_split
from crack_plugin.datasets.photographs import READS_HEIC, read_photograph

PIPELINE = [LoadImageFromFile(), LoadYOLOPolygons()]
# Upper left quarter of 40 x 20 pixels.
QUARTER = '0 0 0 0.475 0 0.475 0.45 0 0.45\n'
# How a picture lies in a file of EXIF orientation 2, 3, ... 8; Pillow turns counter-clockwise.
STORED = [
    Transpose.FLIP_LEFT_RIGHT,
    Transpose.ROTATE_180,
    Transpose.FLIP_TOP_BOTTOM,
    Transpose.TRANSPOSE,
    Transpose.ROTATE_90,
    Transpose.TRANSVERSE,
    Transpose.ROTATE_270,
]


@pytest.fixture
def images(tmp_path) -> Path:
    """The folder for a picture called ``crack``, whose label is there."""
    for folder in ('images', 'labels'):
        (tmp_path / 'train' / folder).mkdir(parents=True)
    (tmp_path / 'train/labels/crack.txt').write_text(QUARTER)
    return tmp_path / 'train/images'


@pytest.fixture
def picture() -> Image.Image:
    """Red where the label is, blue elsewhere."""
    pixels = np.full((20, 40, 3), (20, 60, 220), np.uint8)
    pixels[:10, :20] = (230, 40, 30)
    return Image.fromarray(pixels)


def load(images: Path, **options) -> dict:
    (sample,) = YOLOCrackDataset(images.parents[1], pipeline=PIPELINE, **options)
    return sample


def assert_label_fits(sample: dict) -> None:
    """The label covers what is redder than blue."""
    blue, _, red = np.moveaxis(sample['img'].astype(int), -1, 0)
    np.testing.assert_array_equal(sample['gt_seg_map'], red > blue)


@pytest.mark.parametrize(
    ('name', 'mode', 'options'),
    [
        ('crack.jpg', 'RGB', {}),
        ('crack.jpg', 'CMYK', {}),
        ('crack.JPEG', 'RGB', {'progressive': True}),
        ('crack.png', 'RGBA', {}),
        ('crack.PNG', 'P', {}),
        ('crack.webp', 'RGB', {'lossless': True}),
        ('crack.WebP', 'RGBA', {'lossless': True}),
        ('crack.tif', 'RGB', {}),
        ('crack.TIFF', 'RGBA', {'compression': 'tiff_lzw'}),
        ('crack.tif', 'CMYK', {'compression': 'tiff_deflate'}),
        ('crack.BMP', 'RGB', {}),
    ],
)
def test_colours_are_those_pillow_sees(images, picture, name, mode, options):
    stored = picture.convert(mode)
    exact = 'JP' not in name.upper()
    stored.save(images / name, **options if exact else {'quality': 100, 'subsampling': 0, **options})
    sample = load(images)
    expected = np.asarray(Image.open(images / name).convert('RGB'))[..., ::-1]
    np.testing.assert_allclose(sample['img'].astype(int), expected, atol=0 if exact else 3)
    assert_label_fits(sample)


@pytest.mark.parametrize(('mode', 'name'), [('L', 'crack.png'), ('LA', 'crack.png'), ('1', 'crack.tif')])
def test_grey_becomes_three_equal_channels(images, picture, mode, name):
    picture.convert(mode).save(images / name)
    image = load(images)['img']
    expected = np.asarray(Image.open(images / name).convert('L'))
    np.testing.assert_array_equal(image, np.dstack([expected] * 3))


@pytest.mark.parametrize('suffix', ['jpg', 'png', 'tif', 'webp'])
@pytest.mark.parametrize(('orientation', 'stored'), enumerate(STORED, start=2))
def test_image_and_label_follow_the_exif_orientation(images, picture, suffix, orientation, stored):
    exif = picture.getexif()
    exif[0x0112] = orientation
    picture.transpose(stored).save(images / f'crack.{suffix}', exif=exif, quality=100)
    sample = load(images)
    assert sample['img'].shape == (20, 40, 3)
    assert_label_fits(sample)
    assert image_size(images / f'crack.{suffix}') == (20, 40)


@pytest.mark.parametrize(
    'options',
    [
        {'tile': (32, 32)},
        {'tile': (32, 32), 'planarconfig': 'separate'},
        {'tile': (32, 32), 'byteorder': '>', 'bigtiff': True},
        {'tile': (32, 32), 'byteorder': '>', 'dtype': 'I'},
        {'tile': (32, 32), 'bits': 16},
        {'rowsperstrip': 3, 'compression': 'zlib'},
    ],
    ids='-'.join,
)
@pytest.mark.parametrize(('orientation', 'stored'), enumerate([None, *STORED], start=1))
def test_tiff_follows_its_orientation_however_it_is_stored(images, options, orientation, stored):
    upright = np.random.default_rng(0).integers(0, 256, (44, 70, 3), dtype=np.uint8)
    pixels = upright if stored is None else np.asarray(Image.fromarray(upright).transpose(stored))
    options = dict(options)
    if options.pop('bits', 8) == 16:
        pixels = pixels * np.uint16(257)
    if 'planarconfig' in options:
        pixels = np.moveaxis(pixels, -1, 0)
    tag = (274, options.pop('dtype', 'H'), 1, orientation, True)
    tifffile.imwrite(images / 'crack.tif', pixels, photometric='rgb', extratags=[tag], **options)
    np.testing.assert_array_equal(read_photograph(str(images / 'crack.tif')), upright[..., ::-1])


def test_orientation_that_means_nothing_turns_nothing(images):
    pixels = np.random.default_rng(0).integers(0, 256, (44, 70, 3), dtype=np.uint8)
    tifffile.imwrite(images / 'crack.tif', pixels, photometric='rgb', extratags=[(274, 'H', 1, 9, True)])
    np.testing.assert_array_equal(read_photograph(str(images / 'crack.tif')), pixels[..., ::-1])


@pytest.mark.parametrize('suffix', ['png', 'tif'])
@pytest.mark.parametrize('channels', [1, 3])
def test_16_bits_keep_their_upper_8(images, suffix, channels):
    values = np.linspace(0, 65535, 800).reshape(20, 40).astype(np.uint16)
    cv2.imwrite(str(images / f'crack.{suffix}'), np.dstack([values] * channels))
    np.testing.assert_allclose(load(images)['img'], np.dstack([values / 257] * 3), atol=1)


@pytest.mark.parametrize('suffix', ['png', 'tif'])
def test_16_bits_that_would_turn_black_are_an_error(images, suffix):
    cv2.imwrite(str(images / f'crack.{suffix}'), np.linspace(0, 4095, 800).reshape(20, 40).astype(np.uint16))
    with pytest.raises(ImageError, match=rf'crack\.{suffix} has 16 bits .* brightest value is 4095 of 65535'):
        load(images)


def test_hot_pixels_do_not_hide_that_16_bits_would_turn_black(images):
    values = np.full((100, 100, 3), 3000, np.uint16)
    values[50, :8] = 65535
    cv2.imwrite(str(images / 'crack.png'), values)
    with pytest.raises(ImageError, match=r'brightest value is 3000 of 65535'):
        load(images)


@pytest.mark.parametrize('options', [{}, {'tile': (32, 32)}, {'tile': (64, 16), 'compression': 'zlib'}])
@pytest.mark.parametrize('photometric', ['minisblack', 'miniswhite'])
def test_grey_tiff_of_16_bits_however_it_is_stored(images, options, photometric):
    values = np.linspace(0, 65535, 60 * 80).reshape(60, 80).astype(np.uint16)
    stored = 65535 - values if photometric == 'miniswhite' else values
    tifffile.imwrite(images / 'crack.tif', stored, photometric=photometric, **options)
    np.testing.assert_allclose(load(images)['img'], np.dstack([values / 257] * 3), atol=1)


@pytest.mark.parametrize('options', [{}, {'tile': (32, 32)}])
@pytest.mark.parametrize('planes', ['contig', 'separate'])
def test_tiff_of_16_bits_a_channel_however_it_is_stored(images, options, planes):
    values = np.linspace(20000, 65535, 60 * 80 * 3).reshape(60, 80, 3).astype(np.uint16)
    stored = np.moveaxis(values, 2, 0) if planes == 'separate' else values
    tifffile.imwrite(images / 'crack.tif', stored, photometric='rgb', planarconfig=planes, **options)
    np.testing.assert_allclose(load(images)['img'], values[..., ::-1] / 257, atol=1)


@pytest.mark.parametrize('options', [{'planarconfig': 'separate'}, {'tile': (32, 32)}])
def test_dim_tiff_of_16_bits_however_it_is_stored(images, options):
    values = np.full((3, 60, 80) if 'planarconfig' in options else (60, 80, 3), 15 * 257, np.uint16)
    tifffile.imwrite(images / 'crack.tif', values, photometric='rgb', **options)
    with pytest.raises(ImageError, match=r'brightest value is 3855 of 65535'):
        load(images)


@pytest.mark.parametrize('top', [4095, 65535])
def test_dim_16_bits_stored_with_white_as_0(images, top):
    values = np.linspace(0, 4095, 60 * 80).reshape(60, 80).astype(np.uint16)
    tifffile.imwrite(images / 'crack.tif', top - values, photometric='miniswhite')
    with pytest.raises(ImageError, match=r'brightest value is 409\d of 65535'):
        load(images)


@pytest.mark.parametrize('suffix', ['gif', 'jp2', 'ppm', 'hdr', 'avif'])
def test_formats_that_are_not_read_under_the_name_of_another(images, picture, suffix):
    if suffix in ('gif', 'avif'):
        picture.save(images.parent / f'crack.{suffix}', save_all=True, append_images=[picture.rotate(180)])
    else:
        cv2.imwrite(str(images.parent / f'crack.{suffix}'), np.asarray(picture))
    (images.parent / f'crack.{suffix}').rename(images / 'crack.jpg')
    with pytest.raises(ImageError, match=r'crack\.jpg is of a format that is not read|crack\.jpg cannot be decoded'):
        load(images)


def test_16_bits_that_pillow_would_turn_white_are_an_error(images):
    cv2.imwrite(str(images / 'crack.png'), np.full((20, 40), 30000, np.uint16))
    dataset = YOLOCrackDataset(images.parents[1], pipeline=[LoadImageFromFile(imdecode_backend='pillow')])
    with pytest.raises(ImageError, match="imdecode_backend='pillow' clips"):
        dataset[0]


def test_16_bits_asked_for_as_they_are_stay(images):
    cv2.imwrite(str(images / 'crack.png'), np.full((20, 40), 4095, np.uint16))
    dataset = YOLOCrackDataset(images.parents[1], pipeline=[LoadImageFromFile(color_type='unchanged')])
    assert dataset[0]['img'].max() == 4095


@pytest.mark.parametrize('brightest', [4095, 65535])
def test_transparency_does_not_hide_that_16_bits_would_turn_black(images, brightest):
    pixels = np.full((20, 40, 4), 4000, np.uint16)
    pixels[..., 3] = brightest
    cv2.imwrite(str(images / 'crack.png'), pixels)
    with pytest.raises(ImageError, match=r'brightest value is 4000 of 65535'):
        load(images)


@pytest.mark.parametrize(
    ('pixels', 'options', 'message'),
    [
        (np.zeros((20, 40), np.float32), {}, 'has floating-point values'),
        (np.zeros((20, 40, 3), np.float16), {'photometric': 'rgb'}, 'has floating-point values'),
        (np.full((20, 40), 30000, np.uint32), {}, 'has 32 bits a channel'),
        (np.full((20, 40), 30000, np.int16), {}, 'has 16 bits a channel, signed'),
        (np.zeros((3, 20, 40, 3), np.uint8), {'photometric': 'rgb'}, 'holds 3 pictures'),
        (
            np.zeros((20, 40, 4), np.uint8),
            {'photometric': 'minisblack', 'planarconfig': 'contig'},
            r'has 4 channels \(MINISBLACK\)',
        ),
        (np.zeros((20, 40, 3), np.uint8), {'photometric': 'rgb', 'subfiletype': 1}, 'begins with a preview'),
    ],
)
def test_tiff_that_would_become_another_picture_is_an_error(images, pixels, options, message):
    tifffile.imwrite(images / 'crack.tif', pixels, **options)
    with pytest.raises(ImageError, match=rf'crack\.tif {message}'):
        load(images)


def test_preview_and_transparency_in_a_tiff_are_no_pictures_of_their_own(images, picture):
    pixels = np.asarray(picture)
    with tifffile.TiffWriter(images / 'crack.tif') as tiff:
        tiff.write(pixels, photometric='rgb')
        tiff.write(pixels[::2, ::2], photometric='rgb', subfiletype=1)
    np.testing.assert_array_equal(load(images)['img'], pixels[..., ::-1])


@pytest.mark.parametrize('suffix', ['png', 'webp'])
def test_animation_is_an_error(images, picture, suffix):
    other = picture.transpose(Transpose.ROTATE_180)
    picture.save(images / f'crack.{suffix}', save_all=True, append_images=[other], lossless=True)
    with pytest.raises(ImageError, match=rf'crack\.{suffix} is an animation'):
        load(images)


@pytest.mark.parametrize('suffix', ['jfif', 'JFIF', 'jpe'])
def test_other_suffixes_of_jpeg(images, picture, suffix):
    picture.save(images / f'crack.{suffix}', 'JPEG', quality=100)
    assert_label_fits(load(images))


@pytest.mark.parametrize('suffix', ['gif', 'jp2', 'avif', 'DNG'])
def test_formats_that_are_not_read_are_named_whoever_reads_them(images, picture, suffix):
    """Even those that OpenCV would decode, or of which it would decode the preview."""
    path = images / f'crack.{suffix}'
    picture.save(path, 'TIFF' if suffix == 'DNG' else None)
    (images.parents[1] / 'list.txt').write_text(f'train/images/crack.{suffix}')
    (images.parents[1] / 'data.yaml').write_text('train: list.txt')
    message = rf'crack\.{suffix} cannot be read: \.{suffix.lower()} is not read\. Convert it'
    with pytest.raises(ImageError, match=message):
        load(images)
    with pytest.raises(ImageError, match=message):
        read_photograph(str(path))


@pytest.mark.skipif(READS_HEIC, reason='pillow-heif is installed')
def test_heic_under_another_name_is_called_what_it_is(images):
    (images / 'crack.jpg').write_bytes(b'\0\0\0\x24ftypheic' + bytes(200))
    with pytest.raises(ImageError, match=r'crack\.jpg cannot be decoded: it is a HEIC file.*pip install pillow-heif'):
        load(images)


def test_heic_is_read_with_pillow_heif(images, picture):
    pillow_heif = pytest.importorskip('pillow_heif')
    pillow_heif.register_heif_opener()
    picture.save(images / 'crack.HEIC', quality=100)
    assert_label_fits(load(images))


REFUSED = {
    'twelve_bits.png': lambda path: cv2.imwrite(path, np.linspace(0, 4095, 800).reshape(20, 40).astype(np.uint16)),
    'float.tif': lambda path: cv2.imwrite(path, np.zeros((20, 40), np.float32)),
    'pages.tif': lambda path: tifffile.imwrite(path, np.zeros((2, 20, 40, 3), np.uint8), photometric='rgb'),
    'cut.jpg': lambda path: Path(path).write_bytes(cv2.imencode('.jpg', np.zeros((20, 40, 3)))[1].tobytes()[:300]),
    'empty.webp': lambda path: Path(path).touch(),
}


@pytest.mark.parametrize('name', REFUSED)
def test_every_way_to_read_refuses_the_same_with_the_same_words(images, name):
    path = images / name
    (images.parent / 'labels/crack.txt').rename(images.parent / f'labels/{path.stem}.txt')
    REFUSED[name](str(path))
    with pytest.raises(ImageError) as expected:
        read_photograph(str(path))
    assert name in str(expected.value)
    message = f'^{re.escape(str(expected.value))}$'

    with pytest.raises(ImageError, match=message):
        load(images)
    _, problems = next(inspect_samples(open_split(images.parents[1], 'train')[0]))
    assert [problem.text for problem in problems] == [str(expected.value)]
    # MMSegmentation's own: inference_model, MMSegInferencer, test-time augmentation, any other dataset.
    cfg = Config({'test_pipeline': [{'type': 'LoadImageFromFile'}, {'type': 'PackSegInputs'}]})
    tta = {'type': 'TestTimeAug', 'transforms': [[{'type': 'RandomFlip', 'prob': 0.0}], [{'type': 'PackSegInputs'}]]}
    with DefaultScope.overwrite_default_scope('mmseg'):
        with pytest.raises(ImageError, match=message):
            _preprare_data(str(path), SimpleNamespace(cfg=cfg))
        with pytest.raises(ImageError, match=message):
            TRANSFORMS.build({'type': 'InferencerLoader'})(str(path))
        with pytest.raises(ImageError, match=message):
            Compose([{'type': 'LoadImageFromFile'}, tta])({'img_path': str(path)})


@pytest.mark.parametrize('suffix', ['jpg', 'png', 'tif', 'webp', 'bmp'])
def test_truncated_image_is_an_error(images, suffix):
    noise = np.random.default_rng(0).integers(0, 255, (64, 64, 3), np.uint8)
    path = images / f'crack.{suffix}'
    Image.fromarray(noise).save(path)
    path.write_bytes(path.read_bytes()[:-200])
    with pytest.raises(ImageError, match=rf'crack\.{suffix} cannot be decoded'):
        load(images)


def test_names_with_blanks_and_unicode(images, picture):
    name = 'Riß in Brücke №7 (裂缝) 100%'
    picture.save(images / f'{name}.png')
    (images.parent / 'labels' / 'crack.txt').rename(images.parent / 'labels' / f'{name}.txt')
    assert_label_fits(load(images))


def test_upper_case_label_suffix(images, picture):
    picture.save(images / 'crack.png')
    (images.parent / 'labels' / 'crack.txt').rename(images.parent / 'labels' / 'crack.TXT')
    assert_label_fits(load(images, missing_label='error'))


def test_links_to_files_and_folders(images, picture, tmp_path):
    picture.save(tmp_path / 'elsewhere.png')
    (images / 'crack.png').symlink_to(tmp_path / 'elsewhere.png')
    linked = tmp_path / 'linked'
    linked.mkdir()
    (linked / 'train').symlink_to(tmp_path / 'train', target_is_directory=True)
    assert_label_fits(load(linked / 'train' / 'images'))


def test_link_that_leads_nowhere_is_an_error(images, picture, tmp_path):
    (images / 'crack.png').symlink_to(tmp_path / 'gone.png')
    with pytest.raises(ImageError, match=r'crack\.png cannot be read: No such file'):
        load(images)
    (images / 'crack.png').unlink()
    picture.save(images / 'crack.png')
    (images.parent / 'labels/crack.txt').unlink()
    (images.parent / 'labels/crack.txt').symlink_to(tmp_path / 'gone.txt')
    with pytest.raises(FileNotFoundError, match=r'crack\.txt is a link that leads to no file'):
        load(images)


def test_100_megapixels(images):
    cv2.imwrite(str(images / 'crack.png'), np.zeros((8000, 12500), np.uint8), [cv2.IMWRITE_PNG_COMPRESSION, 1])
    sample = load(images)
    assert sample['img'].shape == (8000, 12500, 3)
    assert sample['gt_seg_map'].sum() == pytest.approx(0.475 * 0.45 * 1e8, rel=1e-3)
