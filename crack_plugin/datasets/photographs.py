"""How a photograph is read, and which are refused: the same in training, test, prediction, benchmark and check."""

import io
from collections.abc import Iterable
from importlib.util import find_spec
from pathlib import PurePath
from typing import Any

import cv2
import mmcv
import numpy as np
from mmcv.transforms import LoadImageFromFile
from mmengine import fileio
from mmseg.registry import TRANSFORMS
from PIL import Image, UnidentifiedImageError
from tifffile import PHOTOMETRIC, PLANARCONFIG, SAMPLEFORMAT, TiffFile, TiffPage

from crack_plugin.datasets.errors import DatasetError
from crack_plugin.tiff import TIFF_FAULTS, tiff_orientation

HEIC_SUFFIXES = frozenset({'.heic', '.heif', '.hif'})
READS_HEIC = find_spec('pillow_heif') is not None

JPEG_SUFFIXES = ('.jpg', '.jpeg', '.jfif', '.jif', '.jpe')
NON_JPEG_SUFFIXES = ('.png', '.bmp', '.tif', '.tiff', '.webp')
IMAGE_SUFFIXES = frozenset({*NON_JPEG_SUFFIXES, *JPEG_SUFFIXES}) | (HEIC_SUFFIXES if READS_HEIC else frozenset())
"""Suffixes of the files that are read, in lower case. HEIC is read where pillow-heif is installed."""

# fmt: off
UNREAD_SUFFIXES = (HEIC_SUFFIXES | {
    # raw files of cameras
    '.3fr', '.arw', '.cr2', '.cr3', '.crw', '.dcr', '.dng', '.erf', '.fff', '.iiq', '.kdc', '.mef', '.mos', '.mrw',
    '.nef', '.nrw', '.orf', '.pef', '.raf', '.raw', '.rw2', '.rwl', '.sr2', '.srf', '.srw', '.x3f',
    # others
    '.avif', '.exr', '.gif', '.hdr', '.j2k', '.jp2', '.jpf', '.jpx', '.jxl', '.jxr', '.mpo', '.pbm', '.pgm', '.pnm',
    '.ppm', '.psb', '.psd', '.svg', '.tga',
}) - IMAGE_SUFFIXES
# fmt: on
"""Suffixes of pictures that are not read, in lower case; a file of any other suffix is taken for no picture."""

# 8 bits are the upper 8 of 16. Where no value reaches a quarter of the range, the file holds the 10 to 14 bits of a
# sensor, and the picture would be dark or plain black. A few hot pixels do not make it brighter.
_DIMMEST_16_BIT = 2**14
_WITHOUT_HOT_PIXELS = 99.9  # percentile
_TIFF_HEADS = (b'II*\0', b'MM\0*', b'II+\0', b'MM\0+')
# OpenCV tells formats by their content, and would read a GIF named .jpg, the first picture of an animation.
_HEADS = (b'\x89PNG', b'\xff\xd8\xff', b'BM', *_TIFF_HEADS)
_HEIC_BRANDS = (b'heic', b'heix', b'heim', b'heis', b'hevc', b'hevx', b'mif1', b'msf1')
_DAMAGED = (
    'cannot be decoded: it is damaged, incomplete, or not what its extension says. Copy or export it again, or remove '
    'it (from a dataset, together with its label).'
)
_ONE_PICTURE = 'Only its first picture would be read: save each as a file of its own.'
# By photometric interpretation of a TIFF file.
_COLOR_SAMPLES: dict[int, int] = {
    PHOTOMETRIC.MINISWHITE: 1,
    PHOTOMETRIC.MINISBLACK: 1,
    PHOTOMETRIC.PALETTE: 1,
    PHOTOMETRIC.RGB: 3,
    PHOTOMETRIC.YCBCR: 3,
    PHOTOMETRIC.CIELAB: 3,
    PHOTOMETRIC.SEPARATED: 4,
}
_TO_8_BITS = 'Convert it to 8 bits, with the range of grey values stretched as you want the model to see it.'


class ImageError(DatasetError):
    """An image file that cannot be read as it stands. The message names the file and the remedy."""


