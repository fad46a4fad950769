"""What the frozen bottom of the ViT makes of each picture, kept on disk from one epoch to the next."""

import hashlib
from collections.abc import Callable
from functools import partial
from pathlib import Path

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor

from crack_plugin.files import write_atomically

HIDDEN = 'hidden'


class PrefixCacheError(ValueError):
    """A prefix cache cannot be used; the message names the folder or file and says what to do."""


class PrefixCache:
    """A folder with a file for each picture: hidden states in bfloat16.

    A picture is known by its content, as the model sees it, so that nothing stale is ever read: another size, crop or
    flip is another picture. Datasets and runs may share a folder.

    Args:
        folder: Where to keep the files; made if missing.
        prefix_hash: Of the weights that make the hidden states, and of the input size. Files of another lie apart.
        limit: How many different pictures there are to be.
    """

    def __init__(self, folder: str | Path, prefix_hash: str, limit: int) -> None:
        self.folder = Path(folder, prefix_hash[:16])
        self.folder.mkdir(parents=True, exist_ok=True)
        self.limit = limit
        self._seen: set[str] = set()

    def __len__(self) -> int:
        return sum(1 for _ in self.folder.glob('*.safetensors'))

    def __call__(self, images: Tensor, compute: Callable[[Tensor], Tensor]) -> Tensor:
        """Hidden states of a batch, from the files as far as there are any.

        Args:
            images: What the model sees, shape (N, 3, S, S).
            compute: From images to hidden states, shape (N, s, s, C).

        Returns:
            Hidden states, shape (N, s, s, C), bfloat16: the first time as every other.

        Raises:
            PrefixCacheError: There are more pictures than there should be, or a file is damaged or cannot be written.
        """
        paths = [self.folder / f'{_digest(image)}.safetensors' for image in images]
        self._count(paths)
        missing = [index for index, path in enumerate(paths) if not path.is_file()]
        if missing:
            # The whole batch, which keeps the shapes that the model has been compiled for.
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
                f'{self.folder}. Random transforms make other pictures every time, which no cache can keep: take them '
                'out of the pipeline, or PrefixCacheHook out of the config.'
            )


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
            f'{path} could not be written: {error}. Make room, or take PrefixCacheHook out of the config. What was '
            'written before is whole; a training goes on with --resume.'
        ) from error


def _load(path: Path) -> Tensor:
    try:
        return load_file(str(path))[HIDDEN]
    except (SafetensorError, KeyError) as error:
        raise PrefixCacheError(f'{path} is damaged ({error}). Delete it: it will be computed again.') from error
