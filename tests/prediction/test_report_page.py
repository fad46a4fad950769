"""The inspection report of drawn masks: what it says is in cracks.csv, and it fetches nothing."""

import argparse
import csv
import json
import re
from html import unescape
from pathlib import Path

import cv2
import numpy as np
import pytest
from drawn_cracks import line
from pages import Page

from crack_plugin.inspection.scale import Scales
from crack_plugin.inspection.severity import PROFILES, Profile
from crack_plugin.prediction.cracks import Wanted, make_all
from crack_plugin.prediction.options import add_result_arguments, wanted_of
from crack_plugin.prediction.records import Record, record_of, write_record
from crack_plugin.prediction.report_page import Origin
from crack_plugin.prediction.settings import OutputError
from crack_plugin.prediction.tables import TABLE, Row, write_table

SHAPE = (200, 260)
TWO = [([(20.3, 30.7), (175.2, 130.4)], 2.4), ([(40.1, 160.6), (160.9, 240.2)], 7.3)]
MANY = [([(10.0 + 14 * row, 20.0), (10.0 + 14 * row, 30.0 + 12 * row)], 3.0) for row in range(13)]
DIGEST = '0123456789abcdef' * 4


def folder_of(tmp_path: Path, drawn: dict[str, list], shape: tuple[int, int] = SHAPE) -> Path:
    """What the tool leaves of photographs."""
    out, rows = tmp_path / 'out', []
    for name, cracks in drawn.items():
        mask = np.any([np.zeros(shape, bool), *(line(shape, *crack) for crack in cracks)], axis=0)
        for path in (out / f'masks/{name}.png', out / f'overlays/{name}.jpg'):
            path.parent.mkdir(parents=True, exist_ok=True)
            cv2.imwrite(str(path), 255 * mask.astype(np.uint8))
        rows.append(Row(f'site/{name}.jpg', f'masks/{name}.png', *shape[::-1], 'crack', int(mask.sum()), 0.1, 0.8))
        write_record(out / record_of(f'masks/{name}.png'), Record(0.1, [0.9] * len(cracks)))
    settings = {
        'model.type': 'SAM3TextLoRA',
        'model.base': 'facebook/sam3',
        'model.prompts': ['thin <crack>'],
        'sha256': {'best.pth': DIGEST},
    }
    (out / 'predict.json').write_text(json.dumps(settings))
    write_table(out / TABLE, rows)
    return out


def report(out: Path, scale: float | None = None, severity: Profile | None = None, left_out: tuple = ()) -> str:
    wanted = Wanted(report=Origin('my_bridge.py', 'best.pth'), scales=Scales(for_all=scale), severity=severity)
    make_all(out, ['crack'], wanted, threshold=0.37, left_out=left_out)
    return (out / 'report.html').read_text(encoding='utf-8')


def cards_of(html: str) -> dict[str, str]:
    """The HTML of each card by its heading."""
    cards = re.findall(r'<section class="card.*?</section>', html, re.DOTALL)
    return {unescape(re.search('<h3>(.*?)</h3>', card)[1]): card for card in cards}


def rows_of(out: Path) -> list[dict[str, str]]:
    with (out / 'cracks.csv').open(newline='', encoding='utf-8') as file:
        return list(csv.DictReader(file))


