"""Feed damaged label files to ``LoadYOLOPolygons``: each must end in a label map or in our own ``LabelError``.

    python benchmarks/fuzz_labels.py --files 100000

Files are good labels that were cut, doubled, mixed with other numbers, words and bytes, and files of chance alone. Any
exception but ``LabelError`` ends the run and shows the file's content.
"""

import argparse
import tempfile
import time
from pathlib import Path

import numpy as np

from crack_plugin.datasets import LabelError, LoadYOLOPolygons
from crack_plugin.datasets.polygons import format_labels

SHAPES = [(1, 1), (1, 40), (33, 2), (48, 64), (480, 320)]
TOKENS = [
    *('0', '1', '2', '253', '254', '-1', '0.5', '1e-3', '1E-400', '1e400', '-0', '+1', 'nan', '-inf', 'inf', '1_0'),
    *('0x1f', '1.', '.5', '.', '-', '+', 'e', '1,5', '1;2', '1/2', 'crack', 'true', 'None', '[]', '0.99999999'),
    *('1.0000001', '1.05', '640', '99999999999999999999', '0.1.2', '1e5e5', '%', '#'),
    *('\ufeff', '\u0661', '\u00bd', '\u2028', '\x00', '\x0b', '\x85', '\x1c'),
]
SEPARATORS = [' ', '  ', '\t', '\n', '\r\n', '\r', ',', '', ' \n \n', '\x0c']
NAMES = [None, ['crack'], ['crack', 'rust']]


def make_file(rng: np.random.Generator) -> bytes:
    """The content of one label file, seldom a good one."""
    kind = rng.integers(5)
    if kind == 0:
        return rng.bytes(int(rng.integers(200)))
    if kind == 1:
        tokens = rng.choice(TOKENS, int(rng.integers(1, 40)))
        return ''.join(token + str(rng.choice(SEPARATORS)) for token in tokens).encode()
    content = bytearray(_good_file(rng))
    if kind == 2:
        for position in rng.integers(len(content), size=int(rng.integers(1, 4))).tolist():
            content[position] = int(rng.integers(256))
    elif kind == 3:
        start, end = sorted(rng.integers(len(content) + 1, size=2).tolist())
        del content[start:end]
    else:
        words = bytes(content).split(b' ')
        for _ in range(int(rng.integers(1, 4))):
            words[int(rng.integers(len(words)))] = str(rng.choice(TOKENS)).encode()
        content = bytearray(b' '.join(words))
    return bytes(content)


def _good_file(rng: np.random.Generator) -> bytes:
    if rng.random() < 0.5:
        mask = rng.random((8, 8)) < 0.4
        return format_labels(mask, int(rng.integers(2))).encode() or b'0 0 0 1 0 1 1\n'
    points = rng.random((int(rng.integers(1, 12)), 2 * int(rng.integers(2, 10)))).round(int(rng.integers(1, 8)))
    return '\n'.join('0 ' + ' '.join(map(str, line)) for line in points.tolist()).encode()


def main() -> None:
    """Run the command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument('--files', type=int, default=100_000, metavar='N', help='default: %(default)s')
    parser.add_argument('--seed', type=int, default=0, help='default: %(default)s')
    parser.add_argument('--outside', choices=['error', 'clip'], default='error', help='default: %(default)s')
    args = parser.parse_args()
    rng = np.random.default_rng(args.seed)
    load = LoadYOLOPolygons()
    maps = refused = 0
    start = time.perf_counter()
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / 'label.txt'
        for i in range(args.files):
            content = make_file(rng)
            path.write_bytes(content)
            shape = SHAPES[int(rng.integers(len(SHAPES)))]
            sample = {
                'label_path': str(path),
                'ori_shape': shape,
                'yolo_names': NAMES[int(rng.integers(len(NAMES)))],
                'boxes': ('error', 'fill', 'drop')[int(rng.integers(3))],
                'outside': args.outside,
            }
            try:
                label_map = load(sample)['gt_seg_map']
            except LabelError as error:
                refused += 1
                if not str(error).startswith(f'{path}, line '):
                    raise AssertionError(f'file {i}: the message names no line: {error}') from error
            except Exception as error:
                raise AssertionError(f'file {i} ended in {error!r}: {content!r}') from error
            else:
                maps += 1
                if label_map.shape != shape or label_map.dtype != np.uint8:
                    raise AssertionError(f'file {i}: a map of {label_map.shape} for an image of {shape}: {content!r}')
    seconds = time.perf_counter() - start
    print(f'{args.files} label files (seed {args.seed}): {maps} label maps, {refused} LabelErrors, nothing else')
    print(f'{seconds:.0f} s')


if __name__ == '__main__':
    main()
