"""Steps on PyTorch's meta device: bytes and operations as on a CUDA GPU, without one, without weights, in seconds.

Tensors have shapes but no values. Every operation is dispatched as CUDA would (flash or memory-efficient attention,
autocast's casts and its cache of weights, dropout masks), and storages are counted while they live. Not counted: the
CUDA context, workspaces of cuBLAS and cuDNN, and fragmentation, together 0.5 to 1 GB.
"""

import contextlib
import weakref
from collections.abc import Callable, Iterable, Iterator
from typing import Any

import torch
import torch.nn.functional as F
import transformers.masking_utils
import transformers.models.sam3.modeling_sam3 as sam3
import transformers.models.sam3_lite_text.modeling_sam3_lite_text as sam3_lite_text
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils.flop_counter import FlopCounterMode

BLOCK = 512
"""Bytes to which CUDA's allocator rounds up."""

# The lists of aten/src/ATen/autocast_mode.h, as far as SAM 3 has use for them.
IN_LOW_PRECISION = {
    F.linear, F.conv2d, torch.conv2d, F.conv_transpose2d, torch.conv_transpose2d, torch.matmul, torch.Tensor.matmul,
    torch.Tensor.__matmul__, torch.bmm, torch.mm, torch.einsum, torch.addmm,
}  # fmt: skip
IN_FP32 = {
    F.layer_norm, torch.layer_norm, F.group_norm, torch.group_norm, F.softmax, torch.softmax, torch.Tensor.softmax,
    torch.exp, torch.Tensor.exp, torch.log, torch.Tensor.log, torch.pow, torch.Tensor.pow, torch.Tensor.__pow__,
    torch.Tensor.__rpow__, torch.cumsum, torch.Tensor.cumsum, torch.sum, torch.Tensor.sum,
}  # fmt: skip


