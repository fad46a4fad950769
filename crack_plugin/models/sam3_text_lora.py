"""SAM 3, conditioned on a text prompt and fine-tuned by LoRA, as an MMSegmentation segmentor."""

import math
import shutil
import tempfile
from collections.abc import Callable, Iterable, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from mmengine.config import ConfigDict
from mmengine.logging import print_log
from mmengine.optim import ApexOptimWrapper, OptimWrapper
from mmengine.structures import PixelData
from mmseg.models.segmentors import EncoderDecoder, SegTTAModel
from mmseg.models.segmentors.base import BaseSegmentor
from mmseg.registry import MODELS
from mmseg.structures import SegDataSample
from mmseg.utils import OptSampleList, SampleList
from torch import Tensor, nn

from crack_plugin.files import honour_umask
from crack_plugin.losses import IGNORE_INDEX, build_losses, decode_losses
from crack_plugin.models import adapters, sam3_semantic, sliding
from crack_plugin.models.base_files import split_revision
from crack_plugin.models.prefix_cache import PrefixCache
from crack_plugin.models.strips import strips

PREPROCESSOR = {
    'type': 'SegDataPreProcessor',
    'mean': [127.5] * 3,
    'std': [127.5] * 3,
    'bgr_to_rgb': True,
    'size_divisor': 1,
    'pad_val': 0,
    'seg_pad_val': 255,
}
REFERENCE_LORA = {
    'r': 8,
    'lora_alpha': 16,
    'lora_dropout': 0.1,
    'target_modules': ['q_proj', 'k_proj', 'v_proj', 'o_proj'],
}
PRECISIONS = {'bfloat16': torch.bfloat16, 'float16': torch.float16}


class PrecisionError(ValueError):
    """Gradients in the precision asked for would be lost; the message says what to train with instead."""


