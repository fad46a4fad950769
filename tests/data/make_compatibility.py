"""Write what a revision leaves on a user's disk, small: ``python tests/data/make_compatibility.py tests/data/v1``.

Run with the code of that revision. A base model, photographs and a config as a user writes one; a training of two
epochs with all that it leaves; a prediction; and the logits of the best checkpoint. ``tests/test_compatibility.py``
asks of every later revision that it loads, resumes and predicts the same from these files.

Never write a folder again that is committed: what is tested would be the new code alone.
"""

import argparse
import gzip
import json
import os
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

import numpy as np
import torch
from mmengine.config import Config
from mmengine.registry import Registry, init_default_scope

import crack_plugin  # noqa: F401 - before any mmseg: makes it importable with mmcv-lite
from crack_plugin.datasets.synthetic import write_dataset

ROOT = Path(__file__).resolve().parents[2]
CONFIG = 'my_bridge.py'
WORK_DIR = Path('work_dirs', 'my_bridge')
IMAGES = Path('data', 'valid', 'images')
# In the place of this machine's folder, wherever a file names it.
NEUTRAL = '/home/user/bridge'
# As its author finds it: the configs are in a checkout beside it.
BASE_CONFIG = '../../../configs/sam3_tiny_lora_crack.py'

USER_CONFIG = f"""_base_ = '{BASE_CONFIG}'
dataset = dict(data_root='data', class_map={{'crack': 'crack'}}, boxes='drop', missing_label='background')
model = dict(
    base='base',
    prompts=['crack'],
    lora=dict(r=2, lora_alpha=4, lora_dropout=0.1, target_modules=['q_proj', 'v_proj']),
    loss_decode=dict(type='ForegroundDiceLoss'),
    threshold=0.49,
    test_cfg=dict(mode='whole'),
)
train_dataloader = dict(batch_size=2, num_workers=0, persistent_workers=False, dataset=dataset)
val_dataloader = dict(num_workers=0, persistent_workers=False, dataset=dataset)
test_dataloader = val_dataloader
optim_wrapper = dict(type='OptimWrapper', optimizer=dict(lr=1e-2), clip_grad=dict(max_norm=1.0))
param_scheduler = [dict(type='CosineAnnealingLR', by_epoch=True, T_max=2)]
train_cfg = dict(max_epochs=2)
default_hooks = dict(
    logger=dict(interval=1),
    checkpoint=dict(interval=1, max_keep_ckpts=2, save_best='crack/IoU', rule='greater'),
    non_finite_loss=dict(on_nan='skip'),
    prediction=dict(max_keep_epochs=2),
)
"""

SMALL: dict[str, Any] = {'hidden_size': 16, 'num_attention_heads': 2, 'intermediate_size': 24}
BASE: dict[str, Any] = {
    'vision_config': {
        'backbone_config': {
            'model_type': 'sam3_vit_model',
            **SMALL,
            'num_hidden_layers': 2,
            'image_size': 56,
            'pretrain_image_size': 28,
            'patch_size': 14,
            'window_size': 2,
            'global_attn_indexes': [1],
        },
        'fpn_hidden_size': 16,
    },
    'text_config': {
        'model_type': 'clip_text_model',
        **SMALL,
        'vocab_size': 49408,
        'projection_dim': 16,
        'num_hidden_layers': 1,
        'max_position_embeddings': 32,
        'hidden_act': 'gelu',
    },
    'geometry_encoder_config': {**SMALL, 'num_layers': 1},
    'detr_encoder_config': {**SMALL, 'num_layers': 1},
    'detr_decoder_config': {**SMALL, 'num_layers': 1, 'num_queries': 4},
    'mask_decoder_config': {'hidden_size': 16, 'num_attention_heads': 2},
    'initializer_range': 0.2,
}


