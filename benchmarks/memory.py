"""Peak GPU memory of a training step and of inference, simulated on the meta device: the table of docs/performance.md.

    python benchmarks/memory.py

Full size, 1008 px, batch 1, pictures of 640 x 640 px and photographs of 12 megapixels.
``benchmarks/train_step.py`` and ``benchmarks/inference.py`` measure the same on a GPU.
"""

import argparse
from typing import Any

import torch
import torch.nn.functional as F
from meta_device import peak_bytes, transformers_on_meta
from mmengine.structures import PixelData
from mmseg.structures import SegDataSample
from steps import BEST_HEAD, LITE_TEXT, PICTURE, PROMPT_TOKENS, PlainDice, our_config, prompt_tokens, reference_model
from torch import Tensor

import crack_plugin  # noqa: F401 - before any mmseg: makes it importable with mmcv-lite
from crack_plugin.models import SAM3TextLoRA, semantic_path
from crack_plugin.models.adapters import has_adapter

TRAININGS: dict[str, tuple[str, dict[str, Any]]] = {
    'sam3_lora_crack: the reference recipe, fp16 autocast': ('sam3_lora_crack', {}),
    'sam3_lora_crack_fast, not compiled': ('sam3_lora_crack_fast', {}),
    'the same with activation_checkpointing=False': ('sam3_lora_crack_fast', {'activation_checkpointing': False}),
    'sam3_lora_crack_lowmem': ('sam3_lora_crack_lowmem', {}),
    'sam3_lora_crack_last8, not compiled': ('sam3_lora_crack_last8', {}),
    'sam3_lora_crack_last8, activation_checkpointing=True': (
        'sam3_lora_crack_last8',
        {'activation_checkpointing': True},
    ),
    'sam3_lora_crack_best, fp16 autocast': ('sam3_lora_crack_best', {}),
    'sam3_lora_crack_best_lowmem': ('sam3_lora_crack_best_lowmem', {}),
    'sam3_lora_crack_fast with a detail head, not compiled': ('sam3_lora_crack_fast', {'detail_head': BEST_HEAD}),
    'sam3_litetext_lora_crack: SAM3-LiteText, fp16 autocast': ('sam3_litetext_lora_crack', {'base': LITE_TEXT}),
    'sam3_lora_crack_lowmem on SAM3-LiteText': ('sam3_lora_crack_lowmem', {'base': LITE_TEXT}),
    'sam3_lora_crack_mlp, not compiled': ('sam3_lora_crack_mlp', {}),
    'sam3_lora_crack_mlp, activation_checkpointing=True': (
        'sam3_lora_crack_mlp',
        {'activation_checkpointing': True},
    ),
    'sam3_lora_crack_all_linear, not compiled': ('sam3_lora_crack_all_linear', {}),
    'sam3_lora_crack_all_linear, activation_checkpointing=True': (
        'sam3_lora_crack_all_linear',
        {'activation_checkpointing': True},
    ),
}

PHOTOGRAPH = (3000, 4000)


def our_model(config_name: str, image_size: int, **arguments: Any) -> SAM3TextLoRA:
    """A model of ours on the meta device, in training mode."""
    config = our_config(config_name, image_size, compile=False, **arguments).model
    config.pop('type')
    model = SAM3TextLoRA(**config).train()
    text = (model.model.text_encoder, model.model.text_projection)
    if not any(has_adapter(module) for module in text):
        # What the model does by itself where tensors have values.
        width, dtype = text[1].out_features, text[1].weight.dtype
        model.prompt_features = torch.empty(len(model.prompts), PROMPT_TOKENS, width, dtype=dtype)
        semantic_path.drop_modules(model.model, semantic_path.TEXT_MODULES)
    return model