def read_photograph(
    path: str, color_type: str = 'color', backend: str = 'cv2', *, content: bytes | None = None
) -> np.ndarray:
    """Read a photograph, turned as its EXIF orientation says.

    Args:
        path: The file, or an address that mmengine can fetch.
        color_type: As for ``mmcv.imfrombytes``: 'color' gives BGR.
        backend: As for ``mmcv.imfrombytes``.
        content: The file's content, where it has been read already.

    Returns:
        Shape (H, W, 3), uint8, for 'color'.

    Raises:
        ImageError: The file cannot be read or decoded, is of a format that is not read, holds several pictures, or
            would become another picture in 8 bits and three channels.
    """
    if PurePath(path).suffix.lower() in UNREAD_SUFFIXES:
        raise ImageError(f'image {path} cannot be read: {unread_remedy(PurePath(path).suffix.lower())}')
    if content is None:
        try:
            content = fileio.get(path)
        except OSError as error:
            raise _unreadable(path, error) from error
    orientation = 1
    if content[:4] in _TIFF_HEADS and color_type in ('color', 'grayscale'):
        content, orientation = _without_orientation(content)
    try:
        fault = _fault(content, backend) if color_type != 'unchanged' else None
        image = _decode(content, color_type, backend) if fault is None else None
    except (cv2.error, OSError, UnidentifiedImageError, Image.DecompressionBombError) as error:
        if isinstance(error, cv2.error) and error.code == cv2.Error.StsNoMem:
            raise
        raise _undecodable(path, content) from error
    if fault is not None:
        raise ImageError(f'image {path} {fault}')
    if image is None:
        raise _undecodable(path, content)
    if color_type != 'unchanged' and not _is_of_a_read_format(content):
        raise ImageError(
            f'image {path} is of a format that is not read, whatever its extension says. Convert it to JPEG or PNG.'
        )
    return image if orientation == 1 else _upright(image, orientation)


def unread_remedy(suffix: str) -> str:
    """What to do about files of one of the ``UNREAD_SUFFIXES``."""
    if suffix in HEIC_SUFFIXES:
        return 'HEIC is read with pillow-heif only: `pip install pillow-heif`, or convert it to JPEG or PNG.'
    return f'{suffix} is not read. Convert it to JPEG or PNG.'


@TRANSFORMS.register_module(name='LoadImageFromFile')
class LoadPhotograph(LoadImageFromFile):
    """mmcv's ``LoadImageFromFile`` with the refusals of ``read_photograph``; arguments and keys are the same.

    It has the name of the other in MMSegmentation's registry, so that configs, MMSegmentation's ``inference_model`` and
    ``MMSegInferencer`` and test-time augmentation all read photographs alike.
    """

    def transform(self, results: dict[str, Any]) -> dict[str, Any] | None:
        """Load the image of ``img_path``.

        Raises:
            ImageError: See ``read_photograph``; with ``ignore_empty``, the result is None instead.
        """
        path = results['img_path']
        try:
            content = self._content(path)
            image = read_photograph(path, self.color_type, self.imdecode_backend, content=content)
        except ImageError:
            if self.ignore_empty:
                return None
            raise
        if self.to_float32:
            image = image.astype(np.float32)
        results['img'] = image
        results['img_shape'] = image.shape[:2]
        results['ori_shape'] = image.shape[:2]
        return results

    def _content(self, path: str) -> bytes:
        try:
            if self.file_client_args is not None:
                return fileio.FileClient.infer_client(self.file_client_args, path).get(path)
            return fileio.get(path, backend_args=self.backend_args)
        except OSError as error:
            raise _unreadable(path, error) from error


def with_refusals(transforms: Iterable[Any]) -> list[Any]:
    """The transforms of a pipeline, with mmcv's own ``LoadImageFromFile`` replaced by a ``LoadPhotograph`` like it."""
    return [_like(step) if type(step) is LoadImageFromFile else step for step in transforms]


def _like(loader: LoadImageFromFile) -> LoadPhotograph:
    own = LoadPhotograph()
    own.__dict__.update(vars(loader))
    return own


def _decode(content: bytes, color_type: str, backend: str) -> np.ndarray | None:
    if backend == 'cv2' and color_type == 'color' and content[:4] in _TIFF_HEADS:
        with TiffFile(io.BytesIO(content)) as tiff:
            page = tiff.pages.first
        if page.bitspersample > 8 and page.is_tiled and page.samplesperpixel == 1:
            # With 8 bits asked for, OpenCV loses most of such a picture.
            values = cv2.imdecode(np.frombuffer(content, np.uint8), cv2.IMREAD_COLOR | cv2.IMREAD_ANYDEPTH)
            if values is None:
                return None
            upper = (values.astype(np.uint16) >> 8).astype(np.uint8)
            return 255 - upper if page.photometric == PHOTOMETRIC.MINISWHITE else upper
    if not _is_heic(content):
        return mmcv.imfrombytes(content, flag=color_type, backend=backend)
    if not READS_HEIC:
        return None
    import pillow_heif

    pillow_heif.register_heif_opener()
    return mmcv.imfrombytes(content, flag=color_type, backend='pillow')


def _without_orientation(content: bytes) -> tuple[bytes, int]:
    """A TIFF file as if its picture were upright, and the orientation that it has.

    Of a picture in tiles OpenCV turns each tile where it is.
    """
    try:
        with TiffFile(io.BytesIO(content)) as tiff:
            page = tiff.pages.first
            orientation = tiff_orientation(page)
            if orientation == 1:
                return content, 1
            tag = page.tags['Orientation']
            upright = (1).to_bytes(tag.valuebytecount, 'little' if tiff.byteorder == '<' else 'big')
    except TIFF_FAULTS:  # told with what is the matter
        return content, 1
    return content[: tag.valueoffset] + upright + content[tag.valueoffset + len(upright) :], orientation


