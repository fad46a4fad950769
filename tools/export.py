"""Write a trained model as one file for deployment: ``python tools/export.py CONFIG OUT.onnx --checkpoint X``.

Adapters are merged, the prompts are fixed. The file runs without this package, on onnxruntime (.onnx) or with plain
torch (.pt2, ``torch.export.load``), and was run and compared with the model before the tool ends. ``docs/deploy.md``
tells how to prepare images.
"""

import argparse
from collections.abc import Sequence

from crack_plugin.cli import add_trained_model_arguments, build_trained_model, load_trained_config, readable_errors

FORMATS = ('onnx', 'pt2')


def make_parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    add_trained_model_arguments(parser, out='file to write', required=False)
    parser.add_argument('--format', choices=FORMATS, help="default: by OUT's suffix")
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
        from mmseg.registry import MODELS

        from crack_plugin.models import SAM3TextLoRA
        from crack_plugin.models.export import export

        cfg = load_trained_config(args)
        model_class = MODELS.get(cfg.model.type)
        if not (model_class and issubclass(model_class, SAM3TextLoRA)):
            parser.error(f'{args.config} has {cfg.model.type}; only SAM3TextLoRA is exported')
        # Of use in training. What was trained in low precision merges exactly in fp32 alone.
        for name in ('dtype', 'activation_checkpointing', 'compile'):
            cfg.model.pop(name, None)
        model = build_trained_model(cfg, args.checkpoint).eval()
        difference = export(model, args.out, file_format)
    print(f'Wrote {args.out}; its logits differ from the model by {difference:.1e} at most, on noise.')
    print('Merged weights contain SAM 3 and stay under its licence.')


if __name__ == '__main__':
    main()