def main() -> None:
    parser = argparse.ArgumentParser(description='Write files of this revision, for later ones to read.')
    parser.add_argument('out', type=Path, help='folder to write, which must not exist')
    out = parser.parse_args().out.resolve()
    if out.exists():
        parser.error(f'{out} exists already. Files of a former revision stay as they are: name a new folder.')
    with tempfile.TemporaryDirectory() as scratch:
        folder = Path(scratch).resolve()
        write_base(folder / 'base')
        write_dataset(folder / 'data', n_train=4, n_valid=2, size=(48, 64), negative_share=0.0)
        (folder / CONFIG).write_text(USER_CONFIG.replace('../../..', str(ROOT)))
        run(folder, 'train.py', CONFIG)
        tidy(folder)
        (best,) = (folder / WORK_DIR).glob('best_*.pth')
        checkpoint = best.relative_to(folder)
        run(folder, 'predict.py', IMAGES, '--config', CONFIG, '--checkpoint', checkpoint, '--out', 'predicted')
        np.savez_compressed(folder / 'expected.npz', logits=logits(folder, checkpoint))
        (folder / CONFIG).write_text(USER_CONFIG)
        (folder / 'names.json').write_text(json.dumps(names(), indent=1))
        for file in [*folder.rglob('*.pth'), *folder.rglob('model.safetensors')]:
            pack(file)
        shutil.copytree(folder, out)
    size = sum(file.stat().st_size for file in out.rglob('*') if file.is_file())
    print(f'Wrote {out}: {size / 1000:.0f} kB')


def write_base(folder: Path) -> None:
    """A random SAM 3 without a tokenizer of its own, in numbers that compress well."""
    from transformers import Sam3Config
    from transformers.models.sam3.modeling_sam3 import Sam3Model

    torch.manual_seed(0)
    model = Sam3Model(Sam3Config(**BASE))
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.copy_((128 * parameter).round() / 128)
        words = model.text_encoder.text_model.embeddings.token_embedding.weight
        used = torch.tensor([10334, 49406, 49407])  # crack, and the two tokens that frame it
        # Far enough apart that a part of the pixels is foreground.
        model.mask_decoder.semantic_projection.weight.mul_(8)
        words.copy_(torch.zeros_like(words).index_copy(0, used, words[used]))
    model.save_pretrained(folder)


def run(folder: Path, tool: str, *arguments: str | Path) -> None:
    """Run a tool as a user does, in the user's folder."""
    environment = {**os.environ, 'PYTHONPATH': str(ROOT), 'OMP_NUM_THREADS': '1'}
    command = [sys.executable, str(ROOT / 'tools' / tool), *map(str, arguments)]
    subprocess.run(command, cwd=folder, env=environment, check=True)


def logits(folder: Path, checkpoint: Path) -> np.ndarray:
    """Logits (K + 1, H, W) of the first photograph from MMSegmentation's own calls."""
    from mmseg.apis import inference_model, init_model

    os.chdir(folder)
    init_default_scope('mmseg')
    model = init_model(Config.fromfile(CONFIG), str(checkpoint), device='cpu')
    return inference_model(model, str(min(IMAGES.iterdir()))).seg_logits.data.numpy()


def names() -> dict[str, list[str]]:
    """What configs refer to: config files, and what this package registers, as registry.Name."""
    import mmseg.registry

    configs = sorted(path.relative_to(ROOT / 'configs').as_posix() for path in (ROOT / 'configs').rglob('*.py'))
    registered = [
        f'{name}.{key}'
        for name, registry in vars(mmseg.registry).items()
        if isinstance(registry, Registry)
        for key, value in registry.module_dict.items()
        if value.__module__.startswith('crack_plugin')
    ]
    return {'configs': configs, 'registered': sorted(registered)}


def tidy(folder: Path) -> None:
    """Make the training one that was stopped after its first epoch, and take this machine out of what it left."""
    work_dir = folder / WORK_DIR
    for file in [*work_dir.glob('*/*.log'), work_dir / '.training.lock', work_dir / 'epoch_2.pth']:
        file.unlink()
    (work_dir / 'last_checkpoint').write_text(str(work_dir / 'epoch_1.pth'))
    for file in [file for file in work_dir.rglob('*') if file.is_file()]:
        if file.suffix == '.pth':
            torch.save(neutral(torch.load(file, weights_only=True), str(folder)), file)
        elif file.suffix in ('.py', '.json', ''):
            file.write_text(neutral(file.read_text(), str(folder)))


def pack(file: Path) -> None:
    """Compress a file that is mostly zeros and headers."""
    Path(f'{file}.gz').write_bytes(gzip.compress(file.read_bytes(), mtime=0))
    file.unlink()


def neutral(value: Any, folder: str) -> Any:
    """``value`` with the folder's and the checkout's path replaced in every text."""
    if isinstance(value, str):
        return value.replace(folder, NEUTRAL).replace(str(ROOT), '/home/user/crack_plugin')
    if isinstance(value, dict):
        for key in list(value):
            value[key] = neutral(value[key], folder)
    elif isinstance(value, list):
        value[:] = [neutral(item, folder) for item in value]
    elif isinstance(value, tuple) and type(value) is tuple:
        return tuple(neutral(item, folder) for item in value)
    return value


if __name__ == '__main__':
    main()
