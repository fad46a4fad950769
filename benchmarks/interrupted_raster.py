"""Kill a prediction of a large GeoTIFF again and again: ``python benchmarks/interrupted_raster.py --megapixels 100``.

Predicts a drawn orthomosaic (benchmarks/gigapixel.py) with ``tools/predict.py --cracks --vector geojson`` in one go,
then once more with --kills times SIGKILL, the same command again after each. The kills divide the work of the first run
(in CPU time, on one thread) at random moments, so that they fall on predicting, on joining what was predicted and on
measuring the cracks. Prints where they fell, and whether masks, tables and vectors are the same byte for byte.
"""

import argparse
import hashlib
import os
import random
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path

from gigapixel import ROOT, draw_raster


def make_parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument('--megapixels', type=float, default=100, metavar='MP')
    parser.add_argument('--kills', type=int, default=5)
    parser.add_argument('--config', type=Path, default=ROOT / 'configs' / 'sam3_tiny_lora_crack.py')
    parser.add_argument('--slide', type=int, nargs=2, default=[1344, 896], metavar=('CROP', 'STRIDE'))
    parser.add_argument('--seed', type=int, default=0, help='of the moments (default: %(default)s)')
    return parser


def digests(out: Path) -> dict[str, str]:
    """Hash of each result, pixels and rows alike."""
    files = [*sorted(out.glob('masks/*')), *sorted(out.glob('*.csv')), *sorted(out.glob('*.geojson'))]
    return {path.name: hashlib.sha256(path.read_bytes()).hexdigest() for path in files}


def stage(out: Path) -> str:
    """What a killed run was about."""
    bands = len(list(out.glob('bands/*/*.npz')))
    if bands:
        return f'{bands} bands complete{", mask written" if list(out.glob("masks/*")) else ""}'
    return 'measuring' if list(out.glob('masks/*')) else 'no band complete'


def run_until(command: Sequence[str], is_over: Callable[[float], bool]) -> int:
    """Run a command, and kill it when ``is_over`` of its CPU time in seconds; its exit code."""
    environment = {**os.environ, 'OMP_NUM_THREADS': '1'}
    with subprocess.Popen(command, stdout=subprocess.DEVNULL, env=environment) as process:
        while process.poll() is None:
            fields = Path('/proc', str(process.pid), 'stat').read_text().rpartition(')')[2].split()
            if is_over((int(fields[11]) + int(fields[12])) / os.sysconf('SC_CLK_TCK')):
                process.kill()
            time.sleep(0.02)
    return process.returncode


def main(argv: Sequence[str] | None = None) -> None:
    """Predict, kill, predict again, compare."""
    args = make_parser().parse_args(argv)
    chance = random.Random(args.seed)
    with tempfile.TemporaryDirectory() as temporary:
        image, whole, killed = (Path(temporary, name) for name in ('image.tif', 'whole', 'killed'))
        draw_raster(image, args.megapixels, nodata=0.0)
        tool = [sys.executable, str(ROOT / 'tools' / 'predict.py'), str(image), '--config', str(args.config)]
        tool += ['--slide', *map(str, args.slide), '--cfg-options', 'model.test_cfg.scales=[1]']
        tool += ['--cracks', '--vector', 'geojson', '--device', 'cpu', '--out']
        # CPU time up to the first band, and up to the end
        begun = seconds = 0.0

        def watch(spent: float) -> bool:
            nonlocal begun, seconds
            begun, seconds = begun if (whole / 'predict.json').exists() else spent, spent
            return False

        if run_until([*tool, str(whole)], watch):
            sys.exit('the run without a break failed')
        print(f'{args.megapixels:g} megapixels without a break: {seconds:.0f} s of CPU time', flush=True)
        former = 0.0
        for number, moment in enumerate(sorted(chance.uniform(0, seconds - begun) for _ in range(args.kills)), start=1):
            until = begun + moment - former
            code = run_until([*tool, str(killed)], until.__le__)
            done = 'finished before' if code == 0 else f'killed (exit code {code})'
            print(f'{number}: {done} after {until:.0f} s: {stage(killed)}', flush=True)
            former = moment
        if run_until([*tool, str(killed)], lambda _: False):
            sys.exit('the last run failed')
        before, after = digests(whole), digests(killed)
    for name, digest in before.items():
        print(f'{name}: {"the same" if after.get(name) == digest else "DIFFERENT"}')
    if before != after:
        sys.exit('what a killed run ends in differs')


if __name__ == '__main__':
    main()