@MODELS.register_module()
class SAM3TextLoRA(EncoderDecoder):
    """Segment what text prompts name, with SAM 3's semantic output and LoRA adapters.

    An ordinary (K + 1)-class segmentor: channel 0 of ``seg_logits`` is the background and always 0, channel k is SAM
    3's semantic logit for prompt k. Softmax over [0, z] is sigmoid(z), so stock losses, metrics and visualizers apply.

    Args:
        base: Hub id (``name@revision`` for a branch, tag or commit), local folder, or overrides of ``Sam3Config`` (and
            ``seed``) for a random model.
        prompts: One text prompt per foreground class, in the order of the dataset's classes.
        data_preprocessor: Defaults to SAM 3's own normalisation.
        lora: Arguments of ``peft.LoraConfig``; None for no adapters (zero-shot).
        adapter: PEFT adapter folder to start from, ours or one saved by plain PEFT.
        trainable: 'lora' trains the adapters, 'all' every weight of the semantic path.
        image_size: Side in pixels of the square that images are stretched to; None for the base's own (1008).
        dtype: Precision of the frozen weights: None for the checkpoint's, 'bfloat16' or 'float16'. Adapters and
            rotary positions stay in fp32.
        activation_checkpointing: Compute activations again in the backward pass instead of keeping them: less memory,
            more time, the same gradients. A list names the parts to do so in: 'vit' (most memory, most time),
            'text_encoder', 'neck', 'detr_encoder', 'mask_decoder'.
        compile: True compiles the semantic path, once for every shape it sees. A dict holds options of
            ``torch.compile`` and, as mmengine's ``compile`` does, a ``target``: 'path' (the default) or 'blocks', which
            compiles block by block, in less time and for less gain.
        loss_decode: One MMSeg loss or a list, applied to (N, K + 1, H, W) logits and (N, H, W) labels.
        threshold: A pixel is foreground where 1 - p(background) exceeds it. Acts on ``pred_sem_seg`` alone.
        test_cfg: ``dict(mode='whole')`` or ``dict(mode='slide', crop_size=(h, w), stride=(h, w), batch=4)``, ``batch``
            being the number of windows in one forward.
        pretrained, train_cfg, init_cfg: None; ``mmseg.apis.init_model`` sets them on every model.

    Raises:
        ValueError: An argument is out of its range, or an adapter does not fit.
        OSError: The base cannot be had.
    """

    def __init__(
        self,
        base: str | dict[str, Any] = 'facebook/sam3',
        prompts: Sequence[str] = ('crack',),
        data_preprocessor: dict | None = None,
        lora: dict[str, Any] | None = REFERENCE_LORA,
        adapter: str | None = None,
        trainable: str = 'lora',
        image_size: int | None = None,
        dtype: str | None = None,
        activation_checkpointing: bool | Sequence[str] = False,
        compile: bool | dict[str, Any] = False,
        loss_decode: dict | list[dict] = {'type': 'ForegroundDiceLoss'},  # noqa: B006
        threshold: float = 0.5,
        test_cfg: dict | None = None,
        pretrained: None = None,
        train_cfg: None = None,
        init_cfg: None = None,
    ) -> None:
        _check_arguments(prompts, trainable, threshold, dtype)
        _check_unused(pretrained=pretrained, train_cfg=train_cfg, init_cfg=init_cfg)
        # Built here, because BaseModel would look in mmengine's registry unless a default scope is set.
        BaseSegmentor.__init__(self, data_preprocessor=MODELS.build(dict(data_preprocessor or PREPROCESSOR)))
        self.base = base.to_dict() if isinstance(base, ConfigDict) else base
        self.prompts = list(prompts)
        self.trainable = trainable
        self.threshold = threshold
        self.dtype = None if dtype is None else PRECISIONS[dtype]
        self.train_cfg = None
        self.test_cfg = ConfigDict(test_cfg or {'mode': 'whole'})
        if self.test_cfg.get('mode') == 'slide':
            sliding.check(self.test_cfg)
        self.window_progress: Callable[[Sequence[sliding.Windows]], Iterable[sliding.Windows]] = iter
        self.num_classes = self.out_channels = len(prompts) + 1
        self.align_corners = False
        self.loss_decode = build_losses(loss_decode, self.num_classes)

        sam3, tokenizer = sam3_semantic.load_base(self.base, image_size)
        self.image_size = sam3_semantic.input_size(sam3)
        # Asked now: a folder may be gone when an adapter is saved.
        self._base_source = (None, None) if isinstance(self.base, dict) else split_revision(self.base)
        self.base_hash = sam3_semantic.shared_base_hash(sam3)
        self.sam3 = self._with_adapters(sam3, lora, adapter)
        self._checkpointed_parts = _checkpointed_parts(activation_checkpointing)
        self._compile_options = _compile_options(compile)
        self._prefix_cache: PrefixCache | None = None
        self._frozen_depth = 0
        self._merged: adapters.Snapshot | None = None
        input_ids, prompt_mask = sam3_semantic.tokenize(tokenizer, self.prompts)
        self.register_buffer('prompt_ids', input_ids, persistent=False)
        self.register_buffer('prompt_mask', prompt_mask.bool(), persistent=False)
        self.register_buffer('prompt_features', None, persistent=False)
        self._prepare()
        self.register_state_dict_post_hook(_keep_trained_weights)
        self.register_load_state_dict_post_hook(_refuse_partial_load)
        self._log_parameters()

    @property
    def model(self) -> Any:
        """The Hugging Face ``Sam3Model``, adapters in place."""
        return adapters.base_model(self.sam3)

    def init_weights(self) -> None:
        """Leave the weights alone: mmengine's recursion would reach Hugging Face's and randomise the adapters."""

    def train(self, mode: bool = True) -> 'SAM3TextLoRA':
        """Switch what trains; the frozen base stays in evaluation mode, or its own dropouts would wake up."""
        super().train(mode)
        if self.trainable == 'lora':
            self.sam3.eval()
            adapters.set_training(self.sam3, mode)
        # A caller may have frozen or freed layers in between.
        depth = sam3_semantic.frozen_depth(self.model)
        if depth != self._frozen_depth and self._prefix_cache is not None:
            raise ValueError(f'{depth} layers are frozen now, and the prefix cache is of {self._frozen_depth}.')
        self._frozen_depth = depth
        return self

    def extract_feat(self, inputs: Tensor) -> list[Tensor]:
        """Feature pyramid of images (N, 3, H, W), fine to coarse; see :func:`sam3_semantic.encode_images`."""
        hidden = self._encode_prefix(self._stretch(inputs, [_whole(inputs)] * len(inputs)))
        return sam3_semantic.encode_images(self.model, hidden, self._frozen_depth)[0]

    def encode_decode(self, inputs: Tensor, batch_img_metas: list[dict]) -> Tensor:
        """Segment normalised images of any size.

        Each image's own region (``img_shape``, the rest is padding) is stretched to the model's square, and its logits
        back, so no result depends on the other images of the batch.

        Args:
            inputs: Normalised images, shape (N, 3, H, W).
            batch_img_metas: N dicts, ``img_shape`` in each.

        Returns:
            Logits, shape (N, K + 1, H, W), fp32; channel 0 (background) is 0.
        """
        return _with_background(self.foreground_logits(inputs, batch_img_metas))

    def foreground_logits(self, inputs: Tensor, batch_img_metas: list[dict]) -> Tensor:
        """As :meth:`encode_decode`, without the background: shape (N, K, H, W)."""
        regions = [_region(inputs, meta) for meta in batch_img_metas]
        hidden = self._encode_prefix(self._stretch(inputs, regions))
        run = self._run(sam3_semantic.semantic_logits)
        logits = run(self.model, hidden, self._frozen_depth, self._encode_prompts(), self.prompt_mask).float()
        return _unstretch(logits, regions, _whole(inputs))

    def loss(self, inputs: Tensor, data_samples: SampleList) -> dict[str, Tensor]:
        """Losses of a batch under their ``loss_name``, and ``train_iou``.

        Args:
            inputs: Normalised images, shape (N, 3, H, W).
            data_samples: N samples with ``gt_sem_seg`` labels of shape (1, H, W), 255 where ignored.
        """
        logits = self.foreground_logits(inputs, [sample.metainfo for sample in data_samples])
        maps = [sample.gt_sem_seg.data for sample in data_samples]
        labels = (maps[0] if len(maps) == 1 else torch.cat(maps)).long()
        losses = decode_losses(self.loss_decode, logits, labels, has_background=False)
        losses['train_iou'] = foreground_iou(logits.detach(), labels, self.threshold)
        return losses

    def train_step(self, data: dict, optim_wrapper: OptimWrapper) -> dict[str, Tensor]:
        """As MMEngine's, after :meth:`check_optim_wrapper`."""
        self.check_optim_wrapper(optim_wrapper)
        return super().train_step(data, optim_wrapper)

    def check_optim_wrapper(self, optim_wrapper: OptimWrapper) -> None:
        """Refuse to train float16 weights without a gradient scaler.

        The Dice loss spreads its gradient over all pixels; at a photograph's size that of one is below what float16
        can hold, and what trained would be the rounding of it.

        Raises:
            PrecisionError: ``dtype`` is 'float16', and ``optim_wrapper`` scales no gradients.
        """
        scaler = getattr(optim_wrapper, 'loss_scaler', None)
        # loss_scale=1.0 is a scaler that scales nothing.
        fixed = getattr(optim_wrapper, '_scale_update_param', None)
        scales = scaler is not None and scaler.is_enabled() and (fixed is None or fixed > 1)
        scales = scales or isinstance(optim_wrapper, ApexOptimWrapper)
        if self.dtype is torch.float16 and not scales:
            raise PrecisionError(
                f"dtype='float16' trains on rounding noise under {type(optim_wrapper).__name__}, which does not scale "
                'gradients. On a GPU: --cfg-options model.dtype=float16 optim_wrapper.type=AmpOptimWrapper '
                'optim_wrapper.dtype=float16 optim_wrapper.loss_scale=dynamic; elsewhere, or on Ampere and newer: '
                '--cfg-options model.dtype=bfloat16, which needs no scaler.'
            )

    def test_step(self, data: dict) -> SampleList:
        """Predict a batch from the dataloader, whose images may differ in size; those of one size share a forward."""
        by_size: dict[torch.Size, list[int]] = {}
        for index, image in enumerate(data['inputs']):
            by_size.setdefault(image.shape, []).append(index)
        if len(by_size) == 1:
            return self._predict_one_size(data)
        predicted: dict[int, SegDataSample] = {}
        for indices in by_size.values():
            part = {key: [values[i] for i in indices] for key, values in data.items() if values is not None}
            predicted |= zip(indices, self._predict_one_size(part), strict=True)
        return [predicted[index] for index in range(len(predicted))]

    def _predict_one_size(self, data: dict) -> SampleList:
        """In slide mode, 8-bit images are normalised window by window.

        Normalised whole, they would take 12 bytes a pixel and as much again for each step there.
        """
        preprocessor = self.data_preprocessor
        images = data['inputs']
        is_raw = all(image.dtype == torch.uint8 for image in images)
        if self.test_cfg.mode != 'slide' or not is_raw or getattr(preprocessor, 'test_cfg', None):
            return super().test_step(data)
        data = preprocessor.cast_data(data)
        images = data['inputs']
        stacked = images[0][None] if len(images) == 1 else torch.stack(list(images))
        return self.predict(stacked, data.get('data_samples'))

    def val_step(self, data: dict) -> SampleList:
        """As :meth:`test_step`."""
        return self.test_step(data)

    def slide_inference(self, inputs: Tensor, batch_img_metas: list[dict]) -> Tensor:
        """Segment overlapping windows of ``test_cfg`` and blend their logits, see :mod:`~crack_plugin.models.sliding`.

        Args:
            inputs: Normalised images, or 8-bit ones that the preprocessor has not seen, shape (N, 3, H, W).
            batch_img_metas: Not used: all of an image is segmented.

        Returns:
            Logits, shape (N, K + 1, H, W), fp32; channel 0 (background) is 0.
        """
        cfg = self.test_cfg
        count, _, height, width = inputs.shape
        logits = inputs.new_zeros((count, self.out_channels, height, width), dtype=torch.float32)
        sliding.blend_windows(
            inputs,
            self._segment_windows,
            logits[:, 1:],
            cfg.crop_size,
            cfg.stride,
            cfg.get('batch', sliding.DEFAULT_BATCH),
            self.window_progress,
        )
        return logits

    def _segment_windows(self, windows: Tensor) -> Tensor:
        """Foreground logits (B, K, h, w) of windows (B, 3, h, w), which are normalised here if they are 8-bit."""
        if windows.dtype == torch.uint8:
            windows = self.data_preprocessor({'inputs': list(windows)}, training=False)['inputs']
        return self.encode_decode(windows, [{}] * len(windows))[:, 1:]

    def postprocess_result(self, seg_logits: Tensor, data_samples: OptSampleList = None) -> SampleList:
        """As MMSeg's, with ``pred_sem_seg`` cut at ``threshold`` instead of by argmax, and without copies.

        Args:
            seg_logits: Shape (N, K + 1, H, W).
            data_samples: N samples to fill; None for new ones.

        Returns:
            Samples with ``seg_logits`` of shape (K + 1, H, W), without padding, unflipped and at ``ori_shape``, and
            with labels in ``pred_sem_seg``, shape (1, H, W), int64.
        """
        samples = data_samples if data_samples is not None else [SegDataSample() for _ in seg_logits]
        for logits, sample in zip(seg_logits, samples, strict=True):
            restored = _restore(logits, sample.metainfo)
            labels = threshold_labels(restored[None], self.threshold)
            sample.set_data({'seg_logits': PixelData(data=restored), 'pred_sem_seg': PixelData(data=labels)})
        return samples

    def _forward(self, inputs: Tensor, data_samples: OptSampleList = None) -> Tensor:
        metas = [{}] * len(inputs) if data_samples is None else [sample.metainfo for sample in data_samples]
        return self.encode_decode(inputs, metas)

    def save_adapter(self, folder: str | Path) -> None:
        """Write a PEFT adapter folder, for ``PeftModel.from_pretrained(Sam3Model.from_pretrained(base), folder)``.

        Raises:
            ValueError: The model has no adapters.
        """
        name, revision = self._base_source
        adapters.save(self._require_adapters(), folder, name, self.base_hash, revision)

    @property
    def prefix_bytes(self) -> int:
        """Bytes of one picture in a prefix cache; 0 if there is no frozen ViT layer whose output could be kept."""
        return 2 * math.prod(sam3_semantic.prefix_shape(self.model)) if self._frozen_depth else 0

    def cache_prefix(self, folder: str | Path, limit: int) -> PrefixCache:
        """Keep on disk, from now on, what the frozen layers at the bottom of the ViT make of each picture.

        It is kept in bfloat16: exact under ``dtype='bfloat16'``, otherwise rounded to that.

        Args:
            folder: Where to.
            limit: How many pictures there are; more than these are an error.

        Raises:
            ValueError: The ViT's first layer trains, or something before it; or images are segmented in windows.
        """
        if self.test_cfg.mode == 'slide':
            raise ValueError(
                "the prefix cache is for whole images: with test_cfg.mode='slide' every window is a picture of its own."
            )
        if not self._frozen_depth:
            raise ValueError(
                'every layer of the ViT trains, so there is nothing to cache. Adapt the last layers alone, by a '
                'lora.target_modules like that of configs/sam3_lora_crack_last8.py.'
            )
        prefix_hash = sam3_semantic.prefix_hash(self.model, self._frozen_depth)
        self._prefix_cache = PrefixCache(folder, prefix_hash, limit)
        return self._prefix_cache

    def close_prefix_cache(self) -> None:
        """Compute everything anew from now on."""
        self._prefix_cache = None

    def merge_adapter(self) -> None:
        """Fold LoRA into the weights, in place. The model predicts the same, trains no more, and saves no adapters.

        That is done on the CPU, wherever the model is: with ``dtype`` it takes the whole base in fp32, for which there
        may be no room on a GPU.

        Raises:
            ValueError: The model has no adapters.
        """
        adapted = self._require_adapters()
        device = self.prompt_ids.device
        self.cpu()
        # A merged model drops what it has no more use for, such as an adapted text encoder. If all weights were
        # trained, it keeps everything, and is itself what can be saved.
        self._merged = adapters.snapshot(adapted) if self.trainable == 'lora' else None
        if self.dtype is None:
            self.sam3 = adapters.merge(adapted)
        elif self._merged is not None:
            # Adding to rounded weights would round twice: start from the base as it was stored.
            whole, _ = sam3_semantic.load_base(self.base, self.image_size)
            self.sam3 = adapters.graft(self._merged, whole)
        self.sam3.requires_grad_(False)
        self.close_prefix_cache()
        self._prepare()
        self.sam3.requires_grad_(False)
        self.to(device)

    def save_pretrained(self, folder: str | Path) -> None:
        """Write a whole Hugging Face SAM 3 with its processor, adapters merged and dropped modules taken from the base.

        The folder is written under a temporary name and moved.

        Raises:
            FileExistsError: ``folder`` exists and is not empty.
        """
        folder = Path(folder)
        if folder.is_dir() and any(folder.iterdir()):
            raise FileExistsError(f'{folder} is not empty. Remove it, or save under another name.')
        whole, tokenizer = sam3_semantic.load_base(self.base, self.image_size)
        # Of frozen weights the stored base is the truth; ours may be a rounding of it (dtype).
        if self.trainable == 'all':
            whole.load_state_dict({**whole.state_dict(), **adapters.base_weights(self.sam3)})
        adapter = adapters.snapshot(self.sam3) if adapters.is_adapted(self.sam3) else self._merged
        if adapter is not None:
            whole = adapters.graft(adapter, whole)
        folder.parent.mkdir(parents=True, exist_ok=True)
        scratch = tempfile.mkdtemp(dir=folder.parent, prefix=f'.{folder.name}-')
        try:
            sam3_semantic.save_base(whole, tokenizer, scratch, self.data_preprocessor)
            honour_umask(scratch)
            Path(scratch).replace(folder)
        finally:
            shutil.rmtree(scratch, ignore_errors=True)

    def _load_from_state_dict(self, state_dict: dict, prefix: str, local_metadata: dict, *args: Any) -> None:
        # With trainable='all' the checkpoint brings every weight of the path itself.
        if self.trainable == 'lora':
            adapters.check_base(local_metadata.get(adapters.BASE_HASH), self.base_hash, 'the checkpoint')
        # mmengine would only log a weight of another shape, and go on without it.
        for name, own in self.state_dict().items():
            given = state_dict.get(prefix + name)
            if given is not None and given.shape != own.shape:
                raise adapters.AdapterError(
                    f'the checkpoint does not fit the model: {name} has shape {tuple(given.shape)}, the model wants '
                    f'{tuple(own.shape)}. Use the config it was trained with.'
                )
        super()._load_from_state_dict(state_dict, prefix, local_metadata, *args)

    def _with_adapters(self, sam3: Any, lora: dict | None, adapter: str | None) -> Any:
        sam3.requires_grad_(False)
        if adapter is not None:
            return adapters.inject_from(sam3, adapter, lora, self.base_hash)
        return adapters.inject(sam3, lora) if lora is not None else sam3

    def _prepare(self) -> None:
        """Make the model at hand the one that was asked for: no more modules, gradients and bytes than needed."""
        self._drop_unused()
        self._set_trainable()
        # Before the precision is lowered, and before anything is compiled: the text encoder is dropped then.
        self._encode_frozen_prompts()
        self._lower_precision()
        sam3_semantic.share_rotary_embeddings(self.model)
        sam3_semantic.checkpoint_activations(self.model, self._checkpointed_parts)
        self._compile_path()
        self._frozen_keys = self._untrained_keys()
        self._frozen_depth = sam3_semantic.frozen_depth(self.model)

    def _compile_path(self) -> None:
        self._compiled: dict[str, Callable[..., Tensor]] = {}
        if self._compile_options is None:
            return
        options = {name: value for name, value in self._compile_options.items() if name != 'target'}
        if self._compile_options['target'] == 'blocks':
            sam3_semantic.compile_blocks(self.model, **options)
        else:
            self._compiled = sam3_semantic.compile_path(**options)

    def _encode_prefix(self, images: Tensor) -> Tensor:
        """Patches and frozen layers at the bottom of the ViT, through which no gradient has to go back."""
        encode = partial(self._run(sam3_semantic.encode_prefix), self.model, depth=self._frozen_depth)
        if self._prefix_cache is None:
            return encode(images)
        return self._prefix_cache(images, encode).to(self.model.vision_encoder.backbone.dtype)

    def _run(self, function: Callable[..., Tensor]) -> Callable[..., Tensor]:
        """``function`` of the semantic path, compiled if that was asked for."""
        return self._compiled.get(function.__name__, function)

    def _drop_unused(self) -> None:
        """Free what the semantic path does not need; what carries an adapter stays, to be saved with the others."""
        self._unused = sam3_semantic.unused_modules(self.model)
        idle = [name for name in self._unused if not adapters.has_adapter(self.model.get_submodule(name))]
        sam3_semantic.drop_modules(self.model, idle)

    def _set_trainable(self) -> None:
        """Decide what requires a gradient; an adapter without a path to the output would only trip up DDP."""
        if self.trainable == 'all':
            self.model.requires_grad_(True)
        self._adapter_keys = {f'sam3.{name}' for name, parameter in self.sam3.named_parameters() if 'lora_' in name}
        for name in self._unused:
            self.model.get_submodule(name).requires_grad_(False)

    def _lower_precision(self) -> None:
        """Cast what is frozen. Parameters only: the rotary positions are buffers, and useless in low precision."""
        if self.dtype is None:
            return
        for name, parameter in self.sam3.named_parameters():
            if f'sam3.{name}' not in self._adapter_keys:
                parameter.data = parameter.data.to(self.dtype)
        adapters.follow_input_precision(self.sam3)

    def _encode_frozen_prompts(self) -> None:
        """Encode the prompts once and free the text encoder, if nothing of it trains."""
        text = (self.model.text_encoder, self.model.text_projection)
        trains = self.trainable == 'all' or any(adapters.has_adapter(module) for module in text)
        # After a merge of adapters elsewhere the prompts are encoded already.
        done = isinstance(self.model.text_encoder, nn.Identity)
        # A model on the meta device, built to be counted, has no values to encode.
        if trains or done or self.prompt_ids.is_meta:
            return
        with torch.no_grad():
            features = sam3_semantic.encode_prompts(self.model, self.prompt_ids, self.prompt_mask)
        self.prompt_features = features.to(self.dtype)
        sam3_semantic.drop_modules(self.model, ['text_encoder', 'text_projection'])

    def _encode_prompts(self) -> Tensor:
        if self.prompt_features is not None:
            return self.prompt_features
        return self._run(sam3_semantic.encode_prompts)(self.model, self.prompt_ids, self.prompt_mask)

    def _stretch(self, images: Tensor, regions: list[tuple[int, int]]) -> Tensor:
        """Resize regions (from the top left) of images (N, 3, H, W) to the model's square, (N, 3, S, S)."""
        size = (self.image_size, self.image_size)
        if len(set(regions)) == 1:
            height, width = regions[0]
            return _resize(images[..., :height, :width], size)
        return torch.cat([_resize(image[None, :, :h, :w], size) for image, (h, w) in zip(images, regions, strict=True)])

    def _untrained_keys(self) -> set[str]:
        """Names of base weights that a checkpoint leaves out; fixed for good, whatever EMA does to requires_grad."""
        names = {f'sam3.{name}' for name in self.sam3.state_dict()}
        if self.trainable == 'lora':
            return names - self._adapter_keys
        unused = tuple(f'{name}.' for name in self._unused)
        prefix = 'sam3.base_model.model.' if adapters.is_adapted(self.sam3) else 'sam3.'
        return {name for name in names - self._adapter_keys if name.removeprefix(prefix).startswith(unused)}

    def _require_adapters(self) -> Any:
        if not adapters.is_adapted(self.sam3):
            raise ValueError('the model has no adapters: it was built with lora=None, or they were merged already.')
        return self.sam3

    def _log_parameters(self) -> None:
        total = sum(parameter.numel() for parameter in self.parameters())
        training = sum(parameter.numel() for parameter in self.parameters() if parameter.requires_grad)
        adapter = sum(p.numel() for name, p in self.named_parameters() if name in self._adapter_keys)
        line = f'SAM3TextLoRA: {total:,} parameters, {adapter:,} of them adapters, {training:,} train'
        if self.trainable == 'lora' and adapter > training:
            line += f'; {adapter - training:,} adapter parameters have no path to the output and are held fixed'
        print_log(line, logger='current')