@pytest.mark.parametrize('scale', [None, 0.5])
def test_the_widest_place_is_that_of_the_table(tmp_path: Path, scale: float | None) -> None:
    out = folder_of(tmp_path, {'a': TWO, '<b>': [], 'c': MANY})
    cards = cards_of(report(out, scale))
    assert list(cards) == ['1. site/a.jpg', '2. site/<b>.jpg', '3. site/c.jpg']
    for name, card in list(cards.items())[::2]:
        rows = [row for row in rows_of(out) if row['mask'][6] == name[-5]]
        widest = max(rows, key=lambda row: float(row['max_width']))
        ring = re.search(r'class="widest" cx="([\d.]+)" cy="([\d.]+)"', card)
        assert [float(each) for each in ring.groups()] == [float(widest['x']), float(widest['y'])]
        digits = 1 if scale is None else 2
        width = f'{float(widest["max_width"]):.{digits}f} ± {float(widest["width_uncertainty"]):.{digits}f}'
        text = f'{width} {widest["unit"]}'
        assert f'>{widest["id"]}: {text}</text>' in card
        assert f'Widest place: crack {widest["id"]}, {text}, at x {float(widest["x"]):.1f}, y' in card
        total = sum(float(row['length']) for row in rows)
        assert f'{len(rows)} cracks, {total:,.1f} {widest["unit"]} in total' in card
        longest = sorted(rows, key=lambda row: -float(row['length']))
        ids = re.findall(r'<tr><td>(\d+)</td>', card)
        assert ids == [row['id'] for row in longest[:10]]
        assert ('3 more' in card) == (len(rows) == 13)
    assert 'No crack was found' in cards['2. site/<b>.jpg']
    assert 'class="widest"' not in cards['2. site/<b>.jpg']


def test_nothing_is_fetched_and_all_text_is_text(tmp_path: Path) -> None:
    html = report(folder_of(tmp_path, {'a': TWO, '<b>': []}), left_out=('x<i>.jpg: damaged',))
    page = Page(html)
    assert page.links == []
    assert len(page.pictures) == 2
    assert cv2.imdecode(np.frombuffer(page.pictures[0], np.uint8), 1).shape == (*SHAPE, 3)
    assert not re.search(r'(https?:)?//(?!www\.w3\.org)[a-z]', re.sub('base64,[^"]*', '', html))
    assert "default-src 'none'" in html
    assert not {'b', 'i', 'crack', 'script', 'link'}.intersection(page.tags)
    for text in (
        DIGEST,
        'my_bridge.py',
        "'thin <crack>'",
        '0.37',
        'facebook/sam3',
        'x<i>.jpg: damaged',
        'SAM3TextLoRA',
    ):
        assert text in page.texts


def test_summary_by_severity_counts_what_the_table_has(tmp_path: Path) -> None:
    out = folder_of(tmp_path, {'a': TWO, 'c': MANY})
    html = report(out, 0.5, PROFILES['bre251'])
    summary = html[html.index('>Summary<') : html.index('>Widest cracks<')]
    found = dict(re.findall(r'<tr><td>([^<]*)</td><td>[^<]*</td><td>(\d+)</td>', summary))
    counts = {name: sum(row['severity'] == name for row in rows_of(out)) for name in found}
    assert {name: int(count) for name, count in found.items()} == counts
    assert sum(counts.values()) == 15
    assert counts.keys() >= {level.name for level in PROFILES['bre251'].levels}
    assert 'BRE Digest 251' in html
    assert 'over 1, up to 5 mm' in summary


def test_without_severity_the_summary_has_totals(tmp_path: Path) -> None:
    out = folder_of(tmp_path, {'a': TWO})
    html = report(out)
    total = sum(float(row['length']) for row in rows_of(out))
    assert f'<td>crack</td><td>2</td><td>{total:,.1f} px</td>' in html
    assert 'Severity' in html
    assert 'not asked for' in html


def test_a_run_without_cracks_says_so(tmp_path: Path) -> None:
    html = report(folder_of(tmp_path, {'a': [], 'b': []}), 0.5, PROFILES['ec2'])
    assert 'No crack was found in 2 photographs.' in html
    assert len(cards_of(html)) == 2


def test_thin_cracks_stay_visible_in_a_large_photograph(tmp_path: Path) -> None:
    out = folder_of(tmp_path, {'a': [([(30.0, 50.0), (350.0, 3550.0)], 1.5)]}, (400, 3600))
    picture = cv2.imdecode(np.frombuffer(Page(report(out)).pictures[0], np.uint8), cv2.IMREAD_COLOR)
    assert picture.shape == (100, 900, 3)
    # Orange, and in every column that the crack is in.
    painted = (picture[..., 2].astype(int) - picture[..., 0]) > 60
    assert painted[:, 20:880].any(axis=0).all()


