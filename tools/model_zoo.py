"""Fill a model zoo page: ``python tools/model_zoo.py WORK_DIR [WORK_DIR ...] --output zoo.md``.

A row for each config: GPU, memory, scores of the selected epoch, time, parameters, and where
``tools/push_to_hub.py`` put the adapter. A further call replaces the rows of the same configs and keeps the others,
and what is written above and below the table.
"""

import argparse
from collections.abc import Sequence
from pathlib import Path

from crack_plugin.cli import readable_errors
from crack_plugin.sharing.zoo import write_zoo


def main(argv: Sequence[str] | None = None) -> None:
    """Run the command line ``argv`` (None: the process's)."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument('work_dirs', type=Path, nargs='+', metavar='WORK_DIR', help='work directories of trainings')
    parser.add_argument(
        '--output', type=Path, default=Path('zoo.md'), metavar='FILE', help='page to write (default: %(default)s)'
    )
    args = parser.parse_args(argv)
    for work_dir in args.work_dirs:
        if not work_dir.is_dir():
            parser.error(f'{work_dir} is no folder')
    with readable_errors(parser):
        added, replaced = write_zoo(args.work_dirs, args.output)
    print(f'Wrote {args.output}: {added} new rows, {replaced} replaced')


if __name__ == '__main__':
    main()