@MODELS.register_module()
class SAM3TTAModel(SegTTAModel):
    """Test-time augmentation that keeps what it merged: ``seg_logits`` is the log of the mean probabilities.

    MMSeg's own leaves the last augmentation's logits in the sample, knows no ``threshold``, and keeps the logits of all
    augmentations until the last is done; here each is added to the mean and dropped.
    """

    def test_step(self, data: dict) -> SampleList:
        """Predict and merge.

        Args:
            data: Lists over augmentations, as ``TestTimeAug`` and mmengine's collating make them.

        Returns:
            One sample per image.
        """
        count = len(next(iter(data.values())))
        batches = ({key: value[i] for key, value in data.items()} for i in range(count))
        return self._merge(self.module.test_step(batch) for batch in batches)

    def merge_preds(self, data_samples_list: list[SampleList]) -> SampleList:
        """Merge the augmentations of each image; their logits are overwritten.

        Args:
            data_samples_list: One list of predictions per image, (K + 1, H, W) logits in each.

        Returns:
            One sample per image.
        """
        return self._merge(zip(*data_samples_list, strict=True))

    def _merge(self, augmentations: Iterable[Sequence[SegDataSample]]) -> SampleList:
        """Into the samples of the first augmentation."""
        merged: SampleList = []
        count = 0
        for samples in augmentations:
            _add_probabilities(merged, samples)
            count += 1
            # Or they would live on while the next augmentation is predicted.
            del samples
        for sample in merged:
            probabilities = sample.seg_logits.data.div_(count)
            logits = probabilities.clamp_min_(torch.finfo(probabilities.dtype).tiny).log_()
            labels = threshold_labels(logits[None], self.module.threshold)
            sample.set_data({'pred_sem_seg': PixelData(data=labels)})
        return merged


