"""Write a whole Hugging Face SAM 3 with adapters merged: ``python tools/merge_adapter.py CONFIG OUT --checkpoint X``.

The folder needs neither this package nor peft: ``Sam3Model.from_pretrained(OUT)``.
"""

import argparse
from collections.abc import Sequence

from crack_plugin.cli import add_trained_model_arguments, build_trained_model, load_trained_config, readable_errors


def make_parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        description='Fold LoRA adapters into their base, in fp32, and save the result as a Hugging Face model folder.'
    )
    add_trained_model_arguments(parser, out='folder to write, new or empty', required=True)
    return parser


def main(argv: Sequence[str] | None = None) -> None:
    """Merge as the command line says.

    Args:
        argv: Command-line arguments; those of the process if None.
    """
    parser = make_parser()
    args = parser.parse_args(argv)
    with readable_errors(parser):
        build_trained_model(load_trained_config(args), args.checkpoint).save_pretrained(args.out)
    print(f'Wrote {args.out}. Merged weights contain SAM 3 and stay under its licence.')


if __name__ == '__main__':
    main()
