"""Write a trained model as one file for deployment: ``python tools/export.py CONFIG OUT.onnx --checkpoint X``.

Adapters are merged, the prompts are fixed. The file runs without this package, on onnxruntime (.onnx) or with plain
torch (.pt2, ``torch.export.load``), and was run and compared with the model before the tool ends. ``docs/deploy.md``
tells how to prepare images.
"""

import argparse
from collections.abc import Sequence
from pathlib import Path

from cli import KeyValueAction, config_file, readable_errors
from mmengine.config import Config
from test import checkpoint_file

FORMATS = ('onnx', 'pt2')


def make_parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument('config', type=config_file, help='config file the model was trained with')
    parser.add_argument('out', type=Path, help='file to write')
    source = parser.add_mutually_exclusive_group()
    source.add_argument('--checkpoint', type=checkpoint_file, help='checkpoint of a training')
    source.add_argument('--adapter', type=Path, metavar='DIR', help='PEFT adapter folder')
    parser.add_argument('--format', choices=FORMATS, help="default: by OUT's suffix")
    parser.add_argument(
        '--cfg-options',
        nargs='+',
        action=KeyValueAction,
        metavar='KEY=VALUE',
        help='as in train.py, e.g. model.image_size=672',
    )
    return parser


def main(argv: Sequence[str] | None = None) -> None:
    """Export as the command line says.

    Args:
        argv: Command-line arguments; those of the process if None.
    """
    parser = make_parser()
    args = parser.parse_args(argv)
    file_format = args.format or args.out.suffix.removeprefix('.')
    if file_format not in FORMATS:
        parser.error(f'{args.out}: name it .onnx or .pt2, or give --format')
    with readable_errors(parser):
        from mmengine.registry import init_default_scope
        from mmengine.runner import load_checkpoint
        from mmseg.registry import MODELS

        from crack_plugin.models import SAM3TextLoRA
        from crack_plugin.models.export import export

        cfg = Config.fromfile(args.config)
        if args.cfg_options:
            cfg.merge_from_dict(args.cfg_options)
        init_default_scope(cfg.get('default_scope', 'mmseg'))
        if args.adapter is not None:
            cfg.model.adapter = str(args.adapter)
        model_class = MODELS.get(cfg.model.type)
        if not (model_class and issubclass(model_class, SAM3TextLoRA)):
            parser.error(f'{args.config} has {cfg.model.type}; only SAM3TextLoRA is exported')
        # What is trained in low precision is exported in fp32: adapters merge exactly there alone.
        cfg.model.dtype = None
        model = MODELS.build(cfg.model).eval()
        if args.checkpoint is not None:
            load_checkpoint(model, args.checkpoint, map_location='cpu')
        difference = export(model, args.out, file_format)
    print(f'Wrote {args.out}; its logits differ from the model by {difference:.1e} at most, on noise.')
    print('Merged weights contain SAM 3 and stay under its licence.')


if __name__ == '__main__':
    main()