def threshold_labels(seg_logits: Tensor, threshold: float) -> Tensor:
    """Label maps from logits: the best foreground class where 1 - p(background) > threshold, background elsewhere.

    Args:
        seg_logits: Shape (N, K + 1, H, W), channel 0 the background.
        threshold: In (0, 1).

    Returns:
        Labels, shape (N, H, W), int64.
    """
    count, _, height, width = seg_logits.shape
    labels = torch.empty((count, height, width), dtype=torch.int64, device=seg_logits.device)
    for rows in strips(height, count * width, seg_logits.device):
        strip = seg_logits[..., rows, :]
        labels[:, rows] = _labels(strip[:, 1:], strip[:, 0], threshold)
    return labels


def _labels(foreground: Tensor, background: Tensor | None, threshold: float) -> Tensor:
    """Labels from logits of the classes (N, K, H, W) and of the background (N, H, W), None for 0."""
    # 1 - p0 > t  <=>  logsumexp(foreground) - z0 > logit(t), which holds its precision where softmax saturates
    margin = foreground[:, 0] if foreground.shape[1] == 1 else foreground.logsumexp(dim=1)
    if background is not None:
        margin = margin - background
    chosen = margin > math.log(threshold / (1 - threshold))
    return chosen.long() if foreground.shape[1] == 1 else torch.where(chosen, foreground.argmax(dim=1) + 1, 0)


