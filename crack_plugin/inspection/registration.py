"""Registration of two photographs of one surface: which pixel of the second shows the place that one of the first does.

SIFT features (Lowe, IJCV 2004) that match give a homography, which is what two views of a plane differ by (Hartley and
Zisserman, Multiple View Geometry, 2004, section 13.1), by RANSAC and least squares over the inliers. On photographs
that were turned, scaled and tilted by known amounts this is exact to 0.1 px; the correlation of all pixels
(``cv2.findTransformECC``) made it worse. A fit that should not be trusted is an error.
"""

from dataclasses import dataclass

import cv2
import numpy as np

from crack_plugin.errors import CrackPluginError

WORKING_SIDE = 1600
"""Longer side in pixels at which larger photographs are registered."""

LARGEST_SIDE = 32767
"""Pixels that ``cv2.warpPerspective`` takes at most."""

_RATIO = 0.8
"""Of the distances to the nearest and the second descriptor; Lowe, section 7.1."""
_RANSAC_DISTANCE = 3.0
_MIN_INLIERS = 12
_MAX_RESIDUAL = 1.5
_MIN_OVERLAP = 0.1
_MIN_SPREAD = 0.2
_LARGEST_SCALE = 5.0
_MIN_FEATURES = 30
_ADVICE = (
    'Take both from about the same stand, with the same part of the surface in sight, or cut both to the surface that '
    'they share.'
)


class RegistrationError(CrackPluginError, ValueError):
    """Two photographs that cannot be registered, or whose registration should not be trusted."""


@dataclass(frozen=True, eq=False)
class Registration:
    """How two photographs of a place lie on each other.

    Attributes:
        matrix: Homography from (x, y) in the first to (x, y) in the second photograph, in pixels, the centre of the
            upper left one being (0, 0); shape (3, 3), float64, its last element 1.
        matches: Features that look alike in both.
        inliers: Those of them that the homography explains.
        residual: Root mean square distance of the inliers after it, in pixels of the second photograph.
        overlap: Share of the second photograph that the first shows as well.
    """

    matrix: np.ndarray
    matches: int
    inliers: int
    residual: float
    overlap: float


def register(
    before: np.ndarray, after: np.ndarray, names: tuple[str, str] = ('the first photograph', 'the second photograph')
) -> Registration:
    """Register two photographs of a place.

    Refused is a fit with fewer inliers than 8 + 0.3 * matches (Brown and Lowe, IJCV 2007, section 3.2), or fewer than
    12; inliers that are 1.5 px off (root mean square, at :data:`WORKING_SIDE`) or all in a corner; and what no camera
    sees of a plane: folded over, mirrored, or with a change of scale beyond 5 times.

    Args:
        before: BGR, shape (H, W, 3), uint8.
        after: BGR, shape (H', W', 3), uint8.
        names: Of the two, for the errors.

    Raises:
        RegistrationError: A photograph has no texture or is too large, or the fit is refused.
    """
    for image, name in zip((before, after), names, strict=True):
        if max(image.shape) > LARGEST_SIDE:
            raise RegistrationError(
                f'{name} has a side of more than {LARGEST_SIDE:,} pixels. Cut both photographs to parts that fit.'
            )
    (small_before, to_before), (small_after, to_after) = (_grey(image) for image in (before, after))
    sources, targets = _matches(small_before, small_after, names)
    matrix, inliers = _from_features(sources, targets)
    if matrix is None:
        raise _refused(names, f'none of {len(sources)} matching features agree')
    _check_inliers(len(sources), int(inliers.sum()), names)
    overlap = _check_shape(matrix, small_before.shape, small_after.shape, sources[inliers], names)
    residual = _residual(matrix, sources[inliers], targets[inliers])
    if residual > _MAX_RESIDUAL:
        raise _refused(names, f'matching features are still {residual:.1f} px apart after registration')
    # From places in the small photographs to those in the large: the centre of a pixel is not its corner.
    full = to_after @ matrix @ np.linalg.inv(to_before)
    return Registration(
        matrix=full / full[2, 2],
        matches=len(sources),
        inliers=int(inliers.sum()),
        residual=residual * float(to_after[0, 0]),
        overlap=overlap,
    )


def map_places(matrix: np.ndarray, places: np.ndarray) -> np.ndarray:
    """Where a homography takes places (x, y), shape (n, 2)."""
    mapped = np.concatenate([places, np.ones((len(places), 1))], axis=1) @ matrix.T
    return mapped[:, :2] / mapped[:, 2:]


def jacobians(matrix: np.ndarray, places: np.ndarray) -> np.ndarray:
    """Derivatives of a homography at places (x, y), shape (n, 2): d(x', y') / d(x, y), shape (n, 2, 2)."""
    mapped = np.concatenate([places, np.ones((len(places), 1))], axis=1) @ matrix.T
    numerator, denominator = mapped[:, :2, None], mapped[:, 2, None, None]
    return (matrix[None, :2, :2] * denominator - numerator * matrix[None, None, 2, :2]) / denominator**2


