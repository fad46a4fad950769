"""Export the merged model with fixed prompts to one file, ONNX or ``torch.export``, that runs without this package."""

import json
import tempfile
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from crack_plugin.errors import CrackPluginError
from crack_plugin.models import adapters, semantic_path
from crack_plugin.models.detail_head import DetailHead, limited
from crack_plugin.models.sam3_text_lora import SAM3TextLoRA

FORMATS = ('onnx', 'pt2')
METADATA = 'crack_plugin'
INPUT, DETAIL, OUTPUT = 'pixel_values', 'image', 'logits'
"""Names of the inputs, the second for a detail head that works on the image's own pixels, and of the output."""
TOLERANCE = 1e-4
"""Largest difference of logits between the file and the model, as a share of the largest logit (or of 1)."""
ONNX_LIMIT = 2**31 - 2**24
"""Bytes of weights that one ONNX file holds: it is a protocol buffer, of 2 GiB at most."""


class ExportError(CrackPluginError, ValueError):
    """The model cannot be exported, or the file does not compute the same; the message says what to do."""


class SemanticPath(nn.Module):
    """Normalised images to logits: the semantic path and the detail head, with the prompts' features as constants.

    Args:
        segmentor: Without adapters (merged), its prompts frozen.
    """

    prompt_features: Tensor
    prompt_mask: Tensor

    def __init__(self, segmentor: SAM3TextLoRA) -> None:
        super().__init__()
        self.model = segmentor.model
        self.detail_head = segmentor.detail_head
        count = len(segmentor.prompts)
        self.register_buffer('prompt_features', segmentor.prompt_features[:count])
        self.register_buffer('prompt_mask', segmentor.prompt_mask[:count])

    def forward(self, pixel_values: Tensor, image: Tensor | None = None) -> Tensor:
        """Segment.

        Args:
            pixel_values: Shape (N, 3, S, S).
            image: The same images as the detail head sees them, shape (N, 3, H, W); None if it sees ``pixel_values``,
                or if there is none.

        Returns:
            Logits of the K prompts, shape (N, K, 4s, 4s) with s = S / 14; with a detail head at the size of the image
            that it sees.
        """
        hidden = semantic_path.encode_prefix(self.model, pixel_values, depth=0)
        logits, embeddings = semantic_path.semantic_features(
            self.model, hidden, 0, self.prompt_features, self.prompt_mask
        )
        if self.detail_head is None:
            return logits
        if image is None:
            seen, size = limited(pixel_values, self.detail_head.max_pixels), pixel_values.shape[-2:]
            correction = self.detail_head(seen, embeddings, logits)
            correction = F.interpolate(correction, size=size, mode='bilinear', align_corners=False)
        else:
            correction, size = self.detail_head(image, embeddings, logits), image.shape[-2:]
        return F.interpolate(logits, size=size, mode='bilinear', align_corners=False) + correction


def export(segmentor: SAM3TextLoRA, path: str | Path, file_format: str) -> float:
    """Merge the adapters into ``segmentor`` and write it as one file, for any number of images at once.

    The file is run and compared with the model before it gets its name. Besides the graph it holds how to prepare
    images (see :func:`metadata`). ONNX keeps weights of more than 2 GiB in a second file, ``path`` + '.data'.

    Args:
        segmentor: On the CPU, in fp32 (``dtype=None``). Its adapters are merged in place.
        path: File to write.
        file_format: 'onnx', or 'pt2' for ``torch.export.load``.

    Returns:
        Largest difference from the model's logits, on random images.

    Raises:
        ExportError: The model cannot be exported, a library is missing, or the file computes something else.
    """
    if file_format not in FORMATS:
        raise ExportError(f'format={file_format!r}: choose {" or ".join(map(repr, FORMATS))}.')
    if segmentor.dtype is not None:
        raise ExportError('the weights are in low precision. Build the model with dtype=None to export it in fp32.')
    if adapters.is_adapted(segmentor.sam3):
        segmentor.merge_adapter()
    if segmentor.prompt_features is None:
        raise ExportError(
            "the prompts are still encoded for every image (trainable='all'). Build the model with trainable='lora'."
        )
    path = Path(path)
    module = SemanticPath(segmentor).eval()
    images = _random_inputs(segmentor)
    path.parent.mkdir(parents=True, exist_ok=True)
    scratch = tempfile.TemporaryDirectory(dir=path.parent, prefix=f'.{path.name}-')
    with torch.no_grad(), scratch as folder:
        expected = module(*images).numpy()
        # Under its final name: an ONNX file with its weights in a second file refers to that by name.
        file = Path(folder, path.name)
        write, run = (_write_onnx, _run_onnx) if file_format == 'onnx' else (_write_pt2, _run_pt2)
        write(module, images, file, json.dumps(metadata(segmentor)))
        difference = float(np.abs(run(file, images) - expected).max())
        if not difference <= TOLERANCE * max(1.0, float(np.abs(expected).max())):
            raise ExportError(f'the exported file differs from the model by {difference:g} in its logits: not written.')
        for written in Path(folder).iterdir():
            written.replace(path.parent / written.name)
    return difference


