"""A server of the page for the tests in a browser, and someone who uses it."""

import os
import re
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np

ROOT = Path(__file__).parents[2]
SECONDS = 90
"""For what takes one on an idle machine."""


class Server:
    """``tools/app.py`` in a process of its own, with the embedded tiny SAM 3."""

    def __init__(self, out: Path, *options: str) -> None:
        self.out = out
        command = [sys.executable, str(ROOT / 'tools' / 'app.py'), '--port', '0', '--out', str(out), '--device', 'cpu']
        environment = {**os.environ, 'HF_HUB_OFFLINE': '1', 'TMPDIR': str(out / 'tmp')}
        (out / 'tmp').mkdir(parents=True)
        self.process = subprocess.Popen(
            [*command, '--keep-free-mb', '1', *options],
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            env=environment,
        )
        lines = []
        assert self.process.stdout is not None
        for line in self.process.stdout:
            lines.append(line)
            if found := re.search(r'Open (http://\S+)', line):
                self.address = found[1]
                return
        raise AssertionError(''.join(lines))

    def close(self) -> None:
        self.process.terminate()
        self.process.communicate(timeout=SECONDS)


class User:
    """Someone with the page open; all that the browser asks for is noted."""

    def __init__(self, browser: Any, address: str, **options: Any) -> None:
        self.address = address
        self.context = browser.new_context(viewport={'width': 1280, 'height': 900}, **options)
        self.context.set_default_timeout(1000 * SECONDS)
        self.asked: list[str] = []
        self.faults: list[str] = []
        self.devtools: Any = None
        self.context.on('request', lambda request: self.asked.append(request.url))
        self.page = self.context.new_page()
        self.page.on('pageerror', lambda error: self.faults.append(str(error)))
        self.page.goto(address)
        self.page.wait_for_selector('body[data-ready]')

    def upload(self, *files: Path) -> None:
        """Upload, and wait until all are listed."""
        there = self.page.locator('#photographs li').count()
        self.page.set_input_files('#files', [str(file) for file in files])
        self.page.wait_for_selector(f'#photographs li:nth-child({there + len(files)})')

    def tool(self, name: str) -> None:
        """Choose what the mouse does, by the word on its button."""
        self.page.click(f'#tools span:text-is("{name}")')

    def find(self) -> None:
        """Find cracks, and wait until the table has them."""
        self.page.click('#find')
        self.page.wait_for_selector('#photographs small:has-text("looked at")')
        self.page.wait_for_selector('#find:not([disabled])')
        self.wait_for_table()

    def wait_for_table(self) -> None:
        """Wait until the table is of the threshold that is set."""
        self.until(
            "(document.getElementById('cracks').dataset.query ?? '').startsWith("
            "'threshold=' + Number(document.getElementById('threshold').value) + '&')"
        )

    def until(self, expression: str) -> None:
        """Wait until an expression is true. Playwright's own way evaluates texts in the page, which it forbids."""
        end = time.monotonic() + SECONDS
        while not self.page.evaluate(expression):
            assert time.monotonic() < end, expression
            time.sleep(0.05)

    def threshold(self, value: float) -> None:
        """Move the slider, and wait until the picture is painted exactly and the table is there."""
        self.page.fill('#threshold', f'{value}')
        self.page.wait_for_selector(f'#canvas[data-threshold="{value}"][data-exact="true"]')
        self.wait_for_table()

    def painted(self) -> int:
        """How many pixels of the canvas have the colour of cracks more than any other."""
        return self.page.evaluate(
            """() => {
                const canvas = document.getElementById('canvas');
                const { data } = canvas.getContext('2d').getImageData(0, 0, canvas.width, canvas.height);
                let count = 0;
                for (let i = 0; i < data.length; i += 4) count += data[i] > data[i + 2] + 60;
                return count;
            }"""
        )

    def place(self, x: float, y: float) -> tuple[float, float]:
        """Where a pixel of a photograph is on the screen, when it fits the canvas."""
        return tuple(
            self.page.evaluate(
                """([x, y]) => {
                    const canvas = document.getElementById('canvas');
                    const box = canvas.getBoundingClientRect();
                    const [width, height] = document.querySelector('[aria-pressed=true] small').textContent
                        .match(/\\d+/g).map(Number);
                    const scale = Math.min(box.width / width, box.height / height);
                    return [box.left + (box.width - width * scale) / 2 + x * scale,
                            box.top + (box.height - height * scale) / 2 + y * scale];
                }""",
                [x, y],
            )
        )

    def of_first(self, path: str) -> np.ndarray:
        """What the server has of the photograph that was uploaded first, in bytes."""
        session = self.page.evaluate("sessionStorage.getItem('session')")
        address = f'{self.address}/sessions/{session}/photographs/1/{path}'
        return np.frombuffer(self.context.request.get(address).body(), np.uint8)

    def drag(self, start: tuple[int, int], end: tuple[int, int]) -> None:
        """Draw a line with the mouse, between pixels of a photograph."""
        mouse = self.page.mouse
        mouse.move(*self.place(*start))
        mouse.down()
        mouse.move(*self.place(*end), steps=8)
        mouse.up()

    def touch(self, kind: str, *places: tuple[float, float]) -> None:
        """Put fingers on places of the screen, move or lift them."""
        points = [{'x': x, 'y': y, 'id': number} for number, (x, y) in enumerate(places)]
        # Fingers are of a session.
        self.devtools = self.devtools or self.context.new_cdp_session(self.page)
        self.devtools.send('Input.dispatchTouchEvent', {'type': kind, 'touchPoints': points})

    def close(self) -> None:
        self.context.close()
