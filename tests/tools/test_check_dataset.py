"""`tools/check_dataset.py`."""

import csv
import os
import re
import runpy
from collections.abc import Callable
from pathlib import Path

import cv2
import numpy as np
import pytest

TOOLS = Path(__file__).parents[2] / 'tools'


@pytest.fixture
def check(monkeypatch) -> Callable[..., int]:
    """Runs the tool and returns its exit code."""
    monkeypatch.syspath_prepend(TOOLS)
    main = runpy.run_path(str(TOOLS / 'check_dataset.py'))['main']

    def run(*arguments: object) -> int:
        try:
            main(['--workers', '0', *map(str, arguments)])
        except SystemExit as stop:
            return stop.code
        return 0

    return run


@pytest.fixture
def data(crack_folder, tmp_path) -> Path:
    """A copy of a sound dataset, for a test to damage."""
    for path in crack_folder.rglob('*'):
        if path.is_file():
            target = tmp_path / 'data' / path.relative_to(crack_folder)
            target.parent.mkdir(parents=True, exist_ok=True)
            target.write_bytes(path.read_bytes())
    return tmp_path / 'data'


def first(folder: Path) -> Path:
    return min(folder.iterdir())


def test_sound_dataset(data, check, capsys):
    assert check(data, '--strict') == 0
    out = capsys.readouterr().out
    assert '64 x 48' in out
    assert '0 errors, 0 warnings' in out


def test_all_errors_are_in_the_table_and_in_the_exit_code(data, check, capsys):
    first(data / 'train/labels').write_text('0 1 1\n0 0.5\n')
    first(data / 'valid/images').write_bytes(b'')
    assert check(data) == 1
    # The table breaks long lines where it must, which depends on the length of the temporary folder's name.
    out = ' '.join(capsys.readouterr().out.replace('│', ' ').split())
    assert '3 errors, 0 warnings' in out
    for part in ('.txt, line 1:', '.txt, line 2:', 'cannot be decoded'):
        assert part in out


def test_masks_with_a_suffix_and_soft_edges(data, check, capsys):
    for image in data.glob('*/images/*'):
        mask = np.zeros((48, 64), np.uint8)
        cv2.line(mask, (5, 5), (50, 40), 200, 2, cv2.LINE_AA)
        target = image.parents[1] / 'masks' / f'{image.stem}_mask.png'
        target.parent.mkdir(exist_ok=True)
        cv2.imwrite(str(target), mask)
    options = ('--annotations', 'masks', '--mask-suffix', '_mask')
    assert check(data, *options, '--mask-threshold', 127) == 0
    assert check(data, *options) == 1
    assert '_mask.png has the values 0, ' in ' '.join(capsys.readouterr().out.replace('│', ' ').split())
    assert check(data, *options, '--mask-threshold', 220) == 1
    assert 'would lose its foreground' in ' '.join(capsys.readouterr().out.replace('│', ' ').split())


def test_warnings_fail_only_when_strict(data, check, capsys):
    copied = first(data / 'train/images')
    cv2.imwrite(str(data / 'valid/images/copy.png'), cv2.imread(str(copied))[:, ::-1])
    (data / 'valid/labels/copy.txt').touch()
    assert check(data) == 0
    assert '0 errors, 1 warnings' in capsys.readouterr().out
    assert check(data, '--strict') == 1
    assert check(data, '--strict', '--hash-distance', -1) == 0


def test_split_that_is_not_there(data, check, capsys):
    assert check(data, '--splits', 'train', 'test') == 1
    assert "no split 'test'" in capsys.readouterr().out


def test_test_split_is_checked_where_there_is_one(data, check, capsys):
    (data / 'valid').rename(data / 'test')
    (data / 'valid').symlink_to(data / 'test')
    assert check(data) == 0
    assert 'val, test' in capsys.readouterr().out  # the same pictures in both
    assert check(data, '--splits', 'train', 'val', '--strict') == 0


@pytest.mark.parametrize(
    'arguments',
    [
        ('--image-size', '0'),
        ('--samples', '-1'),
        ('--workers', 'two'),
        ('--html', '/proc/no/page.html'),
        ('--csv', '/proc'),
    ],
)
def test_wrong_use_is_told_before_the_check(data, check, capsys, arguments):
    assert check(data, *arguments) == 2
    shown = capsys.readouterr()
    assert arguments[0] in shown.err
    assert shown.out == ''


def test_name_that_is_no_text(data, check, tmp_path, capsys):
    name = os.fsdecode(b'Ri\xdf')
    image = first(data / 'train/images')
    (data / 'train/labels' / f'{image.stem}.txt').rename(data / f'train/labels/{name}.txt')
    image.rename(image.with_name(f'{name}.png'))
    (data / f'train/labels/{name}.txt').write_text('none\n')
    assert check(data, '--html', tmp_path / 'page.html') == 1
    for text in (capsys.readouterr().out, (tmp_path / 'page.html').read_text()):
        assert r'Ri\udcdf.txt, line 1' in text


def test_input_resolution(data, check, capsys):
    assert check(data, '--strict', '--image-size', 8) == 1
    assert 'cracks are lost' in capsys.readouterr().out


def test_page_escapes_names_and_shows_samples(data, check, tmp_path):
    image = first(data / 'train/images')
    (data / 'train/labels' / f'{image.stem}.txt').unlink()
    image.rename(image.with_name(f'<script>{image.suffix}'))
    (data / 'train/labels/<script>.txt').write_text('none\n')
    assert check(data, '--html', tmp_path / 'new/page.html', '--samples', 2) == 1
    page = (tmp_path / 'new/page.html').read_text()
    assert '<script>' not in page
    assert '&lt;script&gt;' in page
    assert page.count('<img') == 4
    assert 'is not a number' in page
    assert '<h2>Every single problem</h2>' in page


