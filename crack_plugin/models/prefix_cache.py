"""What the frozen bottom of the ViT makes of each picture, kept on disk from one epoch to the next."""

import hashlib
import os
from collections.abc import Callable
from pathlib import Path

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor

HIDDEN = 'hidden'


class PrefixCache:
    """A folder with a file for each picture: hidden states in bfloat16.

    A picture is known by its content, as the model sees it, so that nothing stale is ever read: another size, crop or
    flip is another picture.

    Args:
        folder: Where to keep the files; made if missing.
        prefix_hash: Of the weights that make the hidden states, and of the input size. Files of another lie apart.
        limit: How many pictures there are.
    """

    def __init__(self, folder: str | Path, prefix_hash: str, limit: int) -> None:
        self.folder = Path(folder, prefix_hash[:16])
        self.folder.mkdir(parents=True, exist_ok=True)
        self.limit = limit
        self.stored = len(self)

    def __len__(self) -> int:
        return sum(1 for _ in self.folder.glob('*.safetensors'))

    def __call__(self, images: Tensor, compute: Callable[[Tensor], Tensor]) -> Tensor:
        """Hidden states of a batch, from the files as far as there are any.

        Args:
            images: What the model sees, shape (N, 3, S, S).
            compute: From images to hidden states, shape (N, s, s, C).

        Returns:
            Hidden states, shape (N, s, s, C), rounded to bfloat16: the first time as every other.

        Raises:
            ValueError: There are more pictures than there should be, or a file is damaged.
        """
        paths = [self.folder / f'{_digest(image)}.safetensors' for image in images]
        if not all(path.is_file() for path in paths):
            # The whole batch, which keeps the shapes that the model has been compiled for.
            hidden = compute(images).detach()
            for path, one in zip(paths, hidden, strict=True):
                self._store(path, one)
            return hidden.to(torch.bfloat16)
        return torch.stack([_load(path) for path in paths]).to(images.device)

    def _store(self, path: Path, hidden: Tensor) -> None:
        if path.is_file():
            return
        if self.stored >= self.limit:
            raise ValueError(
                f'{self.folder} holds {self.stored} pictures already, and the datasets have {self.limit}. The pipeline '
                'makes other pictures of them every time, which no cache can keep: take random transforms out of it, '
                'or the cache (PrefixCacheHook).'
            )
        scratch = path.with_suffix(f'.{os.getpid()}.tmp')
        save_file({HIDDEN: hidden.to(torch.bfloat16).cpu()}, str(scratch))
        scratch.replace(path)
        self.stored += 1


def _digest(image: Tensor) -> str:
    device = image.device.type
    autocast = torch.get_autocast_dtype(device) if torch.is_autocast_enabled(device) else None
    digest = hashlib.blake2b(f'{autocast} {image.dtype} {tuple(image.shape)}'.encode(), digest_size=16)
    digest.update(image.contiguous().cpu().view(torch.uint8).numpy().tobytes())
    return digest.hexdigest()


def _load(path: Path) -> Tensor:
    try:
        return load_file(str(path))[HIDDEN]
    except SafetensorError as error:
        raise ValueError(f'{path} is damaged ({error}). Delete it: it will be computed again.') from error
