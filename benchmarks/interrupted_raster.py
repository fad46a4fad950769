"""Kill a prediction of a large GeoTIFF again and again: ``python benchmarks/interrupted_raster.py --megapixels 100``.

Predicts a drawn orthomosaic (benchmarks/gigapixel.py) with ``tools/predict.py --cracks`` in one go, then once more with
a SIGKILL at each of --kills random moments, the same command again after each. Prints whether masks, table and cracks
are the same, and where the kills fell.
"""

import argparse
import hashlib
import random
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
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
    files = [*sorted(out.glob('masks/*')), out / 'predictions.csv', out / 'cracks.csv']
    return {path.name: hashlib.sha256(path.read_bytes()).hexdigest() for path in files}


def main(argv: Sequence[str] | None = None) -> None:
    """Predict, kill, predict again, compare."""
    args = make_parser().parse_args(argv)
    chance = random.Random(args.seed)
    with tempfile.TemporaryDirectory() as temporary:
        image, whole, killed = (Path(temporary, name) for name in ('image.tif', 'whole', 'killed'))
        draw_raster(image, args.megapixels, nodata=0.0)
        tool = [sys.executable, str(ROOT / 'tools' / 'predict.py'), str(image), '--config', str(args.config)]
        tool += ['--slide', *map(str, args.slide), '--cracks', '--device', 'cpu', '--out']
        start = time.monotonic()
        subprocess.run([*tool, str(whole)], check=True, stdout=subprocess.DEVNULL)
        seconds = time.monotonic() - start
        print(f'{args.megapixels:g} megapixels without a break: {seconds:.0f} s', flush=True)
        for number in range(1, args.kills + 1):
            process = subprocess.Popen([*tool, str(killed)], stdout=subprocess.DEVNULL)
            moment = chance.uniform(0.05, 0.95) * seconds / 2
            try:
                code = process.wait(moment)
            except subprocess.TimeoutExpired:
                process.kill()
                code = process.wait()
            bands = len(list(killed.glob('bands/*/*')))
            done = 'finished before' if code == 0 else f'killed (exit code {code})'
            print(f'{number}: {done} after {moment:.0f} s, {bands} files of complete bands', flush=True)
        subprocess.run([*tool, str(killed)], check=True, stdout=subprocess.DEVNULL)
        before, after = digests(whole), digests(killed)
    for name, digest in before.items():
        print(f'{name}: {"the same" if after.get(name) == digest else "DIFFERENT"}')
    if before != after:
        sys.exit('what a killed run ends in differs')


if __name__ == '__main__':
    main()
