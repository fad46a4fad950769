"""Where the camera stands: near or far, straight ahead or tilted. Pictures and labels take the same way."""

import math
from typing import NamedTuple

import cv2
import numpy as np

from crack_plugin.datasets.synthetic.noise import log_uniform

# The largest canvas, against the picture's size: what is larger takes long to paint.
_LARGEST = 1.4


class View(NamedTuple):
    """A map from the canvas, on which the world is painted, to the picture.

    Attributes:
        canvas: (H, W) of the canvas.
        size: (H, W) of the picture.
        matrix: Shape (3, 3): the homography that takes points (x, y) of the canvas to the picture.
    """

    canvas: tuple[int, int]
    size: tuple[int, int]
    matrix: np.ndarray

    @property
    def is_plain(self) -> bool:
        return bool((self.matrix == np.eye(3)).all())

    @property
    def is_frontal(self) -> bool:
        """Whether the view only enlarges or shrinks."""
        return not (self.matrix - np.diag(np.diag(self.matrix)))[:, :2].any() and self.matrix[0, 1] == 0

    @property
    def scale(self) -> float:
        """Pixels of the canvas for one of the picture, on average."""
        return math.sqrt(self.canvas[0] * self.canvas[1] / (self.size[0] * self.size[1]))

    def spacing(self, points: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """How many canvas pixels lie between neighbouring pixels of the picture.

        Args:
            points: Shape (n, 2): x and y on the canvas.

        Returns:
            Two arrays of shape (n,): the geometric mean of both directions, and the direction that is seen shortest.
        """
        homogeneous = np.concatenate([points, np.ones((len(points), 1))], axis=1) @ self.matrix.T
        w = homogeneous[:, 2:]
        ends = homogeneous[:, :2] / w
        # Jacobian of the homography, (n, 2, 2); its singular values in closed form.
        jacobian = (self.matrix[None, :2, :2] - ends[:, :, None] * self.matrix[None, 2:, :2]) / w[:, :, None]
        squares = (jacobian**2).sum(axis=(1, 2))
        determinant = np.abs(np.linalg.det(jacobian))
        smallest = np.sqrt(np.maximum(squares - np.sqrt(np.maximum(squares**2 - 4 * determinant**2, 0)), 1e-12) / 2)
        return 1 / np.sqrt(determinant + 1e-12), 1 / smallest

    def take(self, layer: np.ndarray) -> np.ndarray:
        """What the camera sees of a layer of shape (H, W) of the canvas: as large as the picture."""
        if self.is_plain:
            return layer
        if self.is_frontal:
            shrinks = self.scale > 1
            return cv2.resize(layer, self.size[::-1], interpolation=cv2.INTER_AREA if shrinks else cv2.INTER_LINEAR)
        return self._warped(layer, self.matrix)

    def take_smooth(self, layer: np.ndarray) -> np.ndarray:
        """The same for what is looked at: enlarged smoothly, and averaged where the distance is great."""
        if self.is_frontal and self.scale < 1:
            return cv2.resize(layer, self.size[::-1], interpolation=cv2.INTER_CUBIC)
        if self.is_frontal:
            return self.take(layer)
        near = self._warped(layer, self.matrix)
        distance = self._octaves_away()
        if distance.max() < 0.2:
            return near
        height, width = self.canvas
        half = cv2.resize(layer, (width // 2, height // 2), interpolation=cv2.INTER_AREA)
        grow = np.array([[width / (width // 2), 0, 0.5], [0, height / (height // 2), 0.5], [0, 0, 1]])
        far = self._warped(half, self.matrix @ grow)
        return near + np.clip(distance, 0, 1) * (far - near)

    def _warped(self, layer: np.ndarray, matrix: np.ndarray) -> np.ndarray:
        return cv2.warpPerspective(layer, matrix, self.size[::-1], borderMode=cv2.BORDER_REPLICATE)

    def _octaves_away(self) -> np.ndarray:
        """Binary logarithm of the canvas pixels for each pixel of the picture, (H, W) float32."""
        height, width = self.size
        y, x = np.meshgrid(np.linspace(0, height - 1, 9), np.linspace(0, width - 1, 9), indexing='ij')
        grid = np.stack([x.ravel(), y.ravel()], axis=1)
        canvas = cv2.perspectiveTransform(grid[None], np.linalg.inv(self.matrix))[0]
        octaves = np.log2(self.spacing(canvas)[1]).astype(np.float32).reshape(9, 9)
        return cv2.resize(octaves, (width, height), interpolation=cv2.INTER_LINEAR)


def choose_view(rng: np.random.Generator, size: tuple[int, int]) -> View:
    """A camera for a picture of ``size`` (H, W): as the canvas is, nearer or farther, or tilted."""
    kind = rng.random()
    # What is smaller than this is too small a canvas to paint on.
    smallest = min(1, 64 / min(size))
    if kind < 0.35:
        return View(size, size, np.eye(3))
    if kind < 0.65:
        factor = max(smallest, log_uniform(rng, 0.35, _LARGEST))
        canvas = _scaled(size, factor)
        matrix = np.diag([size[1] / canvas[1], size[0] / canvas[0], 1.0])
        # Centres of pixels are half a pixel from the edge, as cv2.resize has it.
        matrix[:2, 2] = (matrix[0, 0] - 1) / 2, (matrix[1, 1] - 1) / 2
        return View(canvas, size, matrix)
    return _tilted(rng, size, max(smallest, log_uniform(rng, 0.6, _LARGEST)))


def _scaled(size: tuple[int, int], factor: float) -> tuple[int, int]:
    return max(32, round(size[0] * factor)), max(32, round(size[1] * factor))


def _tilted(rng: np.random.Generator, size: tuple[int, int], factor: float) -> View:
    """The picture's corners on the canvas are a trapezoid, turned and shaken a little, within the canvas."""
    canvas = _scaled(size, factor)
    near = 1 - 0.65 * rng.random() ** 1.3
    shift = rng.uniform(0, 1 - near)
    corners = np.array([(0, 0), (1, 0), (shift + near, 1), (shift, 1)])
    # Mostly the far end is above; a wall is also seen from the side.
    turns = int(rng.choice(4, p=[0.7, 0.12, 0.06, 0.12]))
    centred = np.roll(corners - 0.5, turns, axis=0)
    for _ in range(turns):
        centred = centred @ np.array([[0, 1], [-1, 0]])
    angle = rng.normal(0, 0.06)
    turn = np.array([[math.cos(angle), -math.sin(angle)], [math.sin(angle), math.cos(angle)]])
    centred = (centred + rng.normal(0, 0.02, (4, 2))) @ turn
    centred *= 0.5 / max(0.5, np.abs(centred).max())
    height, width = canvas
    source = (centred + 0.5) * (width - 1, height - 1)
    target = np.array([(0, 0), (size[1] - 1, 0), (size[1] - 1, size[0] - 1), (0, size[0] - 1)])
    matrix = cv2.getPerspectiveTransform(source.astype(np.float32), target.astype(np.float32))
    return View(canvas, size, matrix)
