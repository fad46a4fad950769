"""A sampler that can start in the middle of an epoch."""

from collections.abc import Iterator
from itertools import islice

from mmengine.dataset import DefaultSampler
from mmseg.registry import DATA_SAMPLERS


@DATA_SAMPLERS.register_module()
class ResumableSampler(DefaultSampler):
    """mmengine's ``DefaultSampler`` whose next pass begins at ``start``.

    ``ReproducibilityHook`` sets ``start`` before each epoch: 0, or what a checkpoint from the middle of the epoch has
    seen. The length stays that of a whole epoch, from which mmengine counts iterations.

    Attributes:
        start: Samples of this rank to leave out.
    """

    start = 0

    def __iter__(self) -> Iterator[int]:
        """Indices of this rank, from ``start`` on."""
        return islice(super().__iter__(), self.start, None)