def test_a_damaged_overlay_is_named_and_the_former_page_stays(tmp_path: Path) -> None:
    out = folder_of(tmp_path, {'a': TWO, 'c': MANY})
    former = report(out)
    (out / 'overlays/c.jpg').write_bytes(b'no picture')
    with pytest.raises(OutputError, match=r'overlays/c\.jpg cannot be read'):
        report(out)
    assert (out / 'report.html').read_text(encoding='utf-8') == former
    assert not list(out.glob('.*'))


def test_the_label_of_a_narrow_picture_is_inside_of_it(tmp_path: Path) -> None:
    card = report(folder_of(tmp_path, {'a': [([(50.0, 100.0), (350.0, 100.0)], 5.0)]}, (400, 200)))
    x, y, size = map(float, re.search(r'<text class="widest" x="(.*?)" y="(.*?)" font-size="(.*?)"', card).groups())
    ring = float(re.search(r'class="widest" cx="[^"]*" cy="([^"]*)"', card)[1])
    # The label is wider than the room on either side of the ring: it stands above or below.
    assert x >= 0
    assert x + 0.5 * size * len('1: 5.0 ± 1.0 px') <= 200
    assert abs(y - size / 4 - ring) > size


def test_labels_of_cracks_do_not_cover_each_other(tmp_path: Path) -> None:
    close = [([(100.0 + 8 * row, 120.0), (100.0 + 8 * row, 140.0)], 3.0) for row in range(4)]
    card = report(folder_of(tmp_path, {'a': close}))
    found = re.findall(r'<text class="\w+" x="([\d.]+)" y="([\d.]+)" font-size="([\d.]+)"[^>]*>([^<]*)<', card)
    labels = [(float(x), float(y), float(size), text) for x, y, size, text in found]
    assert [text[0] for *_, text in labels] == ['1', '2', '3', '4']
    for i, (x, y, size, text) in enumerate(labels):
        assert 0 <= x < SHAPE[1]
        assert size <= y <= SHAPE[0]
        for other_x, other_y, _, other in labels[:i]:
            beside = x >= other_x + 0.6 * size * len(other) or other_x >= x + 0.6 * size * len(text)
            assert beside or abs(y - other_y) >= size


def test_georeferenced_photographs_are_on_a_map(tmp_path: Path) -> None:
    rasterio = pytest.importorskip('rasterio')
    out = folder_of(tmp_path, {'a': TWO})
    image = tmp_path / 'a.tif'
    transform = rasterio.Affine(0.002, 0, 500000, 0, -0.002, 5400000)
    kind = {'driver': 'GTiff', 'width': SHAPE[1], 'height': SHAPE[0], 'count': 1, 'dtype': 'uint8'}
    with rasterio.open(image, 'w', crs='EPSG:32632', transform=transform, **kind) as file:
        file.write(np.zeros((1, *SHAPE), np.uint8))
    write_table(out / TABLE, [Row(str(image), 'masks/a.png', *SHAPE[::-1], 'crack', 1, 0.1, 0.8)])
    html = report(out)
    widest = max(rows_of(out), key=lambda row: float(row['max_width']))
    assert f'EPSG:32632: {widest["x"]}, {widest["y"]}.' in html
    assert 'EPSG:32632: x 500000 to 500000.52, y 5399999.6 to 5400000,' in html
    assert '>10 cm</text>' in html
    assert html.count('<path class="crack"') == 2
    assert Page(html).links == ['#photograph-1']


def test_the_option_names_config_and_weights() -> None:
    parser = argparse.ArgumentParser()
    add_result_arguments(parser)
    parser.set_defaults(config='a.py', checkpoint=None, adapter='owner/cracks')
    wanted = wanted_of(parser.parse_args(['--report', '--mm-per-pixel', '0.2']))
    assert wanted.report == Origin('a.py', 'owner/cracks')
    assert wanted.records
    assert wanted_of(parser.parse_args([])).report is None
