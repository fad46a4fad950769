"""A page to work in: ``python tools/app.py [CONFIG] [--checkpoint FILE | --adapter DIR]``, then open the address.

Photographs are dropped on the page; it finds cracks, measures them, lets them be corrected and trained on, and gives
masks, tables and a report to download. It is served from this machine, to this machine alone unless --host says
otherwise, and asks for nothing from outside. Photographs and results of a user are deleted when the page is closed, or
after --minutes without it; what is saved to train on stays in --out.

Without CONFIG it is the embedded tiny SAM 3, to try it out on a CPU.
"""

import argparse
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import cv2
import numpy as np
from mmengine.config import Config

from crack_plugin import cli
from crack_plugin.app.jobs import Worker
from crack_plugin.app.limits import AppError, Limits
from crack_plugin.app.models import Models
from crack_plugin.app.sessions import Sessions
from crack_plugin.app.token import LOOPBACK, check_token
from crack_plugin.app.training import Trainer
from crack_plugin.datasets.synthetic import PRETRAINING_SURFACES, draw
from crack_plugin.errors import MissingPackageError
from crack_plugin.models import adapters

ROOT = Path(__file__).resolve().parents[1]
TINY = ROOT / 'configs' / 'sam3_tiny_lora_crack.py'
EXAMPLE_SIZE = 672, 896
MEGABYTE = 2**20


def main(argv: Sequence[str] | None = None) -> None:
    """Serve the page until it is stopped.

    Args:
        argv: Command-line arguments; those of the process if None.
    """
    parser = make_parser()
    args = parser.parse_args(argv)
    with cli.readable_errors(parser):
        try:
            check_token(args.host, args.token)
        except AppError as error:
            parser.error(str(error))
        _serve(args)


def _serve(args: argparse.Namespace) -> None:
    try:
        import uvicorn

        from crack_plugin.app.server import Parts, make_app
    except ModuleNotFoundError as error:
        raise MissingPackageError(f'{error.name} is not installed: pip install "crack_plugin[app]".') from error
    app = make_app(Parts(**_parts(args)), args.token, LOOPBACK if args.host in LOOPBACK else ())
    server = uvicorn.Server(uvicorn.Config(app, host=args.host, port=args.port, log_level='warning'))
    listener = server.config.bind_socket()
    # Whoever follows the address at once is answered.
    listener.listen(server.config.backlog)
    host = f'[{args.host}]' if ':' in args.host else args.host
    print(f'Open http://{host}:{listener.getsockname()[1]} in a browser. Ctrl-C ends it.', flush=True)
    server.run(sockets=[listener])


def make_parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument('config', nargs='?', type=cli.config_file, default=str(TINY), help='default: the tiny SAM 3')
    cli.add_weights(parser)
    parser.add_argument('--out', type=Path, default=Path('work_dirs/app'), help='datasets and trainings (%(default)s)')
    parser.add_argument('--host', default='127.0.0.1', help='address to listen at; any other needs a --token')
    parser.add_argument('--port', type=cli.whole_number(0), default=7860, help='default: %(default)s')
    parser.add_argument('--token', metavar='TEXT', help='what users have to enter, 16 characters or more')
    parser.add_argument('--device', help='where to predict (default: the best that is there)')
    parser.add_argument(
        '--examples', type=cli.whole_number(0), default=0, metavar='N', help='draw N pictures to try it with'
    )
    limits = parser.add_argument_group('limits')
    defaults = Limits()
    for name, default, text in (
        ('--max-upload-mb', defaults.upload_bytes // MEGABYTE, 'of one photograph'),
        ('--max-session-mb', defaults.session_bytes // MEGABYTE, 'of all that a user keeps on the disk'),
        ('--max-sessions', defaults.sessions, 'users at once'),
        ('--max-megapixels', defaults.pixels // 10**6, 'of one photograph'),
        ('--minutes', int(defaults.idle_seconds // 60), 'until what nobody looks at is deleted'),
        (
            '--leave-seconds',
            int(defaults.leave_seconds),
            'from when a page is closed until its photographs are deleted',
        ),
        ('--keep-free-mb', defaults.free_bytes // MEGABYTE, 'of the disk, whatever is asked for'),
    ):
        limits.add_argument(
            name, type=cli.whole_number(1), default=default, metavar='N', help=f'{text} (default: %(default)s)'
        )
    cli.add_cfg_options(parser)
    return parser


def _parts(args: argparse.Namespace) -> dict[str, Any]:
    config = Config.fromfile(args.config)
    cli.merge_options(config, args.cfg_options)
    limits = Limits(
        upload_bytes=args.max_upload_mb * MEGABYTE,
        session_bytes=args.max_session_mb * MEGABYTE,
        sessions=args.max_sessions,
        idle_seconds=60 * args.minutes,
        leave_seconds=args.leave_seconds,
        pixels=args.max_megapixels * 10**6,
        free_bytes=args.keep_free_mb * MEGABYTE,
    )
    adapter = None if args.adapter is None else str(adapters.fetch(args.adapter))
    trainings = args.out / 'trainings'
    models = Models(config, args.checkpoint, adapter, trainings, args.device)
    models.load()
    worker = Worker(models)
    trainer = Trainer(Path(__file__).with_name('train.py'), config, trainings, limits)
    return {
        'sessions': Sessions(limits, worker.forget),
        'models': models,
        'worker': worker,
        'trainer': trainer,
        'datasets': args.out / 'datasets',
        'examples': draw_examples(args.examples),
    }


def draw_examples(count: int) -> Mapping[str, bytes]:
    """Pictures of cracked surfaces by name, as PNG; the same ones each time."""
    pictures = {}
    for number in range(count):
        surface = PRETRAINING_SURFACES[number % len(PRETRAINING_SURFACES)]
        image = draw(np.random.default_rng(number), EXAMPLE_SIZE, surface).image
        pictures[f'{surface}-{number + 1}.png'] = cv2.imencode('.png', image)[1].tobytes()
    return pictures


if __name__ == '__main__':
    main()
