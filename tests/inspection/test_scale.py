"""Scales of photographs: one for all, by a table, by the georeference; faults are named with their line."""

from pathlib import Path

import pytest

from crack_plugin.inspection.scale import ScaleError, read_scales


def test_one_for_all_and_none() -> None:
    assert read_scales('0.25').of(Path('a.jpg')) == 0.25
    assert read_scales(None).of(Path('a.jpg')) is None
    with pytest.raises(
        ScaleError, match=r'--severity needs the scale of every photograph, and that of a\.jpg is not known'
    ):
        read_scales(None).require([Path('a.jpg')], '--severity')


@pytest.mark.parametrize(
    'text',
    [
        'image,mm_per_pixel\na.jpg,0.1\nsite/b.jpg,0.2\n',
        '\ufeffmm_per_pixel; image\r\n0.1; a.jpg\r\n0.2; site/b.jpg\r\n',
        'image,distance,mm_per_pixel\na.jpg,3,0.1\nsite/b.jpg,6,0.2\na.jpg,3,0.1\n',
    ],
)
def test_table(tmp_path: Path, text: str) -> None:
    (tmp_path / 'scales.csv').write_text(text, encoding='utf-8')
    scales = read_scales(str(tmp_path / 'scales.csv'))
    assert scales.of(Path('anywhere/a.jpg')) == 0.1
    assert scales.of(tmp_path / 'site' / 'b.jpg') == 0.2
    assert scales.of(Path('site/b.jpg')) == 0.2
    assert scales.of(Path('other/b.jpg')) is None
    with pytest.raises(ScaleError, match=r'c\.jpg is not known \(not in .*scales\.csv'):
        scales.require([Path('a.jpg'), Path('c.jpg')], '--severity')


@pytest.mark.parametrize(
    ('text', 'message'),
    [
        ('name,scale\na,1\n', r"wanted are the columns image, mm_per_pixel, and the first line is \['name', 'scale'\]"),
        ('image,mm_per_pixel\na.jpg,0.1\nb.jpg,\n', "line 3: '' is no size"),
        ('image;mm_per_pixel\na.jpg;0,1\n', "line 2: '0,1' is no size of a pixel in mm.* Decimals have a point"),
        ('image,mm_per_pixel\na.jpg,0.1,\nb.jpg,1,5\n', 'line 3: more cells than columns. Decimals have a point'),
        ('image,mm_per_pixel\na.jpg,-1\n', "line 2: '-1' is no size"),
        ('image,mm_per_pixel\n,1\n', 'line 2: the image is not named'),
        ('image,mm_per_pixel\na.jpg,1\na.jpg,2\n', r'line 3: a\.jpg has 2 here and 1 above'),
    ],
)
def test_faults_of_a_table(tmp_path: Path, text: str, message: str) -> None:
    (tmp_path / 'scales.csv').write_text(text)
    with pytest.raises(ScaleError, match=message):
        read_scales(str(tmp_path / 'scales.csv'))


def test_equal_file_names(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    above, below = tmp_path / 'x.jpg', tmp_path / 'sub' / 'x.jpg'
    (tmp_path / 'scales.csv').write_text('image,mm_per_pixel\nx.jpg,0.1\nsub/x.jpg,0.5\n')
    scales = read_scales(str(tmp_path / 'scales.csv'))
    scales.require([above, below], '--severity')
    assert (scales.of(above), scales.of(below)) == (0.1, 0.5)
    (tmp_path / 'sub').mkdir()
    monkeypatch.chdir(tmp_path / 'sub')
    assert scales.of(Path('x.jpg')) == 0.5
    (tmp_path / 'scales.csv').write_text('image,mm_per_pixel\nx.jpg,0.1\n')
    scales = read_scales(str(tmp_path / 'scales.csv'))
    scales.require([below], '--severity')
    scales.require([below, Path('x.jpg')], '--severity')
    with pytest.raises(
        ScaleError, match=r'has x\.jpg, and that may be .*/x\.jpg or .*sub/x\.jpg. Name each by its path'
    ):
        scales.require([above, below], '--severity')


def test_two_scales_for_a_photograph(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / 'site').mkdir()
    (tmp_path / 'site' / 'scales.csv').write_text('image,mm_per_pixel\na.jpg,1\nsite/a.jpg,2\n')
    with pytest.raises(ScaleError, match='several scales'):
        read_scales('site/scales.csv').of(Path('site/a.jpg'))


@pytest.mark.parametrize('text', ['0', 'nan', 'inf', '0,2', 'none.csv'])
def test_no_scale(text: str) -> None:
    with pytest.raises(ScaleError):
        read_scales(text)