def foreground_iou(logits: Tensor, labels: Tensor, threshold: float) -> Tensor:
    """Mean IoU over images and foreground classes; 1 where both are empty. Ignored pixels are left out.

    Args:
        logits: Of the foreground classes, shape (N, K, H, W), beside a background of 0.
        labels: Ground truth, shape (N, H, W), 255 where ignored.
        threshold: As for :func:`threshold_labels`.
    """
    count, classes, height, width = logits.shape
    intersection, union = (torch.zeros(count, classes, dtype=torch.int64, device=logits.device) for _ in range(2))
    index = torch.arange(1, classes + 1, device=logits.device).view(1, -1, 1, 1)
    for rows in strips(height, count * classes * width, logits.device):
        truth = labels[:, None, rows]
        predicted = _labels(logits[..., rows, :], None, threshold)[:, None]
        actual, predicted = truth == index, (predicted == index) & (truth != IGNORE_INDEX)
        intersection += (predicted & actual).sum(dim=(2, 3))
        union += (predicted | actual).sum(dim=(2, 3))
    return ((intersection.float() + 1e-6) / (union.float() + 1e-6)).mean()


def _with_background(foreground: Tensor) -> Tensor:
    """A channel of zeros before the logits (N, K, H, W)."""
    return F.pad(foreground, (0, 0, 0, 0, 1, 0))


