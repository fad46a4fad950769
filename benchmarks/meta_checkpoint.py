"""Hold `tools/convert_checkpoint.py` against Meta's own SAM 3: the table in ``docs/bases.md``.

    python -m venv META && META/bin/pip install 'torch==2.13.0' 'numpy<2.4' 'huggingface-hub<2' timm iopath ftfy \
        regex einops psutil pycocotools && META/bin/pip install --no-deps sam3==0.1.4 torchvision==0.28.0
    python benchmarks/meta_checkpoint.py META/bin/python --reduced
    python benchmarks/meta_checkpoint.py META/bin/python --pixels 336
    python benchmarks/meta_checkpoint.py META/bin/python

Meta's implementation, with random weights, and the converted model run in processes and environments of their own and
exchange files: ``benchmarks/meta_original.py`` says what is stood in for there. The published size takes 16 GB of RAM
and 8 GB of disk, and long on few cores; 336 px have a ninth of the patches and the same weights. ``--reduced`` has ViT
and text encoder narrower and shallower, 672 px, and the rest as it is.
"""

import argparse
import copy
import gzip
import json
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from importlib.util import find_spec
from pathlib import Path
from typing import Any
from unittest.mock import patch

import torch
from torch import Tensor
from transformers import Sam3Config
from transformers.models.sam3.modeling_sam3 import Sam3GeometryEncoder, Sam3Model

import crack_plugin  # noqa: F401 - before any mmseg: makes it importable with mmcv-lite
from crack_plugin.models import meta_checkpoint
from crack_plugin.models.tokenizer import clip_tokenizer, tokenize

# Meta's name of an output, and Hugging Face's.
OUTPUTS = {
    'semantic_seg': 'semantic_seg',
    'pred_masks': 'pred_masks',
    'pred_logits': 'pred_logits',
    'pred_boxes_xyxy': 'pred_boxes',
    'presence_logit_dec': 'presence_logits',
}

# A smaller ViT and text encoder as Meta's classes want it told, and the same as Hugging Face does.
VIT = {'img_size': 672, 'embed_dim': 256, 'depth': 4, 'num_heads': 4, 'global_att_blocks': [1, 3]}
TEXT = {'width': 256, 'heads': 4, 'layers': 3}
REDUCED: dict[str, Any] = {
    'vision_config': {
        'backbone_config': {
            'model_type': 'sam3_vit_model',
            'image_size': 672,
            'hidden_size': 256,
            'intermediate_size': 1184,
            'num_hidden_layers': 4,
            'num_attention_heads': 4,
            'global_attn_indexes': [1, 3],
        },
        'backbone_feature_sizes': [[192, 192], [96, 96], [48, 48]],
    },
    'text_config': {
        'hidden_size': 256,
        'intermediate_size': 1024,
        'num_hidden_layers': 3,
        'num_attention_heads': 4,
        # As published; a text configuration that is given has CLIP's own values by default.
        'max_position_embeddings': 32,
        'projection_dim': 512,
        'hidden_act': 'gelu',
    },
}


def make_parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument('meta_python', help="the interpreter of an environment that has Meta's package")
    parser.add_argument('--reduced', action='store_true', help='ViT and text encoder smaller than published')
    parser.add_argument('--pixels', type=int, help='side of the image, a multiple of 336 (default: 1008, reduced 672)')
    parser.add_argument('--folder', type=Path, help='where to keep what is exchanged (default: nowhere)')
    parser.add_argument('--names', type=Path, metavar='FILE.gz', help="write names and shapes of Meta's weights")
    return parser


def main(argv: Sequence[str] | None = None) -> None:
    """Compare as the command line says."""
    args = make_parser().parse_args(argv)
    with tempfile.TemporaryDirectory() as scratch:
        folder = args.folder or Path(scratch)
        folder.mkdir(parents=True, exist_ok=True)
        pixels = {'img_size': args.pixels} if args.pixels else {}
        run_original(args.meta_python, folder, (VIT if args.reduced else {}) | pixels, TEXT if args.reduced else {})
        state_dict = torch.load(folder / 'sam3.pt', weights_only=True, mmap=True)
        if args.names:
            lines = [f'{name} {str(value.dtype)[6:]} {list(value.shape)}\n' for name, value in state_dict.items()]
            args.names.write_bytes(gzip.compress(''.join(lines).encode(), mtime=0))
        config = Sam3Config(**(REDUCED if args.reduced else {}))
        config.image_size = args.pixels or config.image_size
        # What counts as published: everything else is as users get it.
        meta_checkpoint.Sam3Config = lambda: copy.deepcopy(config)
        converted = meta_checkpoint.convert_file(folder / 'sam3.pt', folder / 'converted')
        expected = torch.load(folder / 'expected.pt', weights_only=True)
        detector = sum(name.startswith('detector.') for name in state_dict)
        print(f'sam3 {expected["version"]}: {len(state_dict)} tensors, {detector} of them of the detector')
        print(f'converted: {len(converted.weights)} tensors, {len(converted.left_out)} left out\n')
        compare(Sam3Model.from_pretrained(folder / 'converted').eval(), expected)
        check_3_1(state_dict, converted)


