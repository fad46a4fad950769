"""Run Meta's own SAM 3 on the CPU with random weights: started by `benchmarks/meta_checkpoint.py`.

    META_PYTHON benchmarks/meta_original.py FOLDER BPE_FILE VIT TEXT

VIT and TEXT are JSON: arguments that Meta's builder then gives its ViT and its text encoder instead of its own, {} for
the published size.

FOLDER gets ``sam3.pt``, the state dict of the video model as Meta's loader wants it, and ``expected.pt``, what its
detector makes of a random image and a prompt. Nothing of crack_plugin is imported, and nothing of the package ``sam3``
is changed; what it needs of a CUDA machine is stood in for as far as importing and building it asks for that:

1. torchvision's operators: the wheel on PyPI is built for CUDA and does not load beside a torch for the CPU. The two
   that are looked up in an import are declared, without a body.
2. triton, which only kernels for CUDA use: a module whose decorators return what they are given.
3. ``device='cuda'`` in the position encoding and in the decoder becomes the CPU.
4. ``Tensor.pin_memory``, which needs CUDA, returns the tensor.
5. ``torchvision.ops.roi_align``, whose operator is one of those missing: there is nothing to pool, since no prompt here
   has a box, and what would pool one stops.
6. The vocabulary that the wheel lacks is an argument of Meta's builder.
"""

import json
import sys
import types
from importlib.machinery import ModuleSpec
from pathlib import Path
from typing import Any

import torch
from torch.overrides import TorchFunctionMode

PROMPT = 'thin crack in grey concrete'
SEED = 0


class OnCPU(TorchFunctionMode):
    """Sends what asks for CUDA to the CPU."""

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = dict(kwargs or {})
        if str(kwargs.get('device', '')).startswith('cuda'):
            kwargs['device'] = 'cpu'
        return func(*args, **kwargs)


def stand_in() -> None:
    """Make ``sam3`` importable: see the list above."""
    library = torch.library.Library('torchvision', 'DEF')
    for operator in ('nms', 'qnms'):
        library.define(f'{operator}(Tensor dets, Tensor scores, float iou_threshold) -> Tensor')
    import torchvision  # before triton seems to be there, which torch asks for

    torchvision.ops.roi_align = pool_nothing

    triton, language = types.ModuleType('triton'), types.ModuleType('triton.language')
    triton.jit = lambda function: function
    triton.language, language.constexpr = language, object
    for module in (triton, language):
        module.__spec__ = ModuleSpec(module.__name__, None)
        sys.modules[module.__name__] = module
    torch.Tensor.pin_memory = lambda tensor, *_: tensor


def pool_nothing(features: torch.Tensor, boxes: tuple[torch.Tensor, ...], side: int) -> torch.Tensor:
    """The features below no boxes."""
    if sum(map(len, boxes)):
        raise NotImplementedError('boxes')
    return features.new_zeros(0, features.shape[1], side, side)


def randomise(model: torch.nn.Module) -> None:
    """Give every parameter values that matter: some start at zero, at 1e-6 or at whatever was in memory."""
    torch.manual_seed(SEED)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if parameter.dim() > 1:
                parameter.normal_(std=0.02 if 'embed' in name else 0.7 * parameter[0].numel() ** -0.5)
            else:
                parameter.normal_(mean=float(name.endswith('weight')), std=0.1)


@torch.no_grad()
def ground(detector: Any, backbone_out: dict, with_geometry: bool) -> dict[str, torch.Tensor]:
    """Run everything behind the backbone.

    Args:
        detector: Meta's image model.
        backbone_out: Image and text features.
        with_geometry: Whether the prompt has the geometry encoder's token, which Meta's predictors append even where
            there are no boxes, and Hugging Face's model only where there are.
    """
    from sam3.model.data_misc import FindStage

    first = torch.tensor([0])
    find = FindStage(first, first, *([None] * 5))
    if not with_geometry:
        prompt = backbone_out['language_features'][:, first], backbone_out['language_mask'][first], backbone_out
        detector._encode_prompt = lambda *_: prompt
    out = detector.forward_grounding(dict(backbone_out), find, None, detector._get_dummy_prompt())
    detector.__dict__.pop('_encode_prompt', None)
    names = ('semantic_seg', 'pred_masks', 'pred_logits', 'pred_boxes_xyxy', 'presence_logit_dec')
    return {name: out[name] for name in names}


def override(builder: Any, name: str, arguments: dict[str, Any]) -> None:
    """Have Meta's builder give other arguments to one of Meta's classes."""
    original = getattr(builder, name)
    setattr(builder, name, lambda **own: original(**{**own, **arguments}))


@torch.no_grad()
def main(folder: Path, vocabulary: Path, vit: dict[str, Any], text_encoder: dict[str, Any]) -> None:
    stand_in()
    import sam3
    from sam3 import model_builder

    override(model_builder, 'ViT', vit)
    override(model_builder, 'VETextEncoder', text_encoder)
    with OnCPU():
        model = model_builder.build_sam3_video_model(load_from_HF=False, bpe_path=str(vocabulary), device='cpu').eval()
    randomise(model)
    torch.save(model.state_dict(), folder / 'sam3.pt')

    detector = model.detector
    side = vit.get('img_size', 1008)
    pixels = torch.randn(1, 3, side, side, generator=torch.Generator().manual_seed(SEED))
    text = detector.backbone.forward_text([PROMPT], device='cpu')
    expected: dict[str, Any] = {'pixels': pixels, 'prompt': PROMPT, 'version': sam3.__version__}
    expected['input_ids'] = detector.backbone.language_backbone.tokenizer([PROMPT], context_length=32)
    # What takes almost all of the time is the same for all prompts.
    neck = detector.backbone.vision_backbone
    features = neck.trunk(pixels)
    neck.trunk.forward = lambda _: features
    image = {**detector.backbone.forward_image(pixels), **text}
    expected['text'] = ground(detector, image, with_geometry=False)
    expected['text and geometry token'] = ground(detector, image, with_geometry=True)
    # SAM 3.1 as its public builder makes it: the pyramid ends one level earlier, and none is dropped.
    neck.convs, neck.sam2_convs, detector.backbone.scalp = neck.convs[:3], None, 0
    expected['three levels'] = ground(detector, {**detector.backbone.forward_image(pixels), **text}, False)
    torch.save(expected, folder / 'expected.pt')


if __name__ == '__main__':
    main(Path(sys.argv[1]), Path(sys.argv[2]), json.loads(sys.argv[3]), json.loads(sys.argv[4]))