class CudaDispatch(TorchFunctionMode):
    """Choose attention kernels and, under autocast, precisions as CUDA does.

    Args:
        autocast: Its precision; None for none.
    """

    def __init__(self, autocast: torch.dtype | None = None) -> None:
        super().__init__()
        self.autocast = autocast
        self.cached_weights: dict[int, Tensor] = {}

    def __torch_function__(self, function: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        if function in (F.dropout, torch.dropout):
            return _dropout(*args, **kwargs)
        attention = function is F.scaled_dot_product_attention
        if self.autocast is not None and (attention or function in IN_LOW_PRECISION):
            args, kwargs = self._cast(args, self.autocast), self._cast(kwargs, self.autocast)
        elif self.autocast is not None and function in IN_FP32:
            args, kwargs = self._cast(args, torch.float32), self._cast(kwargs, torch.float32)
        return _attention(*args, **kwargs) if attention else function(*args, **kwargs)

    def _cast(self, value: Any, dtype: torch.dtype) -> Any:
        if isinstance(value, dict):
            return {name: self._cast(entry, dtype) for name, entry in value.items()}
        if isinstance(value, (list, tuple)):
            return type(value)(self._cast(entry, dtype) for entry in value)
        if not isinstance(value, Tensor) or not value.is_floating_point() or value.dtype == dtype:
            return value
        if value.is_leaf and value.requires_grad and dtype == self.autocast:
            if id(value) not in self.cached_weights:
                self.cached_weights[id(value)] = value.to(dtype)
            return self.cached_weights[id(value)]
        return value.to(dtype)


def _dropout(input: Tensor, p: float = 0.5, training: bool = True, inplace: bool = False) -> Tensor:
    return torch.native_dropout(input, p, True)[0] if training and p > 0 else input


def _attention(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attn_mask: Tensor | None = None,
    dropout_p: float = 0.0,
    is_causal: bool = False,
    scale: float | None = None,
    enable_gqa: bool = False,
) -> Tensor:
    """Flash attention in low precision without a mask, the memory-efficient kernel otherwise."""
    if attn_mask is None and query.dtype in (torch.float16, torch.bfloat16):
        flash = torch.ops.aten._scaled_dot_product_flash_attention
        return flash(query, key, value, dropout_p, is_causal, False, scale=scale)[0]
    bias = None
    if attn_mask is not None:
        # A boolean mask becomes one to add, in the query's precision.
        added = torch.zeros(attn_mask.shape, dtype=query.dtype, device=query.device)
        bias = added.expand(*query.shape[:3], key.shape[2])
    logsumexp = torch.is_grad_enabled() and any(tensor.requires_grad for tensor in (query, key, value))
    efficient = torch.ops.aten._scaled_dot_product_efficient_attention
    return efficient(query, key, value, bias, logsumexp, dropout_p, is_causal, scale=scale)[0]


class LiveBytes(TorchDispatchMode):
    """Count the bytes of storages that operations make, while they live.

    Args:
        outside: Tensors that are not to be counted: weights and inputs.

    Attributes:
        peak: The most at any time, in bytes.
    """

    def __init__(self, outside: Iterable[Tensor]) -> None:
        super().__init__()
        self.live = self.peak = 0
        self._known: dict[int, Any] = {tensor.untyped_storage()._cdata: None for tensor in outside}

    def __torch_dispatch__(self, function: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        result = function(*args, **(kwargs or {}))
        for value in result if isinstance(result, (list, tuple)) else (result,):
            if isinstance(value, Tensor):
                self._enter(value.untyped_storage())
        return result

    def _enter(self, storage: Any) -> None:
        key = storage._cdata
        if key in self._known:
            return
        size = -(-storage.nbytes() // BLOCK) * BLOCK
        self.live += size
        self.peak = max(self.peak, self.live)

        def leave(_: Any) -> None:
            self.live -= size
            del self._known[key]

        self._known[key] = weakref.ref(storage, leave)


def peak_bytes(
    model: nn.Module, forward: Callable[[], Tensor], inputs: Iterable[Tensor], autocast: torch.dtype | None = None
) -> int:
    """Peak bytes of a step on CUDA: weights, the optimizer's moments (AdamW) and everything in between.

    Args:
        model: On the meta device.
        forward: Gives the loss, which is then differentiated, or in inference the result.
        inputs: The tensors that ``forward`` reads besides the model's.
        autocast: Precision of CUDA's autocast; None for none.
    """
    weights = [*model.parameters(), *model.buffers()]
    trained = [parameter for parameter in model.parameters() if parameter.requires_grad]
    dispatch, live = CudaDispatch(autocast), LiveBytes([*weights, *inputs])
    with dispatch, live:
        result = forward()
        # CUDA's autocast drops its cache when its context ends, which is before the backward pass.
        dispatch.cached_weights.clear()
        if result.requires_grad:
            _backward(result)
    moments = 2 * sum(parameter.nbytes for parameter in trained) if result.requires_grad else 0
    for parameter in trained:
        parameter.grad = None
    return sum(tensor.nbytes for tensor in weights) + moments + live.peak


def count_operations(forward: Callable[[], Tensor]) -> int:
    """FLOPs (two for a multiply-add) of matrix products and convolutions in a step on the meta device.

    Args:
        forward: Gives the loss, which is then differentiated, or a result without gradient.
    """
    with FlopCounterMode(display=False) as counter:
        result = forward()
        if result.requires_grad:
            _backward(result)
    return counter.get_total_flops()


def _backward(loss: Tensor) -> None:
    # Tensor.backward would give itself a gradient that no mode sees.
    from torch.autograd.graph import _engine_run_backward

    _engine_run_backward(
        (loss,), (torch.ones_like(loss),), False, False, (), allow_unreachable=True, accumulate_grad=True
    )


@contextlib.contextmanager
def transformers_on_meta() -> Iterator[None]:
    """Keep transformers from asking tensors without values for them; the mask of a padded prompt is kept."""
    masks = transformers.masking_utils
    saved = masks.fast_all, masks._ignore_bidirectional_mask_sdpa
    fast_all, ignore = saved
    encoders = sam3.Sam3DetrEncoder, sam3_lite_text.Sam3LiteTextDetrEncoder
    saved_features = [encoder._prepare_multilevel_features for encoder in encoders]

    def on_meta(prepare: Any) -> Any:
        def prepare_on_meta(self: Any, features: Any, positions: Any) -> tuple[Tensor, Tensor, Tensor]:
            flat, encoded, _ = prepare(self, features, positions)
            return flat, encoded, torch.tensor([level.shape[-2:] for level in features], device='cpu')

        return prepare_on_meta

    masks.fast_all = lambda tensor: not tensor.is_meta and fast_all(tensor)
    masks._ignore_bidirectional_mask_sdpa = lambda mask, *args, **kwargs: (
        (mask is None or not mask.is_meta) and ignore(mask, *args, **kwargs)
    )
    for encoder, prepare in zip(encoders, saved_features, strict=True):
        encoder._prepare_multilevel_features = on_meta(prepare)
    try:
        yield
    finally:
        masks.fast_all, masks._ignore_bidirectional_mask_sdpa = saved
        for encoder, prepare in zip(encoders, saved_features, strict=True):
            encoder._prepare_multilevel_features = prepare
