"""Outputs of the frozen first layers of the ViT for each picture, kept on disk from one epoch to the next."""

import hashlib
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor

from crack_plugin.errors import CrackPluginError
from crack_plugin.files import write_atomically
from crack_plugin.models.base import base_hash
from crack_plugin.models.semantic_path import prefix_modules

HIDDEN = 'hidden'


class PrefixCacheError(CrackPluginError, ValueError):
    """A prefix cache cannot be used; the message names the folder or file and says what to do."""


class PrefixCache:
    """A folder with a file for each picture: hidden states in bfloat16.

    A picture is identified by its content, as the model sees it, so that nothing outdated is ever read: another size,
    crop or flip is another picture. Datasets and runs may share a folder.

    Args:
        folder: Where to keep the files; created if missing.
        prefix_hash: From :func:`prefix_hash`. Files of another hash are kept apart.
        limit: How many different pictures are expected.
    """

    def __init__(self, folder: str | Path, prefix_hash: str, limit: int) -> None:
        self.folder = Path(folder, prefix_hash[:16])
        self.folder.mkdir(parents=True, exist_ok=True)
        self.limit = limit
        self._seen: set[str] = set()

    def __len__(self) -> int:
        return sum(1 for _ in self.folder.glob('*.safetensors'))

    def __call__(self, images: Tensor, compute: Callable[[Tensor], Tensor]) -> Tensor:
        """Hidden states of a batch: read from files, computed and written where there is none.

        Args:
            images: What the model sees, shape (N, 3, S, S).
            compute: From images to hidden states, shape (N, s, s, C).

        Returns:
            Hidden states, shape (N, s, s, C), bfloat16, also the first time.

        Raises:
            PrefixCacheError: There are more pictures than expected, or a file is damaged or cannot be written.
        """
        paths = [self.folder / f'{_digest(image)}.safetensors' for image in images]
        self._count(paths)
        missing = [index for index, path in enumerate(paths) if not path.is_file()]
        if missing:
            # The entire batch: its shape is one that the model has been compiled for.
            hidden = compute(images).detach()
            for index in missing:
                _store(paths[index], hidden[index])
        # Autocast to float16 on a CPU refuses to stack bfloat16.
        with torch.autocast('cpu', enabled=False):
            return torch.stack([_load(path) for path in paths]).to(images.device)

    def _count(self, paths: list[Path]) -> None:
        self._seen.update(path.name for path in paths)
        if len(self._seen) > self.limit:
            raise PrefixCacheError(
                f'the pipeline has made {len(self._seen)} different pictures of {self.limit} images for the cache in '
                f'{self.folder}. Random transforms make new pictures every time, which no cache can hold: remove them '
                'from the pipeline, or PrefixCacheHook from the config.'
            )


def open_cache(model: Any, depth: int, folder: str | Path, limit: int) -> PrefixCache:
    """Open the cache of a model.

    Args:
        model: SAM 3.
        depth: How many of the ViT's first layers are frozen.
        folder: Where to.
        limit: How many different pictures are expected.

    Raises:
        PrefixCacheError: No layer is frozen.
    """
    if not depth:
        raise PrefixCacheError(
            'every layer of the ViT trains, so there is nothing to cache. Adapt the last layers alone, by a '
            'lora.target_modules like that of configs/sam3_lora_crack_last8.py.'
        )
    return PrefixCache(folder, prefix_hash(model, depth), limit)


def prefix_hash(model: Any, depth: int) -> str:
    """SHA-256 over all that the hidden states after ``depth`` layers of the ViT depend on, besides the images."""
    modules, config = prefix_modules(model, depth)
    return hashlib.sha256(f'{depth} {config} {base_hash(modules)}'.encode()).hexdigest()


def _digest(image: Tensor) -> str:
    device = image.device.type
    autocast = torch.get_autocast_dtype(device) if torch.is_autocast_enabled(device) else None
    digest = hashlib.blake2b(f'{autocast} {image.dtype} {tuple(image.shape)}'.encode(), digest_size=16)
    digest.update(image.contiguous().cpu().view(torch.uint8).numpy().tobytes())
    return digest.hexdigest()


def _store(path: Path, hidden: Tensor) -> None:
    try:
        write_atomically(path, partial(save_file, {HIDDEN: hidden.to(torch.bfloat16).cpu()}))
    except (OSError, SafetensorError) as error:
        raise PrefixCacheError(
            f'{path} could not be written: {error.__cause__ or error}. Free space, or remove PrefixCacheHook from the '
            'config. What was written before is complete; a training goes on with --resume.'
        ) from error


def _load(path: Path) -> Tensor:
    try:
        return load_file(str(path))[HIDDEN]
    except (SafetensorError, KeyError) as error:
        raise PrefixCacheError(f'{path} is damaged ({error}). Delete it: it will be computed again.') from error