def _resize(images: Tensor, size: tuple[int, int]) -> Tensor:
    """Bilinear; antialiased, which matters only along an axis that shrinks (as SAM 3's processor does)."""
    if tuple(images.shape[-2:]) == size:
        return images
    return F.interpolate(images, size=size, mode='bilinear', align_corners=False, antialias=True)


def _unstretch(logits: Tensor, regions: list[tuple[int, int]], canvas: tuple[int, int]) -> Tensor:
    """Bilinear from the model's square back to each region, on a (H, W) canvas that is 0 where padded."""
    if set(regions) == {canvas}:
        return F.interpolate(logits, size=canvas, mode='bilinear', align_corners=False)
    placed = logits.new_zeros(*logits.shape[:2], *canvas)
    for index, (height, width) in enumerate(regions):
        region = F.interpolate(logits[index, None], size=(height, width), mode='bilinear', align_corners=False)
        placed[index, :, :height, :width] = region[0]
    return placed


def _add_probabilities(totals: SampleList, samples: Sequence[SegDataSample]) -> None:
    """Turn the logits of samples into probabilities, and add them to those in ``totals``, which may be empty."""
    for sample in samples:
        _softmax_(sample.seg_logits.data)
        sample.pop('pred_sem_seg', None)
    if not totals:
        totals += samples
        return
    for total, sample in zip(totals, samples, strict=True):
        total.seg_logits.data.add_(sample.seg_logits.data)