def _upright(image: np.ndarray, orientation: int) -> np.ndarray:
    """A picture turned from how it lies in its file: TIFF 6.0, p. 36."""
    if orientation >= 5:
        image = image.swapaxes(0, 1)
    if orientation in (3, 4, 7, 8):
        image = image[::-1]
    if orientation in (2, 3, 6, 7):
        image = image[:, ::-1]
    return np.ascontiguousarray(image)


def _is_of_a_read_format(content: bytes) -> bool:
    return content.startswith(_HEADS) or (content[:4] == b'RIFF' and content[8:12] == b'WEBP') or _is_heic(content)


def _is_heic(content: bytes) -> bool:
    return content[4:8] == b'ftyp' and content[8:12] in _HEIC_BRANDS


def _fault(content: bytes, backend: str) -> str | None:
    """Why a file that can be decoded would become another picture than its owner sees; None if it would not."""
    if content.startswith(b'\x89PNG'):
        if b'acTL' in content[: max(0, content.find(b'IDAT'))]:
            return f'is an animation. {_ONE_PICTURE}'
        return _fault_of_16_bits(content, backend) if content[24:25] == b'\x10' else None
    if content[:4] == b'RIFF' and content[8:16] == b'WEBPVP8X':
        return f'is an animation. {_ONE_PICTURE}' if content[20:21] and content[20] & 2 else None
    return _fault_of_tiff(content, backend) if content[:4] in _TIFF_HEADS else None


def _fault_of_tiff(content: bytes, backend: str) -> str | None:
    try:
        return _fault_of_pages(content, backend)
    except TIFF_FAULTS:
        return _DAMAGED


def _fault_of_pages(content: bytes, backend: str) -> str | None:
    with TiffFile(io.BytesIO(content)) as tiff:
        pages = [page.aspage() for page in tiff.pages]
    # Previews and transparency lie beside the picture; a file that begins with a preview is a camera's raw file.
    pictures = [page for page in pages if not page.is_reduced and not page.is_mask]
    if not pictures or pictures[0] is not pages[0]:
        return 'begins with a preview, as raw files of cameras do. Convert it to JPEG or PNG.'
    if len(pictures) > 1:
        return f'holds {len(pictures)} pictures. {_ONE_PICTURE}'
    (page,) = pictures
    colors = _COLOR_SAMPLES.get(page.photometric)
    # One sample more is transparency.
    if colors is None or page.samplesperpixel > colors + 1:
        photometric = getattr(page.photometric, 'name', page.photometric)
        return (
            f'has {page.samplesperpixel} channels ({photometric}). Save the red, green and blue ones as an RGB image.'
        )
    if page.sampleformat == SAMPLEFORMAT.IEEEFP:
        return f'has floating-point values. {_TO_8_BITS}'
    if page.sampleformat != SAMPLEFORMAT.UINT or page.bitspersample > 16:
        signed = ', signed' if page.sampleformat == SAMPLEFORMAT.INT else ''
        return f'has {page.bitspersample} bits a channel{signed}. {_TO_8_BITS}'
    return _fault_of_16_bits(content, backend, page) if page.bitspersample > 8 else None


def _fault_of_16_bits(content: bytes, backend: str, page: TiffPage | None = None) -> str | None:
    if backend != 'cv2':
        return f'has 16 bits a channel, which imdecode_backend={backend!r} clips. {_TO_8_BITS}'
    # Of channels stored apart OpenCV reads 8 bits alone.
    is_apart = page is not None and page.planarconfig == PLANARCONFIG.SEPARATE and page.samplesperpixel > 1
    values = cv2.imdecode(np.frombuffer(content, np.uint8), cv2.IMREAD_COLOR if is_apart else cv2.IMREAD_UNCHANGED)
    if values is None:
        return _DAMAGED
    values = values * np.uint16(257) if values.dtype == np.uint8 else values
    # The fourth channel is transparency, and mostly 65535.
    values = values[..., :3] if values.ndim == 3 else values
    if page is not None and page.photometric == PHOTOMETRIC.MINISWHITE:
        # 0 is white: what is stored bright is dim, and what is stored dim all but white.
        values = np.minimum(values, 65535 - values)
    if np.count_nonzero(values >= _DIMMEST_16_BIT) > (1 - _WITHOUT_HOT_PIXELS / 100) * values.size:
        return None
    brightest = values.max()
    if brightest >= _DIMMEST_16_BIT:
        brightest = np.percentile(values, _WITHOUT_HOT_PIXELS, method='higher')
    return (
        f'has 16 bits a channel, but its brightest value is {brightest} of 65535: read as 8 bits it would be all but '
        f'black. {_TO_8_BITS}'
    )


def _unreadable(path: str, error: OSError) -> ImageError:
    return ImageError(f'image {path} cannot be read: {error.strerror or error}. Restore it, or remove it.')


def _undecodable(path: str, content: bytes) -> ImageError:
    if _is_heic(content) and not READS_HEIC:
        return ImageError(f'image {path} cannot be decoded: it is a HEIC file. {unread_remedy(".heic")}')
    return ImageError(f'image {path} {_DAMAGED}')