def our_peak(
    config_name: str,
    image_size: int,
    images: int,
    inference: bool = False,
    picture: tuple[int, int] = (PICTURE, PICTURE),
    merged: bool = True,
    **arguments: Any,
) -> int:
    """Peak bytes of a step of ours from 8-bit pictures on, with its own loss, or of inference.

    Args:
        config_name: One of ours.
        image_size: Of the model's square.
        images: In a batch.
        inference: Whether to count a prediction up to the logits, not a step.
        picture: (height, width) of the pictures, in pixels.
        merged: Whether a prediction has its adapters merged.
        **arguments: In place of the config's for the model.
    """
    autocast = None if our_config(config_name, image_size, **arguments).model.get('dtype') else torch.float16
    if inference and merged:
        # Merged adapters leave a model without any.
        arguments['lora'] = None
    with torch.device('meta'):
        model = our_model(config_name, image_size, **arguments).train(not inference)
    model.data_preprocessor.to('meta')
    alive: list[Any] = []

    def forward() -> Tensor:
        with torch.device('meta'), torch.set_grad_enabled(not inference):
            batch = {
                'inputs': [torch.empty(3, *picture, dtype=torch.uint8) for _ in range(images)],
                'data_samples': [_sample(picture) for _ in range(images)],
            }
            batch = model.data_preprocessor(batch, training=not inference)
            # MMEngine holds it until the step is done.
            alive.append(batch)
            if inference:
                return model(**batch)
            return model(**batch, mode='loss')['loss_dice']

    return peak_bytes(model, forward, [], autocast)


def _sample(picture: tuple[int, int]) -> SegDataSample:
    labels = torch.empty(1, *picture, dtype=torch.int64)
    return SegDataSample(gt_sem_seg=PixelData(data=labels), metainfo={'img_shape': picture, 'ori_shape': picture})


def reference_peak(image_size: int, images: int, inference: bool = False) -> int:
    """Peak bytes of the reference's step, or of its full forward."""
    with torch.device('meta'):
        model = reference_model(image_size).train(not inference)
        pixels, tokens = torch.zeros(images, 3, image_size, image_size), prompt_tokens(images, 'meta')
        masks = torch.zeros(images, PICTURE, PICTURE)

    def forward() -> Tensor:
        with torch.set_grad_enabled(not inference):
            low = model(pixel_values=pixels, **tokens).semantic_seg
            logits = F.interpolate(low.float(), size=masks.shape[-2:], mode='bilinear')
            return logits if inference else PlainDice()(logits[:, 0], masks)

    return peak_bytes(model, forward, [pixels, masks, *tokens.values()], torch.float16)


def main() -> None:
    """Run the command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument('--image-size', type=int, default=1008, metavar='PX', help='default: %(default)s')
    parser.add_argument('--batch-size', type=int, default=1, metavar='N', help='default: %(default)s')
    args = parser.parse_args()
    size, images = args.image_size, args.batch_size
    print(f'simulated, {size} px, batch {images}; GB of 10^9 bytes\n\n| training step | peak GB |\n|---|---|')
    with transformers_on_meta():
        print(f'| reference, fp16 autocast | {reference_peak(size, images) / 1e9:.2f} |', flush=True)
        for name, (config_name, arguments) in TRAININGS.items():
            print(f'| {name} | {our_peak(config_name, size, images, **arguments) / 1e9:.2f} |', flush=True)
        height, width = PHOTOGRAPH
        print(f'\n| training step on photographs of {height} x {width} px | peak GB |\n|---|---|')
        for name in ('sam3_lora_crack_lowmem', 'sam3_lora_crack_best_lowmem', 'sam3_lora_crack_fast'):
            print(f'| {name} | {our_peak(name, size, images, picture=PHOTOGRAPH) / 1e9:.2f} |', flush=True)
        print('\n| inference | peak GB |\n|---|---|')
        print(f'| reference, fp16 autocast | {reference_peak(size, images, inference=True) / 1e9:.2f} |')
        apart = our_peak('sam3_lora_crack_fast', size, images, inference=True, merged=False)
        print(f'| adapters apart, bfloat16 | {apart / 1e9:.2f} |')
        merged = our_peak('sam3_lora_crack_fast', size, images, inference=True)
        print(f'| merged, bfloat16, text encoded once | {merged / 1e9:.2f} |')
        pictures = {"a picture of the model's size": (size, size), f'a photograph of {height} x {width} px': PHOTOGRAPH}
        for name, picture in pictures.items():
            for head in (None, BEST_HEAD):
                peak = our_peak('sam3_lora_crack_fast', size, images, inference=True, picture=picture, detail_head=head)
                print(f'| the same, {name}{", with a detail head" if head is not None else ""} | {peak / 1e9:.2f} |')


if __name__ == '__main__':
    main()