def _softmax_(logits: Tensor) -> None:
    """Softmax over the channels of logits (K + 1, H, W), in place."""
    for rows in strips(logits.shape[1], logits.shape[2], logits.device):
        logits[:, rows] = logits[:, rows].softmax(dim=0)


def _restore(logits: Tensor, meta: dict) -> Tensor:
    """Logits (K + 1, H, W) of an image as its file has it: without padding, not flipped, (K + 1, *ori_shape)."""
    left, right, top, bottom = meta.get('img_padding_size', meta.get('padding_size', (0, 0, 0, 0)))
    logits = logits[:, top : logits.shape[1] - bottom, left : logits.shape[2] - right]
    if meta.get('flip'):
        logits = logits.flip({'horizontal': (2,), 'vertical': (1,), 'diagonal': (1, 2)}[meta['flip_direction']])
    size = tuple(meta.get('ori_shape', logits.shape[1:])[:2])
    if tuple(logits.shape[1:]) == size:
        return logits
    return F.interpolate(logits[None], size=size, mode='bilinear', align_corners=False)[0]


def _whole(images: Tensor) -> tuple[int, int]:
    return images.shape[-2], images.shape[-1]


def _region(images: Tensor, meta: dict) -> tuple[int, int]:
    height, width = _whole(images)
    # In slide mode MMSeg hands windows with the whole image's shape.
    own_height, own_width = meta.get('img_shape', (height, width))[:2]
    return min(height, own_height), min(width, own_width)