def run_original(python: str, folder: Path, vit: dict[str, Any], text: dict[str, Any]) -> None:
    """Run Meta's implementation."""
    spec = find_spec('mmseg')
    assert spec is not None and spec.origin is not None
    vocabulary = Path(spec.origin).parent / 'utils' / 'bpe_simple_vocab_16e6.txt.gz'
    script = Path(__file__).with_name('meta_original.py')
    command = [python, '-W', 'ignore', str(script), str(folder), str(vocabulary), json.dumps(vit), json.dumps(text)]
    subprocess.run(command, check=True)


@torch.no_grad()
def compare(model: Any, expected: dict[str, Any]) -> None:
    """Print how far the converted model's outputs are from the original's."""
    ids = expected['input_ids']
    own_ids, own_mask = tokenize(clip_tokenizer(), [expected['prompt']])
    length = int(own_mask.sum())
    print(f'tokens of the prompt are the same: {torch.equal(ids[:, :length], own_ids[:, :length])}\n')
    # The original pads with 0 and leaves padding out by that.
    vision = model.vision_encoder(expected['pixels'])
    inputs = {'vision_embeds': vision, 'input_ids': ids, 'attention_mask': (ids != 0).long()}
    # A box that is padding: the geometry encoder gives its one token that stands for no box.
    box = {'input_boxes': torch.zeros(1, 1, 4), 'input_boxes_labels': torch.full((1, 1), -10)}
    text = model(**inputs)
    # Pooling below boxes takes torchvision; what would be pooled here is padding.
    with patch.object(Sam3GeometryEncoder, '_encode_boxes', lambda _, boxes, mask, *__: (torch.zeros(1, 1, 256), mask)):
        with_geometry = model(**inputs, **box)
    print('| prompt | output | largest value | largest difference |\n|---|---|---|---|')
    for prompt, found in (('text', text), ('text and geometry token', with_geometry)):
        # The original's video model gives the logit of both at once: of the query, and of anything being there.
        joint = torch.logit(found['pred_logits'].sigmoid() * found['presence_logits'].sigmoid())
        for theirs, ours in OUTPUTS.items():
            report(prompt, ours, expected[prompt][theirs], joint if ours == 'pred_logits' else found[ours])
    report('text, three levels', 'semantic_seg', expected['three levels']['semantic_seg'], text['semantic_seg'])
    token = expected['text and geometry token']['semantic_seg'] - expected['text']['semantic_seg']
    print(f"\nThe geometry token changes Meta's own semantic_seg by {token.abs().max():.1e} at most.")


def report(prompt: str, name: str, expected: Tensor, found: Tensor) -> None:
    """Print a row of the table, and stop where it is no conversion."""
    difference = (found.reshape(expected.shape) - expected).abs().max()
    print(f'| {prompt} | `{name}` | {expected.abs().max():.2g} | {difference:.1e} |', flush=True)
    if name == 'semantic_seg' and not difference < 1e-4:
        sys.exit(f'{name} differs by {difference}')


def check_3_1(state_dict: dict[str, Tensor], converted: meta_checkpoint.Converted) -> None:
    """Convert the same weights under the names that SAM 3.1's detector has in Meta's public code."""
    vision = 'detector.backbone.vision_backbone.'
    renamed = {}
    for name, value in state_dict.items():
        if name.startswith((f'{vision}convs.3.', f'{vision}sam2_convs.', 'tracker.')):
            continue
        renamed[name] = value
        if name.startswith(f'{vision}convs.'):
            for neck in ('interactive_convs', 'propagation_convs'):
                renamed[name.replace('vision_backbone.convs', f'vision_backbone.{neck}')] = value
    result = meta_checkpoint.convert(renamed)
    kept = result.weights.keys() - set(result.zeroed)
    equal = all(torch.equal(converted.weights[name], result.weights[name]) for name in kept)
    print(
        f"\nUnder SAM 3.1's names, {len(renamed)} tensors of the detector: {len(result.weights)} converted, equal: "
        f'{equal}; zeros: {", ".join(result.zeroed)}'
    )


if __name__ == '__main__':
    main()