def _random_inputs(segmentor: SAM3TextLoRA) -> tuple[Tensor, ...]:
    """Two images as noise, and once more, not square, for a detail head that works on the image's own pixels."""
    side, generator = segmentor.image_size, torch.Generator().manual_seed(0)
    images = torch.randn(2, 3, side, side, generator=generator)
    if not _has_second_input(segmentor):
        return (images,)
    return images, torch.randn(2, 3, side + 4, side + 14, generator=generator)


def _has_second_input(segmentor: SAM3TextLoRA) -> bool:
    return segmentor.detail_head is not None and segmentor.detail_head.size == 'image'


def metadata(segmentor: SAM3TextLoRA) -> dict[str, Any]:
    """How to prepare images for an exported file, and what it returns.

    It is stored under the name 'crack_plugin' as JSON: in ONNX's ``metadata_props``, or in the extra files of
    ``torch.export.load``.
    """
    preprocessor = segmentor.data_preprocessor
    # Without a mean, it normalises nothing.
    normalises = hasattr(preprocessor, 'mean')
    return {
        'prompts': segmentor.prompts,
        'threshold': segmentor.threshold,
        'image_size': segmentor.image_size,
        'channels': 'RGB',
        'mean': preprocessor.mean.flatten().tolist() if normalises else [0.0] * 3,
        'std': preprocessor.std.flatten().tolist() if normalises else [1.0] * 3,
        'resize': 'bilinear, antialiased, to image_size x image_size, without keeping the ratio',
        'output': 'logits (N, prompts, h, w): resize bilinearly (align_corners=False) to the image, then sigmoid',
        **_about_second_input(segmentor.detail_head),
    }


def _about_second_input(head: DetailHead | None) -> dict[str, Any]:
    if head is None or head.size != 'image':
        return {}
    return {
        'max_pixels': head.max_pixels,
        'min_side': _least_side(head),
        DETAIL: 'the normalised image before that resize; if it has more than max_pixels, resized to as many, '
        'bilinear, antialiased, keeping the ratio',
    }


def _least_side(head: DetailHead | None) -> int | None:
    """With two pixels in the coarsest level: for one, an exported file would take another path."""
    return None if head is None or not head.levels else 2**head.levels + 1


def _dynamic_shapes(module: SemanticPath, images: tuple[Tensor, ...]) -> tuple[dict[int, Any], ...]:
    """Any number of images at once; the second input has any size that its head takes."""
    batch, least = torch.export.Dim('batch'), _least_side(module.detail_head)
    height, width = (torch.export.Dim(name, min=least) for name in ('height', 'width'))
    return ({0: batch}, {0: batch, 2: height, 3: width})[: len(images)]


def _write_onnx(module: SemanticPath, images: tuple[Tensor, ...], path: Path, description: str) -> None:
    try:
        import onnx
        import onnxruntime  # noqa: F401 - the file is run before it gets its name
        import onnxscript  # noqa: F401 - torch.onnx.export needs it
    except ImportError as error:
        raise ExportError(f"{error}. ONNX needs: pip install 'crack_plugin[export]'") from error
    program = torch.onnx.export(
        module,
        images,
        input_names=[INPUT, DETAIL][: len(images)],
        output_names=[OUTPUT],
        dynamic_shapes=_dynamic_shapes(module, images),
        dynamo=True,
        verbose=False,
    )
    assert program is not None
    program.model.metadata_props[METADATA] = description
    program.model.producer_name = METADATA
    weights = sum(tensor.numel() * tensor.element_size() for tensor in module.state_dict().values())
    program.save(str(path), external_data=weights > ONNX_LIMIT)
    onnx.checker.check_model(str(path))


def _run_onnx(path: Path, images: tuple[Tensor, ...]) -> np.ndarray:
    from onnxruntime import InferenceSession

    session = InferenceSession(str(path), providers=['CPUExecutionProvider'])
    inputs = {name: image.numpy() for name, image in zip((INPUT, DETAIL), images, strict=False)}
    (logits,) = session.run([OUTPUT], inputs)
    return logits


def _write_pt2(module: SemanticPath, images: tuple[Tensor, ...], path: Path, description: str) -> None:
    program = torch.export.export(module, images, dynamic_shapes=_dynamic_shapes(module, images))
    torch.export.save(program, path, extra_files={METADATA: description})


def _run_pt2(path: Path, images: tuple[Tensor, ...]) -> np.ndarray:
    return torch.export.load(path).module()(*images).numpy()
