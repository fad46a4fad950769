"""Share a training on the Hugging Face hub: ``python tools/push_to_hub.py WORK_DIR OWNER/NAME``.

Uploads the adapter of the best checkpoint, the config of the training, its report and a model card, to a private
repository unless --public is given. What is uploaded is written to WORK_DIR/hub first; --dry-run stops there, to be
looked at. No checkpoint, no image and no path of this machine is part of it; --examples N adds validation photographs
to the report.

Others predict with ``python tools/predict.py IMAGES --adapter OWNER/NAME --out OUT``, or
``Predictor.from_pretrained('OWNER/NAME')``.
"""

import argparse
from collections.abc import Sequence
from pathlib import Path

from mmengine.device import get_device

from crack_plugin.cli import add_cfg_options, config_file, merge_options, readable_errors
from crack_plugin.sharing.push import Choices, check_repo, push, record, write_folder
from crack_plugin.sharing.training import read_training


def main(argv: Sequence[str] | None = None) -> None:
    """Run the command line ``argv`` (None: the process's)."""
    parser = _build_parser()
    args = parser.parse_args(argv)
    if not args.work_dir.is_dir():
        parser.error(f'{args.work_dir} is no folder')
    if args.examples < 0:
        parser.error(f'--examples {args.examples}: expected a number from 0 on')
    folder = args.output or args.work_dir / 'hub'
    choices = Choices(
        base_model=args.base_model,
        licence=args.license,
        licence_name=args.license_name,
        licence_link=args.license_link,
        dataset_name=args.dataset_name,
        examples=args.examples,
        device=args.device,
    )
    with readable_errors(parser):
        check_repo(args.repo)
        training = read_training(args.work_dir, args.config)
        merge_options(training.cfg, args.cfg_options)
        write_folder(training, args.repo, folder, choices)
        print(f'Wrote {folder}')
        if tuned := training.unused_threshold():
            print(
                f'{tuned[0]} has a tuned threshold, which an adapter does not carry: to share it, add --cfg-options '
                f'model.threshold={tuned[1]:g}'
            )
        if args.dry_run:
            print('Nothing was uploaded: --dry-run')
            return
        pushed = push(folder, args.repo, args.public)
        record(pushed, args.work_dir)
    print(f'Pushed to {pushed.url} ({"public" if pushed.public else "private"}), commit {pushed.commit[:12]}')


def _build_parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument('work_dir', type=Path, metavar='WORK_DIR', help='work directory of the training')
    parser.add_argument('repo', metavar='OWNER/NAME', help='repository on the hub; made if it is not there')
    parser.add_argument('--public', action='store_true', help='everybody may see it (default: private)')
    parser.add_argument('--dry-run', action='store_true', help='write the folder, upload nothing')
    parser.add_argument('--output', type=Path, metavar='DIR', help='folder to write (default: WORK_DIR/hub)')
    parser.add_argument('--config', type=config_file, help='config file (default: the one in WORK_DIR)')
    parser.add_argument(
        '--base-model', metavar='HUB_ID', help='name of the base on the hub, if the training had it from a folder'
    )
    parser.add_argument('--license', metavar='ID', help="of the adapter, as the hub lists it (default: the base's)")
    parser.add_argument('--license-name', metavar='NAME', help='name of a licence that the hub does not list')
    parser.add_argument('--license-link', metavar='URL', help='its text')
    parser.add_argument('--dataset-name', metavar='NAME', help="in the card (default: name of the dataset's folder)")
    parser.add_argument(
        '--examples',
        type=int,
        default=0,
        metavar='N',
        help='validation photographs of each group in the report, for which the model is run (default: none)',
    )
    parser.add_argument('--device', default=get_device(), help='for --examples (default: %(default)s)')
    add_cfg_options(parser, 'train_dataloader.dataset.data_root=DIR for data that has moved')
    return parser


if __name__ == '__main__':
    main()
