"""Write Meta's own SAM 3 file as a Hugging Face folder: ``python tools/convert_checkpoint.py sam3.pt FOLDER``.

The folder is for ``base`` in a config and for ``Sam3Model.from_pretrained``. Also taken: the detector in SAM 3.1's
sam3.1_multiplex.pt, and what Meta's trainer wrote. docs/bases.md tells what was checked.
"""

import argparse
from collections.abc import Sequence
from pathlib import Path

from crack_plugin.cli import readable_errors


def make_parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument('file', type=Path, help="checkpoint of Meta's implementation, such as sam3.pt")
    parser.add_argument('folder', type=Path, help='folder to write, new or empty')
    return parser


def main(argv: Sequence[str] | None = None) -> None:
    """Convert as the command line says.

    Args:
        argv: Command-line arguments; those of the process if None.
    """
    parser = make_parser()
    args = parser.parse_args(argv)
    with readable_errors(parser):
        from crack_plugin.models.meta_checkpoint import convert_file

        converted = convert_file(args.file, args.folder)
    modules = _modules(converted.left_out)
    print(f'Left out {len(converted.left_out)} tensors, of what Sam3Model does not have: {modules}')
    if converted.zeroed:
        print(f'Set to zero, as the file lacks them and no output depends on them: {", ".join(converted.zeroed)}')
    print(f'Wrote {args.folder}: {len(converted.weights)} tensors. Train with --cfg-options model.base={args.folder}')
    print('The weights stay under the licence of SAM 3.')


def _modules(names: Sequence[str]) -> str:
    """The modules that tensors are of, each once: of the detector their first levels, otherwise the whole part."""
    levels = {name: 4 if name.startswith(('detector.', 'backbone.', 'geometry_encoder.')) else 1 for name in names}
    found = dict.fromkeys('.'.join(name.split('.')[: levels[name]]) for name in names)
    return ', '.join(found) or 'none'


if __name__ == '__main__':
    main()