def _grey(image: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """A small grey picture, and the matrix that takes its places to those of the photograph."""
    grey = cv2.cvtColor(image, cv2.COLOR_BGR2GRAY)
    height, width = grey.shape
    scale = max(1.0, max(height, width) / WORKING_SIDE)
    size = (max(1, round(width / scale)), max(1, round(height / scale)))
    scales = np.array([width / size[0], height / size[1]])
    to_full = np.array([[scales[0], 0, scales[0] / 2 - 0.5], [0, scales[1], scales[1] / 2 - 0.5], [0, 0, 1]])
    return cv2.resize(grey, size, interpolation=cv2.INTER_AREA), to_full


def _matches(before: np.ndarray, after: np.ndarray, names: tuple[str, str]) -> tuple[np.ndarray, np.ndarray]:
    """Places of features that look alike, each at most once, shape (n, 2) each."""
    # Concrete has little contrast: a quarter of the threshold that is usual.
    detector = cv2.SIFT.create(nfeatures=4000, contrastThreshold=0.01, enable_precise_upscale=True)
    found = []
    for image, name in zip((before, after), names, strict=True):
        points, descriptors = detector.detectAndCompute(image, None)
        if len(points) < _MIN_FEATURES:
            raise RegistrationError(
                f'{name} has too little texture to be registered ({len(points)} features): it is blank, dark, blurred '
                'or very small. Take it again, sharp and evenly lit, with more of the surface in sight.'
            )
        # RootSIFT (Arandjelovic and Zisserman, CVPR 2012).
        descriptors = np.sqrt(descriptors / np.maximum(descriptors.sum(axis=1, keepdims=True), 1e-9))
        found.append((np.array([point.pt for point in points]), descriptors.astype(np.float32)))
    (places, descriptors), (other_places, other_descriptors) = found
    best: dict[int, cv2.DMatch] = {}
    for first, second in cv2.BFMatcher(cv2.NORM_L2).knnMatch(descriptors, other_descriptors, k=2):
        former = best.get(first.trainIdx)
        if first.distance < _RATIO * second.distance and (former is None or first.distance < former.distance):
            best[first.trainIdx] = first
    pairs = [(match.queryIdx, match.trainIdx) for match in best.values()]
    # A feature with two directions is there twice.
    both = np.array([[*places[one], *other_places[other]] for one, other in pairs]).reshape(-1, 4)
    both = np.unique(both, axis=0)
    return both[:, :2], both[:, 2:]


def _from_features(sources: np.ndarray, targets: np.ndarray) -> tuple[np.ndarray | None, np.ndarray]:
    if len(sources) < 4:
        return None, np.zeros(len(sources), bool)
    matrix, inliers = cv2.findHomography(
        sources, targets, cv2.RANSAC, _RANSAC_DISTANCE, maxIters=5000, confidence=0.999
    )
    if matrix is None:
        return None, np.zeros(len(sources), bool)
    return matrix, inliers.ravel().astype(bool)


def _residual(matrix: np.ndarray, sources: np.ndarray, targets: np.ndarray) -> float:
    return float(np.sqrt(np.mean(np.sum((map_places(matrix, sources) - targets) ** 2, axis=1))))


def _check_inliers(matches: int, inliers: int, names: tuple[str, str]) -> None:
    wanted = max(_MIN_INLIERS, 8 + 0.3 * matches)
    if inliers < wanted:
        raise _refused(names, f'{inliers} of {matches} matching features agree, wanted are {int(np.ceil(wanted))}')


def _check_shape(
    matrix: np.ndarray,
    before: tuple[int, ...],
    after: tuple[int, ...],
    inliers: np.ndarray,
    names: tuple[str, str],
) -> float:
    """Overlap as a share of the second photograph; what no camera sees is refused, and inliers all in a corner."""
    corners = np.array([[0, 0], [before[1], 0], [before[1], before[0]], [0, before[0]]], float) - 0.5
    # Where the denominator changes its sign, the horizon is in sight.
    signs = np.concatenate([corners, np.ones((4, 1))], axis=1) @ matrix[2] * np.sign(matrix[2, 2])
    determinants = np.linalg.det(jacobians(matrix, corners))
    if signs.min() <= 0 or determinants.min() <= 0:
        raise _refused(names, 'the fit is mirrored or folded over')
    scales = np.sqrt(determinants)
    if scales.max() > _LARGEST_SCALE or scales.min() < 1 / _LARGEST_SCALE:
        raise _refused(names, f'the fit scales by {scales.min():.2g} to {scales.max():.2g}')
    frame = np.array([[0, 0], [after[1], 0], [after[1], after[0]], [0, after[0]]], np.float32) - np.float32(0.5)
    area, _ = cv2.intersectConvexConvex(map_places(matrix, corners).astype(np.float32), frame)
    overlap = area / (after[0] * after[1])
    if overlap < _MIN_OVERLAP:
        raise _refused(names, f'they share only {overlap:.0%} of the second')
    hull = cv2.convexHull(map_places(matrix, inliers).astype(np.float32))
    spread = cv2.contourArea(hull) / area
    if spread < _MIN_SPREAD:
        raise _refused(names, f'the features that agree are in {spread:.0%} of what they share')
    return float(overlap)


def _refused(names: tuple[str, str], reason: str) -> RegistrationError:
    return RegistrationError(f'{names[0]} and {names[1]} cannot be registered: {reason}. {_ADVICE}')
