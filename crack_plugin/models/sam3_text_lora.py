"""SAM 3, conditioned on a text prompt and fine-tuned by LoRA, as an MMSegmentation segmentor."""

import math
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import torch
from mmengine.config import ConfigDict
from mmengine.logging import print_log
from mmengine.optim import OptimWrapper
from mmseg.models.segmentors.base import BaseSegmentor
from mmseg.registry import MODELS
from mmseg.utils import OptSampleList, SampleList
from torch import Tensor

from crack_plugin.losses import build_losses, decode_losses
from crack_plugin.models import adapters, arguments, logits, precision, semantic_path, trained_weights
from crack_plugin.models.adapter_precision import lower_precision
from crack_plugin.models.adapter_weights import base_weights, weight_keys
from crack_plugin.models.base import PREPROCESSOR, load_base, refuse_full_folder, save_base, shared_base_hash
from crack_plugin.models.base_files import split_revision
from crack_plugin.models.detail_head import correction_of_raw, corrections, head_file, load_head
from crack_plugin.models.enlarged import Enlarged
from crack_plugin.models.foreground_segmentor import ForegroundSegmentor
from crack_plugin.models.lora_config import REFERENCE_LORA, AdapterError
from crack_plugin.models.prefix_cache import PrefixCache, PrefixCacheError, open_cache
from crack_plugin.models.tokenizer import tokenize
from crack_plugin.models.tuned_threshold import forget_tuned_threshold