def flood(data: Path) -> int:
    """Make a detection export of a dataset: five boxes in each label. Returns the number of label files."""
    labels = list(data.glob('*/labels/*.txt'))
    for path in labels:
        path.write_text('0 0.5 0.5 0.2 0.1\n' * 5)
    return len(labels)


def test_one_cause_in_every_file_is_one_row_and_each_fault_is_in_the_files(data, check, tmp_path, capsys):
    count = flood(data)
    assert check(data, '--csv', tmp_path / 'faults.csv', '--html', tmp_path / 'page.html') == 1
    out = capsys.readouterr().out
    rows = [[cell.strip() for cell in line.split('│')[1:-1]] for line in out.splitlines() if line.startswith('│')]
    assert [row[:5] for row in rows if row[1] == 'error'] == [['1', 'error', 'train, val', str(5 * count), str(count)]]
    assert out.count('.txt, line') == 3
    assert f'{5 * count} errors, 0 warnings' in out
    with (tmp_path / 'faults.csv').open(newline='') as file:
        faults = list(csv.DictReader(file))
    places = {(fault['file'], fault['line']) for fault in faults}
    assert places == {(str(path), str(line)) for path in data.glob('*/labels/*.txt') for line in range(1, 6)}
    assert {(fault['severity'], fault['cause']) for fault in faults} == {('error', '1')}
    assert all(fault['problem'].startswith(f'{fault["file"]}, line {fault["line"]}: five') for fault in faults)
    page = (tmp_path / 'page.html').read_text()
    assert all(f'{file}, line {line}: five' in page for file, line in places)


def test_csv_of_a_sound_dataset_has_its_header_alone(data, check, tmp_path):
    assert check(data, '--csv', tmp_path / 'faults.csv') == 0
    assert (tmp_path / 'faults.csv').read_text().splitlines() == ['severity,split,cause,file,line,problem']


def test_files_are_whole_or_as_they_were(data, check, tmp_path, monkeypatch, capsys):
    """A disk that is full when the page is written: the former page stays, and nothing is left beside it."""
    page = tmp_path / 'out/page.html'
    assert check(data, '--html', page) == 0
    former = page.read_bytes()
    flood(data)

    def full(self: Path, target: Path) -> None:
        raise OSError(28, 'No space left on device')

    monkeypatch.setattr(Path, 'replace', full)
    assert check(data, '--html', page) == 1
    assert 'page.html could not be written: No space left' in capsys.readouterr().err
    assert [path.read_bytes() for path in page.parent.iterdir()] == [former]


@pytest.mark.parametrize('annotations', ['polygons', 'masks'])
def test_split_without_foreground_fails_when_strict(data, check, capsys, annotations):
    for path in data.glob('valid/labels/*.txt'):
        path.write_text('')
    for split in ('train', 'valid'):
        (data / split / 'masks').mkdir()
        for i, path in enumerate(sorted((data / split / 'images').iterdir())):
            mask = cv2.imread(str(path), cv2.IMREAD_GRAYSCALE) * 0
            mask[5:9] = 255 * (split == 'train' and i == 0)
            cv2.imwrite(str(data / split / 'masks' / f'{path.stem}.png'), mask)
    assert check(data, '--annotations', annotations) == 0
    out = ' '.join(capsys.readouterr().out.replace('│', ' ').split())
    assert '0 errors, 1 warnings' in out
    assert "1 warning val 1 there is no foreground ('crack'), all is background, in 3 images" in out
    assert check(data, '--annotations', annotations, '--strict') == 1


def test_dataset_without_splits(data, check, capsys):
    unsplit = data.parent / 'unsplit'
    (data / 'train').rename(unsplit)
    (unsplit / 'classes.txt').write_text('crack\n')
    assert check(unsplit, '--strict') == 0
    assert f'all: {len(list((unsplit / "images").iterdir()))} images' in capsys.readouterr().out


def test_labels_across_the_edge(data, check, capsys):
    first(data / 'train/labels').write_text('0 0.5 0.5 1.2 0.5 1.2 0.6 0.5 0.6\n')
    assert check(data) == 1
    assert '--outside' in capsys.readouterr().out
    assert check(data, '--outside', 'clip', '--strict') == 0


def test_the_page_shows_labels_beside_their_cracks_first(data, check):
    """The last of all images, where evenly spaced samples begin with the first."""
    name = 'zz'
    image = np.random.default_rng(0).normal(150, 8, (96, 128, 3)).clip(0, 255).astype(np.uint8)
    image[40:43, 10:118] = 60
    cv2.imwrite(str(data / f'train/images/{name}.png'), image)
    rows, columns = (np.array([34, 34, 36, 36]) + 0.5) / 96, (np.array([10, 117, 117, 10]) + 0.5) / 128
    label = ' '.join(f'{value:.5f}' for value in np.stack([columns, rows], axis=1).ravel())
    (data / f'train/labels/{name}.txt').write_text(f'0 {label}\n')
    assert check(data, '--html', data / 'page.html', '--samples', 1) == 0
    page = (data / 'page.html').read_text()
    samples = page[page.index('Samples') : page.index('Every single problem')]
    assert f'{name}.png' in samples and samples.count('<img') == 2
    assert re.search(rf'{name}.txt lies beside what it marks: moved (\d+ pixels \w+ and )?[567] pixels down', page)
