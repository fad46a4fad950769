"""Pictures that occur in two splits, found by perceptual hash and by name."""

from collections import defaultdict
from collections.abc import Iterator, Sequence
from itertools import combinations
from pathlib import Path

import cv2
import imagehash
import numpy as np
from PIL import Image

from crack_plugin.datasets.names import listed, source_name
from crack_plugin.datasets.problems import Problem
from crack_plugin.datasets.samples import Sample

HASH_DISTANCE = 8
"""Two pictures are near-duplicates if at most this many of the 64 bits of their hashes differ.

On the 71 training photographs of CrackForest the nearest two different ones differ in 14 bits. After JPEG compression
at quality 50, a change of brightness by 25 %, noise, blur, a flip, a quarter turn or a resize, 9 in 10 differ from
their original in 8 at most; after a turn by 5 degrees or a crop by 5 %, half of them in 10 at most.
"""

_HASHED_SIDE = 32


def perceptual_hashes(image: np.ndarray) -> np.ndarray:
    """Hash of a picture (``imagehash.phash``), and of the seven others that flips and quarter turns make of it.

    Args:
        image: BGR, shape (H, W, 3), uint8.

    Returns:
        Shape (8,), uint64; the picture as it is comes first.
    """
    small = cv2.resize(image, (_HASHED_SIDE, _HASHED_SIDE), interpolation=cv2.INTER_AREA)
    grey = cv2.cvtColor(small, cv2.COLOR_BGR2GRAY)
    turned = [np.rot90(grey, quarter) for quarter in range(4)]
    views = [np.ascontiguousarray(view) for plain in turned for view in (plain, np.fliplr(plain))]
    bits = np.stack([imagehash.phash(Image.fromarray(view)).hash.ravel() for view in views])
    return np.packbits(bits, axis=1).view(np.uint64).ravel()


def find_leaks(samples: Sequence[Sample], max_distance: int = HASH_DISTANCE) -> list[Problem]:
    """Pictures that occur, perhaps flipped, turned, brightened or resized, in two splits.

    A model is then scored on what it was trained on. Found by perceptual hash, and by the name that Roboflow gives all
    augmentations of one picture (``NAME.rf.HASH.jpg``).

    Args:
        samples: Of all splits.
        max_distance: Number of the 64 bits of two hashes that may differ.

    Returns:
        One warning for each picture of the later split that has a like in the earlier one.
    """
    by_split: dict[str, list[Sample]] = defaultdict(list)
    for sample in samples:
        by_split[sample.split].append(sample)
    return [
        problem
        for first, second in combinations(by_split, 2)
        for problem in _leaks_between(by_split[first], by_split[second], max_distance)
    ]


def _leaks_between(first: Sequence[Sample], second: Sequence[Sample], max_distance: int) -> Iterator[Problem]:
    hashes = np.stack([sample.hashes[0] for sample in first])
    named: dict[str, list[Sample]] = defaultdict(list)
    for sample in first:
        named[source_name(sample.image)].append(sample)
    where = f'{first[0].split}, {second[0].split}'
    for sample in second:
        distances = np.bitwise_count(sample.hashes[:, None] ^ hashes).min(axis=0)
        near = np.flatnonzero(distances <= max_distance)
        if near.size:
            nearest = int(distances.argmin())
            yield Problem(
                'warning',
                where,
                f'{sample.image} looks like {len(near)} of the images in {first[0].split}, most like '
                f'{first[nearest].image} ({distances[nearest]} of 64 bits differ). Keep what comes from one picture in '
                'one split.',
                cause='looks like another',
                file=sample.image,
            )
        elif '.rf.' in Path(sample.image).name and source_name(sample.image) in named:
            like = [other.image for other in named[source_name(sample.image)]]
            yield Problem(
                'warning',
                where,
                f'{sample.image} has the source name of {listed(like)}. If they come from one picture, keep them in '
                'one split.',
                cause='source of another',
                file=sample.image,
            )