@MODELS.register_module()
class SAM3TextLoRA(ForegroundSegmentor):
    """Segment what text prompts name, with SAM 3's semantic output and LoRA adapters.

    An ordinary (K + 1)-class segmentor: channel 0 of ``seg_logits`` is the background and always 0, channel k is SAM
    3's semantic logit for prompt k. Softmax over [0, z] is sigmoid(z), so stock losses, metrics and visualizers apply.

    Args:
        base: Hub id (``name@revision`` for a branch, tag or commit), local folder, or overrides of ``Sam3Config`` (and
            ``seed``, ``model_type``) for a random model.
        prompts: One text prompt per foreground class, in the order of the dataset's classes.
        negative_prompts: Texts for what looks like a class and is none of them, such as 'shadow'. In each training step
            the model is asked for one of them as well, drawn at random, and learns to mark nothing
            (``loss_negative``). They have no part in predictions.
        data_preprocessor: Defaults to SAM 3's own normalisation.
        lora: Arguments of ``peft.LoraConfig``; None for no adapters (zero-shot). ``modules_to_save`` and ``bias`` train
            weights of the base beside the adapters; both are saved with them.
        adapter: PEFT adapter to start from, ours or plain PEFT's: a folder, or a hub id (``name@revision`` likewise).
        trainable: 'lora' trains the adapters, 'all' every weight of the semantic path.
        image_size: Side in pixels of the square that images are stretched to; None for the base's own (1008).
        detail_head: Arguments of :class:`~crack_plugin.models.detail_head.DetailHead`, which corrects the logits at the
            image's resolution and trains with the adapters; ``dict()`` for its defaults, None for SAM 3's own logits.
            ``weights`` names a ``detail_head.safetensors`` to start from; without, it starts as no correction at all.
        dtype: Precision of the frozen weights: None for the checkpoint's, 'bfloat16' or 'float16'. Adapters and
            rotary positions stay in fp32.
        activation_checkpointing: Compute activations again in the backward pass instead of keeping them: less memory,
            more time, the same gradients. A list names the parts to do so in: 'vit' (saves most memory, costs most
            time), 'text_encoder', 'neck', 'detr_encoder', 'mask_decoder', 'detail_head'.
        compile: True compiles the semantic path, once for every shape of its input. A dict holds options of
            ``torch.compile`` and, as mmengine's ``compile`` does, a ``target``: 'path' (the default) or 'blocks', which
            compiles block by block, in less time and with less speed-up.
        loss_decode: One MMSeg loss or a list, applied to (N, K + 1, H, W) logits and (N, H, W) labels.
        threshold: A pixel is foreground where 1 - p(background) exceeds it. Acts on ``pred_sem_seg`` alone. None: what
            the checkpoint was tuned to, or 0.5.
        test_cfg: ``dict(mode='whole')`` or ``dict(mode='slide', crop_size=(h, w), stride=(h, w), batch=4)``, ``batch``
            being the number of windows in one forward. In the latter ``scales=(1, 1.5)`` averages logits of each window
            and of windows two thirds as long, which take five times the forwards.
        pretrained, train_cfg, init_cfg: None; ``mmseg.apis.init_model`` sets them on every model.

    Raises:
        ConfigError: An argument is out of its range.
        AdapterError: An adapter, or ``lora``, does not fit.
        BaseModelError: The base cannot be loaded.
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
        threshold: float | None = None,
        test_cfg: dict | None = None,
        detail_head: dict[str, Any] | None = None,
        negative_prompts: Sequence[str] = (),
        pretrained: None = None,
        train_cfg: None = None,
        init_cfg: None = None,
    ) -> None:
        arguments.check_arguments(prompts, trainable, threshold, dtype)
        arguments.check_negative_prompts(negative_prompts, prompts)
        arguments.check_unset(pretrained=pretrained, train_cfg=train_cfg, init_cfg=init_cfg)
        # Built here, because BaseModel would look in mmengine's registry unless a default scope is set.
        BaseSegmentor.__init__(self, data_preprocessor=MODELS.build(dict(data_preprocessor or PREPROCESSOR)))
        self.base = base.to_dict() if isinstance(base, ConfigDict) else base
        self.prompts, self.negative_prompts = list(prompts), list(negative_prompts)
        self.trainable = trainable
        self.dtype = None if dtype is None else precision.PRECISIONS[dtype]
        self.train_cfg = None
        self.test_cfg = ConfigDict(test_cfg or {'mode': 'whole'})
        if self.test_cfg.get('mode') == 'slide':
            arguments.check_sliding(self.test_cfg)
        self.window_progress = iter
        self.num_classes = self.out_channels = len(prompts) + 1
        self.align_corners = False
        self.loss_decode = build_losses(loss_decode, self.num_classes)

        sam3, tokenizer = load_base(self.base, image_size)
        self.image_size = semantic_path.input_size(sam3)
        # Here, because the folder may have been removed when an adapter is saved.
        self._base_source = (None, None) if isinstance(self.base, dict) else split_revision(self.base)
        self.base_hash = shared_base_hash(sam3)
        self.sam3 = adapters.adapted(sam3, lora, adapter, self.base_hash)
        self._checkpointed_parts = arguments.checkpointed_parts(activation_checkpointing)
        self._compile_options = arguments.compile_options(compile)
        self._prefix_cache: PrefixCache | None = None
        self._frozen_depth = 0
        self._merged: adapters.Snapshot | None = None
        # Those of the classes first.
        input_ids, prompt_mask = tokenize(tokenizer, self.prompts + self.negative_prompts)
        self.register_buffer('prompt_ids', input_ids, persistent=False)
        self.register_buffer('prompt_mask', prompt_mask.bool(), persistent=False)
        self.register_buffer('prompt_features', None, persistent=False)
        self._configure_path()
        self.detail_head = arguments.build_detail_head(
            detail_head, semantic_path.embedding_channels(self.model), self.base_hash
        )
        if self.detail_head is not None:
            self.detail_head.recompute = 'detail_head' in self._checkpointed_parts
        if adapter is not None:
            load_head(self.detail_head, adapters.fetch(adapter), self.base_hash)
        trained_weights.register(self, threshold)
        trained_weights.log_parameters(self, self._adapter_keys)

    @property
    def model(self) -> Any:
        """The Hugging Face ``Sam3Model``, adapters in place."""
        return adapters.base_model(self.sam3)

    def init_weights(self) -> None:
        """Do nothing: mmengine's recursion would call Hugging Face's initialisation, and randomise the adapters."""

    def train(self, mode: bool = True) -> 'SAM3TextLoRA':
        """Set the mode of what trains; the frozen base stays in evaluation mode, which keeps its dropouts off."""
        super().train(mode)
        if self.trainable == 'lora':
            self.sam3.eval()
            adapters.set_training(self.sam3, mode)
        semantic_path.hold_statistics(self.model)
        # A caller may have frozen or unfrozen layers in between.
        depth = semantic_path.frozen_depth(self.model)
        if depth != self._frozen_depth and self._prefix_cache is not None:
            raise PrefixCacheError(
                f'{depth} layers are frozen now, and the prefix cache holds the output of the first '
                f'{self._frozen_depth} of the ViT. Call close_prefix_cache() before changing what trains.'
            )
        self._frozen_depth = depth
        return self

    def extract_feat(self, inputs: Tensor) -> list[Tensor]:
        """Feature pyramid of images (N, 3, H, W), fine to coarse; see :func:`semantic_path.encode_images`."""
        regions = [logits.image_region(inputs, {})] * len(inputs)
        hidden = self._encode_prefix(logits.resize_to_square(inputs, regions, self.image_size))
        return semantic_path.encode_images(self.model, hidden, self._frozen_depth)[0]

    def encode_decode(self, inputs: Tensor, batch_img_metas: list[dict]) -> Tensor:
        """Segment normalised images of any size.

        Each image's own region (``img_shape``, the rest is padding) is resized to the model's square, and its logits
        back, so that no result depends on the other images of the batch.

        Args:
            inputs: Normalised images, shape (N, 3, H, W).
            batch_img_metas: N dicts, ``img_shape`` in each.

        Returns:
            Logits, shape (N, K + 1, H, W), fp32; channel 0 (background) is 0.
        """
        return logits.add_background(self.foreground_logits(inputs, batch_img_metas))

    def foreground_logits(self, inputs: Tensor, batch_img_metas: list[dict], negative: int | None = None) -> Tensor:
        """As :meth:`encode_decode`, without the background.

        Args:
            inputs, batch_img_metas: As for :meth:`encode_decode`.
            negative: Index of a negative prompt, whose logits follow those of the classes.

        Returns:
            Shape (N, K, H, W), or (N, K + 1, H, W) with a negative prompt.
        """
        regions = [logits.image_region(inputs, meta) for meta in batch_img_metas]
        size = (inputs.shape[-2], inputs.shape[-1])
        coarse, embeddings = self._coarse_logits(logits.resize_to_square(inputs, regions, self.image_size), negative)
        resized = logits.resize_from_square(coarse, regions, size)
        if self.detail_head is None or embeddings is None:
            return resized
        return resized.add_(corrections(self.detail_head, inputs, regions, self.image_size, embeddings, coarse))

    def _coarse_logits(self, squares: Tensor, negative: int | None = None) -> tuple[Tensor, Tensor | None]:
        """Logits (N, K, h, w), fp32, and the embeddings (N * K, C, h, w) for a detail head, if there is one."""
        path = (self.model, self._encode_prefix(squares), self._frozen_depth, *self._encode_prompts(negative))
        if self.detail_head is None:
            return self._compiled_or_plain(semantic_path.semantic_logits)(*path).float(), None
        coarse, embeddings = self._compiled_or_plain(semantic_path.semantic_features)(*path)
        return coarse.float(), embeddings

    def segment_images(self, images: Sequence[Tensor], metas: Sequence[dict]) -> Iterator[Tensor | Enlarged]:
        """Segment entire 8-bit images (3, H, W) of any sizes in one forward.

        Yields:
            Logits of each, shape (1, K + 1, H, W), as of :meth:`encode_decode`, or what they are enlarged from.
        """
        preprocessor, side = self.data_preprocessor, self.image_size
        if not logits.takes_raw(preprocessor, images, metas):
            yield from super().segment_images(images, metas)
            return
        squares = torch.cat([logits.resize_raw(image, preprocessor, (side, side)) for image in images])
        coarse, embeddings = self._coarse_logits(squares)
        count = len(self.prompts)
        for index, image in enumerate(images):
            maps = [coarse[index, None]]
            if self.detail_head is not None and embeddings is not None:
                own = embeddings[count * index : count * (index + 1)], coarse[index, None]
                square = squares[index, None]
                maps.append(correction_of_raw(self.detail_head, image, preprocessor, square, *own))
            yield Enlarged(maps, (image.shape[1], image.shape[2]))

    def loss(self, inputs: Tensor, data_samples: SampleList) -> dict[str, Tensor]:
        """Losses of a batch under their ``loss_name``, and ``train_iou``.

        Args:
            inputs: Normalised images, shape (N, 3, H, W).
            data_samples: N samples with ``gt_sem_seg`` labels of shape (1, H, W), 255 where ignored.
        """
        metas = [sample.metainfo for sample in data_samples]
        # torch's own generator, on the CPU: a device would have to be waited for.
        drawn = int(torch.randint(len(self.negative_prompts), ())) if self.negative_prompts else None
        found = self.foreground_logits(inputs, metas, drawn)
        foreground, unwanted = found[:, : len(self.prompts)], found[:, len(self.prompts) :]
        maps = [sample.gt_sem_seg.data for sample in data_samples]
        labels = (maps[0] if len(maps) == 1 else torch.cat(maps)).long()
        forget_tuned_threshold(self)
        losses = decode_losses(self.loss_decode, foreground, labels, has_background=False)
        if drawn is not None:
            losses['loss_negative'] = logits.empty_mask_loss(unwanted, labels)
        losses['train_iou'] = logits.foreground_iou(foreground.detach(), labels, self.threshold)
        return losses

    def train_step(self, data: dict, optim_wrapper: OptimWrapper) -> dict[str, Tensor]:
        """MMEngine's, after :meth:`check_optim_wrapper`."""
        self.check_optim_wrapper(optim_wrapper)
        return super().train_step(data, optim_wrapper)

    def check_optim_wrapper(self, optim_wrapper: OptimWrapper) -> None:
        """See :func:`~crack_plugin.models.precision.check_gradient_scaling`.

        Raises:
            PrecisionError: Weights are in float16, by ``dtype`` or as the base was saved, and ``optim_wrapper`` scales
                no gradients.
        """
        stored = {parameter.dtype for parameter in self.sam3.parameters()}
        dtype = torch.float16 if torch.float16 in stored else self.dtype
        precision.check_gradient_scaling(dtype, optim_wrapper)

    def _forward(self, inputs: Tensor, data_samples: OptSampleList = None) -> Tensor:
        metas = [{}] * len(inputs) if data_samples is None else [sample.metainfo for sample in data_samples]
        return self.encode_decode(inputs, metas)

    def save_adapter(self, folder: str | Path) -> None:
        """Write a PEFT adapter folder, for ``PeftModel.from_pretrained(Sam3Model.from_pretrained(base), folder)``.

        A detail head is written beside it, as ``detail_head.safetensors``.

        Raises:
            AdapterError: The model has no adapters, or the folder cannot be written.
        """
        name, revision = self._base_source
        head = head_file(self.detail_head, self.base_hash)
        adapters.save(self._require_adapters(), folder, name, self.base_hash, revision, head)

    @property
    def prefix_bytes(self) -> int:
        """Bytes of one picture in a prefix cache; 0 if no first layer of the ViT is frozen."""
        return 2 * math.prod(semantic_path.prefix_shape(self.model)) if self._frozen_depth else 0

    def cache_prefix(self, folder: str | Path, limit: int) -> PrefixCache:
        """Keep on disk, from now on, the output of the ViT's frozen first layers for each picture.

        It is kept in bfloat16: exact under ``dtype='bfloat16'``, otherwise rounded.

        Args:
            folder: Where to.
            limit: How many pictures there are; more are an error.

        Returns:
            The cache, which is in use.

        Raises:
            PrefixCacheError: The ViT's first layer trains, or something before it; or images are segmented in windows.
        """
        if self.test_cfg.mode == 'slide':
            raise PrefixCacheError(
                "the prefix cache is for whole images: with test_cfg.mode='slide' every window is a picture of its "
                "own. Set test_cfg.mode='whole', or remove PrefixCacheHook from the config."
            )
        self._prefix_cache = open_cache(self.model, self._frozen_depth, folder, limit)
        return self._prefix_cache

    def close_prefix_cache(self) -> None:
        """Neither read nor write the prefix cache from now on."""
        self._prefix_cache = None

    def merge_adapter(self) -> None:
        """Merge LoRA into the weights, in place.

        The model predicts the same as before, and can neither be trained nor save its adapters any more. It is merged
        on the CPU, wherever the model is: with ``dtype`` this needs the entire base in fp32, which a GPU may not hold.

        Raises:
            AdapterError: The model has no adapters, or a weight would become NaN or infinite.
        """
        adapted = self._require_adapters()
        device = self.prompt_ids.device
        self.cpu()
        # For save_pretrained: a merged model drops modules that are unused from then on, such as an adapted text
        # encoder. If all weights were trained, it keeps everything, and its own weights are saved.
        self._merged = adapters.snapshot(adapted) if self.trainable == 'lora' else None
        if self.dtype is None:
            self.sam3 = adapters.merge(adapted)
        elif self._merged is not None:
            # Adding to rounded weights would round twice: start from the base as it was stored.
            stored, _ = load_base(self.base, self.image_size)
            self.sam3 = adapters.merge_into(stored, self._merged)
        self.sam3.requires_grad_(False)
        self.close_prefix_cache()
        self._configure_path()
        self.sam3.requires_grad_(False)
        self.to(device)

    def save_pretrained(self, folder: str | Path) -> None:
        """Write a complete Hugging Face SAM 3 with its processor, adapters merged and dropped modules from the base.

        The folder is written under a temporary name and moved. It cannot hold a detail head, which is left out, with a
        warning: the folder predicts what SAM 3's own resolution shows.

        Raises:
            FolderNotEmptyError: ``folder`` exists and is not empty.
        """
        refuse_full_folder(Path(folder))
        complete, tokenizer = load_base(self.base, self.image_size)
        # Frozen weights are those of the stored base; the model's may be rounded (dtype).
        if self.trainable == 'all':
            complete.load_state_dict({**complete.state_dict(), **base_weights(self.sam3)})
        adapter = adapters.snapshot(self.sam3) if adapters.is_adapted(self.sam3) else self._merged
        if adapter is not None:
            complete = adapters.merge_into(complete, adapter, is_initial=self.trainable == 'lora')
        save_base(complete, tokenizer, folder, self.data_preprocessor)
        if self.detail_head is not None:
            print_log(
                f'{folder} holds SAM 3 with its adapters merged, without the detail head, which Sam3Model does not '
                'have: it predicts less than this model. Keep the adapter folder or the checkpoint for that.',
                logger='current',
                level=30,
            )

    def _configure_path(self) -> None:
        """Reduce the model to the modules, gradients, precision and computations that are needed."""
        self._drop_unused()
        self._set_trainable()
        # Before the precision is lowered, and before anything is compiled: the text encoder is dropped then.
        self._encode_frozen_prompts()
        if self.dtype is not None:
            lower_precision(self.sam3, self.dtype, {key.removeprefix('sam3.') for key in self._adapter_keys})
        semantic_path.share_rotary_embeddings(self.model)
        semantic_path.checkpoint_activations(self.model, [p for p in self._checkpointed_parts if p != 'detail_head'])
        self._compiled = semantic_path.compile_model(self.model, self._compile_options)
        self.untrained_keys = trained_weights.find_untrained(
            self.sam3, self.trainable, self._adapter_keys, self._unused
        )
        self._frozen_depth = semantic_path.frozen_depth(self.model)

    def _drop_unused(self) -> None:
        """Free what the semantic path does not need; what carries an adapter stays, to be saved with the others."""
        self._unused = semantic_path.unused_modules(self.model)
        without_adapter = [name for name in self._unused if not self._has_adapter(name)]
        semantic_path.drop_modules(self.model, without_adapter)

    def _set_trainable(self) -> None:
        """Decide what requires a gradient: not an adapter without a path to the output, which DDP would wait for."""
        if self.trainable == 'all':
            adapters.train_all(self.sam3)
        self._adapter_keys = {f'sam3.{name}' for name in weight_keys(self.sam3)}
        for name in self._unused:
            self.model.get_submodule(name).requires_grad_(False)

    def _encode_frozen_prompts(self) -> None:
        """Encode the prompts once and free the text encoder, if nothing of it trains."""
        trains = self.trainable == 'all' or any(map(self._has_adapter, semantic_path.TEXT_MODULES))
        # After a merge of adapters elsewhere the prompts are encoded already.
        done = not semantic_path.has_text_encoder(self.model)
        # A model on the meta device, built to be counted, has no values to encode.
        if trains or done or self.prompt_ids.is_meta:
            return
        with torch.no_grad():
            features = semantic_path.encode_prompts(self.model, self.prompt_ids, self.prompt_mask)
        self.prompt_features = features.to(self.dtype)
        semantic_path.drop_modules(self.model, semantic_path.TEXT_MODULES)

    def _has_adapter(self, module: str) -> bool:
        return adapters.has_adapter(self.model.get_submodule(module))

    def _compiled_or_plain(self, function: Callable[..., Any]) -> Callable[..., Any]:
        """``function`` of the semantic path, compiled if that was asked for."""
        return self._compiled.get(function.__name__, function)

    def _encode_prefix(self, images: Tensor) -> Tensor:
        """Patches and the ViT's frozen first layers, through which no gradient has to flow."""
        encode = partial(self._compiled_or_plain(semantic_path.encode_prefix), self.model, depth=self._frozen_depth)
        if self._prefix_cache is None:
            return encode(images)
        return self._prefix_cache(images, encode).to(semantic_path.prefix_dtype(self.model))

    def _encode_prompts(self, negative: int | None = None) -> tuple[Tensor, Tensor]:
        """Features and mask of the classes' prompts, and of a negative one after them."""
        count = len(self.prompts)

        def rows(of_all: Tensor) -> Tensor:
            own = of_all[:count]
            return own if negative is None else torch.cat([own, of_all[count + negative, None]])

        mask = rows(self.prompt_mask)
        if self.prompt_features is not None:
            return rows(self.prompt_features), mask
        encode = self._compiled_or_plain(semantic_path.encode_prompts)
        return encode(self.model, rows(self.prompt_ids), mask), mask

    def _require_adapters(self) -> Any:
        if not adapters.is_adapted(self.sam3):
            raise AdapterError('the model has no adapters: it was built with lora=None, or they were merged already.')
        return self.sam3
