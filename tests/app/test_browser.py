"""The page as a user has it, in Chromium; `make test-browser` runs it."""

import csv
import io
import os
import re
import shutil
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
from browser_user import ROOT, SECONDS, Server, User

from crack_plugin.app.maps import cut
from crack_plugin.datasets.synthetic import draw

pytestmark = pytest.mark.browser
# What an inspector would call at once.
MOST_MILLISECONDS = 200


@pytest.fixture(scope='session')
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    """A page for this machine."""
    server = Server(tmp_path_factory.mktemp('app') / 'out', '--examples', '2', '--max-sessions', '50')
    yield server
    server.close()
    # Whatever the users uploaded is gone.
    assert not list((server.out / 'tmp').glob('crack_plugin-app-*'))


@pytest.fixture(scope='session')
def browser() -> Iterator[Any]:
    """Chromium as the distribution has it."""
    sync_api = pytest.importorskip('playwright.sync_api', reason='Playwright is not installed: make test-browser')
    path = os.environ.get('CHROMIUM') or shutil.which('chromium')
    if path is None:
        pytest.skip('there is no Chromium: apt-get install chromium, or CHROMIUM=/path/to/it')
    with sync_api.sync_playwright() as playwright:
        # Tests may run as root, in a container.
        browser = playwright.chromium.launch(executable_path=path, args=['--no-sandbox'])
        yield browser
        browser.close()


@pytest.fixture
def user(browser: Any, server: Server) -> Iterator[User]:
    """Of the server, in a browser; nothing may be asked for but from the server, and the page may not fail."""
    user = User(browser, server.address)
    yield user
    own = f'{server.address}/', f'blob:{server.address}/', 'about:'
    asked = [url for url in user.asked if not url.startswith(own)]
    faults = user.faults
    user.close()
    assert not asked
    assert not faults


