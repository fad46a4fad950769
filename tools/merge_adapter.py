"""Write a whole Hugging Face SAM 3 with adapters merged: ``python tools/merge_adapter.py CONFIG OUT --checkpoint X``.

The folder needs neither this package nor peft: ``Sam3Model.from_pretrained(OUT)``.
"""

import argparse
from collections.abc import Sequence
from pathlib import Path

from cli import KeyValueAction, config_file, readable_errors
from mmengine.config import Config
from test import checkpoint_file


def make_parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        description='Fold LoRA adapters into their base, in fp32, and save the result as a Hugging Face model folder.'
    )
    parser.add_argument('config', type=config_file, help='config file the adapters were trained with')
    parser.add_argument('out', type=Path, help='folder to write, new or empty')
    source = parser.add_mutually_exclusive_group(required=True)
    source.add_argument('--checkpoint', type=checkpoint_file, help='checkpoint of a training')
    source.add_argument('--adapter', type=Path, help='PEFT adapter folder')
    parser.add_argument('--cfg-options', nargs='+', action=KeyValueAction, metavar='KEY=VALUE', help='as in train.py')
    return parser


def main(argv: Sequence[str] | None = None) -> None:
    """Merge as the command line says.

    Args:
        argv: Command-line arguments; those of the process if None.
    """
    parser = make_parser()
    args = parser.parse_args(argv)
    with readable_errors(parser):
        from mmengine.runner import load_checkpoint
        from mmseg.registry import MODELS

        import crack_plugin  # noqa: F401 - registers

        cfg = Config.fromfile(args.config)
        if args.cfg_options:
            cfg.merge_from_dict(args.cfg_options)
        if args.adapter is not None:
            cfg.model.adapter = str(args.adapter)
        model = MODELS.build(cfg.model)
        if args.checkpoint is not None:
            load_checkpoint(model, args.checkpoint, map_location='cpu')
        model.save_pretrained(args.out)
    print(f'Wrote {args.out}. Merged weights contain SAM 3 and stay under its licence.')


if __name__ == '__main__':
    main()
