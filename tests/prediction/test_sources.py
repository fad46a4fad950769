"""What files, folders and patterns stand for, and where the masks of what is found go."""

import shutil
from pathlib import Path

import cv2
import numpy as np
import pytest

from crack_plugin.datasets.photographs import READS_HEIC
from crack_plugin.errors import CrackPluginError
from crack_plugin.prediction.sources import Source, SourceError, VideoError, find_sources, overlay_of, unread_line


@pytest.fixture
def site(tmp_path: Path) -> Path:
    """A folder with photographs, a video and what is neither."""
    folder = tmp_path / 'site'
    (folder / 'pier 2' / '.cache').mkdir(parents=True)
    for name in ('b.png', 'a.JPG', 'pier 2/c.tif', 'pier 2/.cache/d.png', '.e.png', 'clip.mp4', 'x.CR2', 'notes.txt'):
        (folder / name).write_bytes(b'x')
    return folder


def names_of(*patterns: Path | str) -> list[str]:
    return [source.name for source in find_sources([str(pattern) for pattern in patterns])[0]]


def test_folder_is_searched_with_its_subfolders(site: Path) -> None:
    sources, unread = find_sources([str(site)])
    assert [source.mask for source in sources] == ['masks/a.png', 'masks/b.png', 'masks/pier 2/c.png']
    assert not any(source.is_video for source in sources)
    assert unread == {'.mp4': [site / 'clip.mp4'], '.cr2': [site / 'x.CR2']}


def test_named_files_come_in_their_order_and_once(site: Path) -> None:
    assert names_of(site / 'b.png', site, site / 'pier 2' / 'c.tif') == ['b', 'a', 'pier 2/c']


@pytest.mark.parametrize(
    ('pattern', 'names'),
    [('*', ['a', 'b', 'clip']), ('**/*.tif', ['pier 2/c']), ('p*/c*', ['pier 2/c']), ('[ab].*', ['a', 'b'])],
)
def test_pattern_names_from_its_first_wildcard(site: Path, pattern: str, names: list[str]) -> None:
    assert names_of(site / pattern) == names


def test_named_file_is_read_whatever_its_suffix(site: Path) -> None:
    assert names_of(site / 'notes.txt', site / '.e.png', site / 'clip.mp4') == ['notes', '.e', 'clip']
    assert find_sources([str(site), str(site / 'clip.mp4')])[1] == {'.mp4': [], '.cr2': [site / 'x.CR2']}


def test_named_file_of_an_unread_format_is_counted(site: Path) -> None:
    assert find_sources([str(site / 'x.CR2')]) == ([], {'.cr2': [site / 'x.CR2']})


@pytest.mark.parametrize('pattern', ['nowhere', 'nowhere/*.jpg', 'site/*.webp'])
def test_nothing_found(site: Path, pattern: str) -> None:
    with pytest.raises(SourceError, match=r'no image is there \(\.bmp') as caught:
        find_sources([str(site.parent / pattern)])
    assert isinstance(caught.value, CrackPluginError) and isinstance(caught.value, FileNotFoundError)


@pytest.mark.skipif(READS_HEIC, reason='pillow-heif is installed')
def test_nothing_found_but_unread_formats(site: Path) -> None:
    (site / 'phone').mkdir()
    (site / 'phone' / '1.HEIC').touch()
    with pytest.raises(SourceError, match=r'1 \.heic file is not read: .*1\.HEIC\. HEIC is read with pillow-heif'):
        find_sources([str(site / 'phone')])


def test_unread_line_says_how_many_and_what_to_do() -> None:
    files = [Path(f'{number}.mov') for number in range(5)]
    assert unread_line('.mov', files) == (
        '5 .mov files are not read: 0.mov, 1.mov, 2.mov and 2 more. Videos are taken where they are named, or found by '
        "a pattern such as '*.mov'."
    )
    assert unread_line('.cr2', [Path('x.CR2')]) == (
        '1 .cr2 file is not read: x.CR2. .cr2 is not read. Convert it to JPEG or PNG.'
    )


def test_frames_of_a_video(tmp_path: Path) -> None:
    grey = (20, 120, 220)
    writer = cv2.VideoWriter(str(tmp_path / 'drone.avi'), cv2.VideoWriter_fourcc(*'MJPG'), 5, (64, 48))
    for value in grey:
        writer.write(np.full((48, 64, 3), value, np.uint8))
    writer.release()
    source = Source(tmp_path / 'drone.avi', 'deck/drone')
    assert source.count_images() == 3
    frames = list(source.images())
    assert [mask for _, mask in frames] == [f'masks/deck/drone/{number:06d}.png' for number in range(3)]
    assert [np.mean(frame) for frame, _ in frames] == pytest.approx(grey, abs=3)
    assert overlay_of(frames[2][1]) == 'overlays/deck/drone/000002.jpg'


def test_image_is_its_path(site: Path) -> None:
    source = Source(site / 'b.png', 'b')
    assert (list(source.images()), source.count_images()) == ([(str(site / 'b.png'), 'masks/b.png')], 1)


def test_damaged_video(tmp_path: Path) -> None:
    (tmp_path / 'drone.avi').write_bytes(b'RIFF')
    with pytest.raises(VideoError, match=r'drone\.avi: decoding ended after 0'):
        list(Source(tmp_path / 'drone.avi', 'drone').images())


def test_masks_and_overlays_of_an_earlier_run_are_no_photographs(site: Path) -> None:
    for out in (site, site / 'out'):
        for name in ('masks/a.png', 'overlays/pier 2/c.jpg'):
            (out / name).parent.mkdir(parents=True, exist_ok=True)
            (out / name).touch()
        for pattern in (site, site / '**/*.*'):
            found = {source.name for source in find_sources([str(pattern)], out)[0]}
            assert {name for name in found if name.startswith(('masks', 'overlays', 'out'))} == (
                set() if out == site else {'masks/a', 'overlays/pier 2/c'}
            )
    assert names_of(site / 'masks/a.png') == ['a']


def test_images_linked_to_labels_are_the_photographs_they_were(site: Path) -> None:
    for out in (site, site / 'a first'):
        link = out / 'labels' / 'yolo' / 'images' / 'train' / 'b.png'
        link.parent.mkdir(parents=True)
        link.symlink_to(site / 'b.png')
        assert [source.name for source in find_sources([str(site)], out)[0]] == ['a', 'b', 'pier 2/c']
        shutil.rmtree(out / 'labels')


def test_link_that_leads_nowhere_is_a_source_that_cannot_be_read(site: Path) -> None:
    (site / 'link.jpg').symlink_to('nowhere')
    assert names_of(site) == ['a', 'b', 'link', 'pier 2/c']
    assert names_of(site / 'link.jpg') == names_of(site / 'l*.jpg') == ['link']