def _keep_trained_weights(module: SAM3TextLoRA, state_dict: dict, prefix: str, local_metadata: dict) -> None:
    for key in module._frozen_keys:
        state_dict.pop(prefix + key, None)
    local_metadata[adapters.BASE_HASH] = module.base_hash


def _refuse_partial_load(module: SAM3TextLoRA, incompatible_keys: Any) -> None:
    """Forgive the base weights that a checkpoint leaves out, and nothing else, whatever ``strict`` says."""
    missing, unexpected = incompatible_keys.missing_keys, incompatible_keys.unexpected_keys
    # Wrappers (EMA, TTA) put prefixes of their own before 'sam3.'
    missing[:] = [key for key in missing if key[key.find('sam3.') :] not in module._frozen_keys]
    if missing or unexpected:
        raise adapters.AdapterError(
            f'the checkpoint does not fit the model: {len(missing)} weights are missing {missing[:3]}, '
            f'{len(unexpected)} are not in the model {unexpected[:3]}. Use the config it was trained with (lora, '
            'trainable and prompts decide which weights there are).'
        )


def _check_arguments(prompts: Sequence[str], trainable: str, threshold: float, dtype: str | None) -> None:
    if isinstance(prompts, str) or not prompts or not all(isinstance(p, str) and p.strip() for p in prompts):
        raise ValueError(f"prompts={prompts!r}: give a list of texts, one per foreground class, such as ['crack'].")
    if trainable not in ('lora', 'all'):
        raise ValueError(f"trainable={trainable!r}: choose 'lora' or 'all'.")
    if dtype not in (None, *PRECISIONS):
        raise ValueError(f'dtype={dtype!r}: choose None, {" or ".join(map(repr, PRECISIONS))}.')
    if dtype is not None and trainable == 'all':
        raise ValueError(f"dtype={dtype!r} is the precision of frozen weights, and trainable='all' freezes none.")
    if not 0 < threshold < 1:
        raise ValueError(f'threshold={threshold!r}: a probability between 0 and 1 is wanted.')


def _checkpointed_parts(activation_checkpointing: bool | Sequence[str]) -> tuple[str, ...]:
    if isinstance(activation_checkpointing, bool):
        return sam3_semantic.PARTS if activation_checkpointing else ()
    parts = tuple(activation_checkpointing)
    unknown = [part for part in parts if part not in sam3_semantic.PARTS]
    if unknown or isinstance(activation_checkpointing, str):
        raise ValueError(
            f'activation_checkpointing={activation_checkpointing!r}: choose True, False, or a list of '
            f'{", ".join(map(repr, sam3_semantic.PARTS))}.'
        )
    return parts


def _compile_options(compile: bool | dict[str, Any]) -> dict[str, Any] | None:
    if compile is False:
        return None
    if compile is not True and not isinstance(compile, dict):
        raise ValueError(f"compile={compile!r}: give True, False, or options such as dict(target='blocks').")
    options = {'target': 'path', 'fullgraph': True, 'dynamic': False}
    if compile is not True:
        options |= compile
    if options['target'] not in ('path', 'blocks'):
        raise ValueError(f"compile: target={options['target']!r}: choose 'path' or 'blocks'.")
    return options


def _check_unused(**arguments: Any) -> None:
    given = [name for name, value in arguments.items() if value is not None]
    if given:
        raise ValueError(f'{", ".join(given)}: SAM3TextLoRA takes its weights from base and adapter. Remove it.')