@pytest.fixture(scope='session')
def photographs(tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    """Two cracked surfaces, 320 x 448 pixels."""
    folder = tmp_path_factory.mktemp('photographs')
    files = []
    for number, name in enumerate(('pier 1.png', 'pier 2.png')):
        image = draw(np.random.default_rng(number), (320, 448), 'concrete').image
        cv2.imwrite(str(folder / name), image)
        files.append(folder / name)
    return files


@pytest.fixture(scope='session')
def axe() -> str:
    """The source of axe-core, which finds what keeps people from using a page."""
    path = Path(os.environ.get('AXE', ROOT / '.venv' / 'axe' / 'node_modules' / 'axe-core' / 'axe.min.js'))
    if not path.is_file():
        pytest.skip('axe-core is not there: make test-browser fetches it with npm')
    return path.read_text(encoding='utf-8')


def test_upload_prompt_and_threshold(user: User, photographs: list[Path]) -> None:
    page = user.page
    assert 'are deleted when you close the page' in page.inner_text('#limits')
    user.upload(*photographs)
    assert page.locator('#photographs button[aria-pressed]').all_inner_texts() == [
        'pier 1.png\n448 x 320',
        'pier 2.png\n448 x 320',
    ]
    page.fill('#prompt', 'crack in concrete')
    user.find()
    counts, painted = [], []
    for threshold in (0.2, 0.5, 0.9):
        user.threshold(threshold)
        counts.append(page.locator('#cracks tr').count())
        painted.append(user.painted())
    assert painted[0] > painted[1] > painted[2] > 0
    assert len(set(counts)) > 1
    page.fill('#prompt', 'crack ' * 40)
    page.click('#find')
    page.wait_for_selector('#message:has-text("SAM 3 reads 32")')
    assert page.locator('#photographs li').count() == 2


def test_photographs_are_dropped_anywhere(user: User, photographs: list[Path]) -> None:
    content = list(photographs[0].read_bytes())
    user.page.evaluate(
        """(content) => {
            const transfer = new DataTransfer();
            transfer.items.add(new File([new Uint8Array(content)], 'dropped.png'));
            document.body.dispatchEvent(new DragEvent('drop', { dataTransfer: transfer, bubbles: true }));
        }""",
        content,
    )
    user.page.wait_for_selector('#photographs:has-text("dropped.png")')


def test_broken_file_is_told_and_the_others_stay(user: User, photographs: list[Path], tmp_path: Path) -> None:
    broken = tmp_path / 'broken.jpg'
    broken.write_bytes(b'no picture')
    user.upload(photographs[0])
    user.page.set_input_files('#files', [str(broken)])
    user.page.wait_for_selector('#message:has-text("image broken.jpg cannot be decoded")')
    assert user.page.locator('#photographs li').count() == 1
    user.page.locator('#train').scroll_into_view_if_needed()
    box = user.page.locator('#message').bounding_box()
    assert 0 <= box['y'] < 100
    user.page.click('#message-close')
    assert user.page.locator('#message').is_hidden()


def test_browser_and_server_decide_alike(user: User, photographs: list[Path]) -> None:
    """Thresholds, and strokes of the brush."""
    user.upload(photographs[0])
    user.find()
    same = user.page.evaluate(
        """async () => {
            const { cut } = await import('/static/maps.js');
            return Array.from({ length: 99 }, (_, i) => cut((i + 1) / 100));
        }"""
    )
    assert same == [cut(number / 100) for number in range(1, 100)]
    for threshold in (0.3, 0.5):
        user.threshold(threshold)
        probability = user.of_first('maps/now').reshape(320, 448)
        labels = cv2.imdecode(user.of_first(f'files/mask.png?threshold={threshold}'), cv2.IMREAD_UNCHANGED)
        np.testing.assert_array_equal(probability > cut(threshold), labels == 255)


def test_windows_have_progress_and_are_cancelled(user: User, tmp_path: Path) -> None:
    large = tmp_path / 'large.png'
    cv2.imwrite(str(large), np.random.default_rng(0).integers(0, 256, (1500, 2000, 3), np.uint8))
    page = user.page
    user.upload(large)
    page.check('input[value=windows]')
    page.fill('#window', '100')
    page.fill('#step', '25')
    page.click('#find')
    page.wait_for_selector('#job-text:has-text("large.png, window")')
    user.until("document.getElementById('progress').value > 0")
    windows = page.inner_text('#job-text')
    # 57 rows and 77 columns of windows
    assert windows.endswith('of 4389')
    page.click('#cancel')
    page.wait_for_selector('#find:not([disabled])')
    assert page.locator('#job').is_hidden()
    assert 'looked at' not in page.inner_text('#photographs')
    page.fill('#step', '200')
    page.click('#find')
    page.wait_for_selector('#message:has-text("pixels would be left out")')
    page.fill('#window', '1000')
    page.fill('#step', '500')
    user.find()


def test_scale_by_two_clicks_by_keyboard_and_typed(user: User, photographs: list[Path]) -> None:
    page = user.page
    user.upload(photographs[0])
    user.find()
    user.tool('Measure')
    assert 'one end of something' in page.inner_text('#hint')
    for x in (48, 368):
        page.mouse.click(*user.place(x, 200))
    page.fill('#length', '160')
    page.click('#scale-measured button')
    page.wait_for_selector('#scale-text:has-text("mm a pixel")')
    told = page.inner_text('#scale-text')
    found = re.search(r'([\d.]+) mm a pixel', told)
    # 320 pixels; a click hits a pixel of the screen.
    assert found and float(found[1]) == pytest.approx(0.5, rel=0.02)
    page.wait_for_selector('#cracks-text:has-text("mm long")')
    page.select_option('#severity', 'bre251')
    page.wait_for_selector('#severity-source:has-text("BRE Digest 251")')
    page.wait_for_selector('#cracks small')

    canvas = page.locator('#canvas')
    canvas.focus()
    page.keyboard.press('0')
    page.keyboard.press('Enter')
    for _ in range(3):
        page.keyboard.press('ArrowRight')
    page.keyboard.press('Enter')
    # 120 pixels of the screen
    assert page.evaluate('document.activeElement.id') == 'length'
    page.keyboard.type('50')
    page.keyboard.press('Enter')
    page.wait_for_selector(f'#scale-text:has-text("mm a pixel"):not(:has-text("{told}"))')

    page.fill('#mm', '0.25')
    page.click('#scale-typed button')
    page.wait_for_selector('#scale-text:has-text("0.25 mm a pixel")')


def test_row_shows_its_crack_in_any_view(user: User, photographs: list[Path]) -> None:
    user.upload(photographs[0])
    user.find()
    before = user.page.locator('#canvas').screenshot()
    user.page.locator('#cracks tr button').first.press('ArrowDown')
    user.page.keyboard.press('Enter')
    user.page.wait_for_selector('#cracks tr:nth-child(2).shown')
    user.page.wait_for_timeout(500)
    assert user.page.locator('#canvas').screenshot() != before
    user.page.select_option('#view', 'width')
    user.page.wait_for_selector('#legend-high:has-text("px")')
    assert user.page.locator('#cracks tr.shown').count() == 1


def test_row_brings_the_picture_to_a_narrow_screen(user: User, photographs: list[Path]) -> None:
    user.page.set_viewport_size({'width': 390, 'height': 844})
    user.upload(photographs[0])
    user.find()
    user.page.locator('#cracks tr button').last.click()
    user.page.wait_for_selector('#cracks tr.shown')
    assert user.page.locator('#stage').bounding_box()['y'] >= 0


def test_photographs_are_chosen_with_the_keyboard(user: User, photographs: list[Path]) -> None:
    user.upload(*photographs)
    user.page.locator('#photographs button[aria-pressed]').first.focus()
    user.page.keyboard.press('Enter')
    user.page.wait_for_selector('#photographs li:first-child [aria-pressed=true]')
    assert user.page.evaluate('document.activeElement.textContent').startswith('pier 1.png')


def test_two_fingers_zoom_and_do_not_paint(browser: Any, server: Server, photographs: list[Path]) -> None:
    user = User(browser, server.address, has_touch=True)
    user.upload(photographs[0])
    user.find()
    user.tool('Mark')
    first, second, apart = (user.place(x, 160) for x in (150, 250, 400))
    user.touch('touchStart', first)
    user.touch('touchStart', first, second)
    user.touch('touchMove', first, apart)
    user.touch('touchEnd')
    assert user.page.is_disabled('#undo')
    # One finger does paint.
    user.touch('touchStart', first)
    user.touch('touchMove', second)
    user.touch('touchEnd')
    user.page.wait_for_selector('#photographs:has-text("corrected")')
    user.close()


def test_widths_and_uncertainty_have_a_legend(user: User, photographs: list[Path]) -> None:
    page = user.page
    user.upload(photographs[0])
    user.find()
    page.select_option('#view', 'width')
    page.wait_for_selector('#legend-high:has-text("px")')
    page.select_option('#view', 'uncertainty')
    page.wait_for_selector('#legend-high:has-text("probability 0.5")')
    page.select_option('#view', 'overlay')
    page.wait_for_selector('#legend', state='hidden')


def test_correct_save_train_and_choose_the_adapter(user: User, photographs: list[Path], server: Server) -> None:
    page = user.page
    user.upload(photographs[1])
    user.find()
    user.tool('Mark')
    page.fill('#radius', '6')
    user.drag((40, 300), (400, 300))
    page.wait_for_selector('#photographs:has-text("corrected")')
    user.drag((40, 20), (400, 20))
    page.click('#undo')
    user.tool('Erase')
    user.drag((200, 280), (200, 318))
    # What the browser shows is what the server has, soon after.
    end = time.monotonic() + SECONDS
    while not ((corrections := user.of_first('corrections').reshape(320, 448)) == 2).any():
        assert time.monotonic() < end
    assert (corrections[300, 60:180] == 1).all() and (corrections[300, 220:380] == 1).all()
    assert (corrections[285:315, 200] == 2).all()
    assert not corrections[:260].any()

    page.fill('#dataset', 'piers')
    page.click('#save button')
    page.wait_for_selector('#saved:has-text("1 photograph saved")')
    mask = cv2.imread(str(server.out / 'datasets' / 'piers' / 'masks' / 'pier 2.png'), cv2.IMREAD_UNCHANGED)
    assert (mask[corrections == 1] == 255).all() and not mask[corrections == 2].any()

    page.fill('#epochs', '2')
    page.click('#train button')
    page.wait_for_selector('#training-text:has-text("Training: piers-")')
    page.wait_for_selector('#training-text:has-text("Done: piers-")', timeout=4000 * SECONDS)
    assert page.locator('#curve polyline').count() == 2
    assert page.locator('#curve circle').count() == 4
    page.click('#use-trained')
    assert page.input_value('#weights').startswith('trained/piers-')
    page.select_option('#before', 'zero-shot')
    page.click('#find')
    page.wait_for_selector('#split-value:has-text("Left: zero-shot (no adapter). Right: trained here: piers-")')
    page.fill('#split', '1')
    page.wait_for_timeout(500)
    old = user.painted()
    page.fill('#split', '0')
    page.wait_for_timeout(500)
    assert user.painted() != old


def test_downloads(user: User, photographs: list[Path]) -> None:
    page = user.page
    user.upload(*photographs)
    user.find()
    page.fill('#mm', '0.2')
    page.check('#for-all')
    page.click('#scale-typed button')
    page.wait_for_selector('#scale-text:has-text("0.2 mm a pixel")')
    files = {}
    for button in page.locator('#downloads button').all():
        with page.expect_download() as waiting:
            button.click()
        files[waiting.value.suggested_filename] = Path(waiting.value.path()).read_bytes()
    assert sorted(files) == [
        'centerlines.geojson',
        'cracks.csv',
        'cracks.zip',
        'pier 2_mask.png',
        'pier 2_overlay.jpg',
        'polygons.geojson',
        'report.html',
    ]
    rows = list(csv.DictReader(io.StringIO(files['cracks.csv'].decode())))
    assert {(row['image'], row['unit']) for row in rows} == {('pier 1.png', 'mm'), ('pier 2.png', 'mm')}
    assert cv2.imdecode(np.frombuffer(files['pier 2_mask.png'], np.uint8), -1).shape == (320, 448)


def test_two_users_see_their_own_pictures(user: User, server: Server, browser: Any, photographs: list[Path]) -> None:
    other = User(browser, server.address)
    user.upload(photographs[0])
    other.upload(photographs[1])
    user.page.click('#find')
    other.page.click('#find')
    for each, name in ((user, 'pier 1.png'), (other, 'pier 2.png')):
        each.page.wait_for_selector('#photographs small:has-text("looked at")')
        assert each.page.locator('#photographs li').count() == 1
        assert name in each.page.inner_text('#photographs')
    other.close()


def test_page_that_is_loaded_again_goes_on(user: User, photographs: list[Path]) -> None:
    user.upload(photographs[0])
    user.page.reload()
    user.page.wait_for_selector('body[data-ready]')
    assert 'pier 1.png' in user.page.inner_text('#photographs')


def test_twelve_megapixels_are_painted_at_once(user: User, tmp_path: Path) -> None:
    """From the input event to the frame, while nothing but the threshold changes."""
    file = tmp_path / 'large.jpg'
    tile = cv2.resize(np.random.default_rng(0).integers(60, 200, (75, 100, 3), np.uint8), (4000, 3000))
    cv2.line(tile, (100, 200), (3900, 2800), (20, 20, 20), 12)
    cv2.imwrite(str(file), tile)
    user.upload(file)
    user.page.check('input[value=whole]')
    user.find()
    times = user.page.evaluate(
        """async () => {
            const [slider, canvas] = ['threshold', 'canvas'].map((id) => document.getElementById(id));
            const times = [];
            for (let i = 0; i < 15; i += 1) {
                slider.value = 0.2 + 0.03 * i;
                const start = performance.now();
                slider.dispatchEvent(new Event('input'));
                await new Promise((done) => requestAnimationFrame(() => {
                    const channel = new MessageChannel();
                    channel.port1.onmessage = done;
                    channel.port2.postMessage(0);
                }));
                if (Number(canvas.dataset.threshold) !== Number(slider.value)) throw new Error('not painted');
                times.push(performance.now() - start);
            }
            return times;
        }"""
    )
    print(f'input to frame, 12 megapixels: median {np.median(times):.0f} ms, longest {max(times):.0f} ms')
    assert np.median(times) < MOST_MILLISECONDS


@pytest.mark.parametrize('width', [1280, 390])
def test_nothing_is_wider_than_the_screen(user: User, photographs: list[Path], width: int) -> None:
    user.page.set_viewport_size({'width': width, 'height': 844})
    user.upload(photographs[0])
    user.find()
    assert user.page.evaluate('document.documentElement.scrollWidth') <= width
    assert user.page.locator('#canvas').bounding_box()['width'] > 0.45 * width


def test_axe_finds_nothing_serious(user: User, photographs: list[Path], axe: str) -> None:
    user.upload(photographs[0])
    user.find()
    user.page.select_option('#view', 'width')
    user.page.check('input[value=windows]')
    for width in (1280, 390):
        user.page.set_viewport_size({'width': width, 'height': 844})
        found = user.page.evaluate(f'{axe}; axe.run()')
        print(f'axe at {width} px: {len(found["passes"])} rules pass')
        serious = [
            (each['id'], each['impact'], [node['target'] for node in each['nodes']])
            for each in found['violations']
            if each['impact'] in ('serious', 'critical')
        ]
        assert not serious


def test_token_is_asked_for_and_leaving_deletes(browser: Any, tmp_path: Path, photographs: list[Path]) -> None:
    token = 'a token of many letters'
    server = Server(tmp_path / 'out', '--host', '0.0.0.0', '--token', token, '--leave-seconds', '2')
    context = browser.new_context()
    page = context.new_page()
    page.goto(server.address.replace('0.0.0.0', '127.0.0.1'))
    page.fill('#token', 'a guess of many letters')
    page.click('button')
    page.wait_for_selector('text=This is not the token')
    page.fill('#token', token)
    page.click('button')
    page.wait_for_selector('body[data-ready]')
    page.set_input_files('#files', [str(photographs[0])])
    page.wait_for_selector('#photographs:has-text("pier 1.png")')
    uploads = server.out / 'tmp'
    assert list(uploads.rglob('pier 1.png'))
    page.goto('about:blank')
    end = time.monotonic() + SECONDS
    while list(uploads.rglob('pier 1.png')):
        assert time.monotonic() < end
        time.sleep(0.2)
    context.close()
    server.close()
