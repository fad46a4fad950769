"""What a picture is painted on: a piece of the world, larger or smaller than the picture, and what lies where in it."""

from dataclasses import dataclass, field

import cv2
import numpy as np

from crack_plugin.datasets.synthetic.view import View


@dataclass
class Scene:
    """A canvas that painters change in place.

    Attributes:
        image: Shape (3, H, W), float32 in the order BGR: reflectance from 0 to 1. Planes come first, because that is
            many times faster to multiply by one (H, W) layer after another.
        view: Where the camera stands.
        light: Direction the light falls in, radians.
        grain: Direction along which the material splits, radians; None if there is none.
        margin: How far the label of a crack reaches over it on either side, in pixels of the picture.
        coverage: For each class that is to be seen, shape (H, W), float32: how much of a pixel it covers, 0 to 1.
    """

    image: np.ndarray
    view: View
    light: float = 0.0
    grain: float | None = None
    margin: float = 0.0
    coverage: dict[str, np.ndarray] = field(default_factory=dict)

    @property
    def size(self) -> tuple[int, int]:
        return self.image.shape[1], self.image.shape[2]

    def surroundings(self) -> np.ndarray:
        """The image without its details, (3, H, W): what a pixel's neighbourhood looks like."""
        height, width = self.size
        small = (max(2, width // 24), max(2, height // 24))
        layers = [cv2.resize(plane, small, interpolation=cv2.INTER_AREA) for plane in self.image]
        return np.stack([cv2.resize(layer, (width, height), interpolation=cv2.INTER_LINEAR) for layer in layers])

    def contrast(self) -> float:
        """How much the texture varies from pixel to pixel of the picture, as a share of the brightness."""
        green = self.image[1]
        sigma = 2.5 * max(1.0, self.view.scale)
        detail = cv2.GaussianBlur(green, (0, 0), 0.5 * self.view.scale) - cv2.GaussianBlur(green, (0, 0), sigma)
        return float(detail.std() / (green.mean() + 1e-6))

    def mark(self, name: str, coverage: np.ndarray) -> None:
        """Add to what a class covers: ``coverage`` of shape (H, W), 0 to 1."""
        known = self.coverage.get(name)
        self.coverage[name] = coverage if known is None else np.maximum(known, coverage)

    def hide(self, alpha: np.ndarray) -> None:
        """Something opaque lies on top, ``alpha`` of shape (H, W) of it: what is below cannot be seen."""
        for name in self.coverage:
            self.coverage[name] = self.coverage[name] * (1 - alpha)

    def blend(self, alpha: np.ndarray, colour: np.ndarray | float) -> None:
        """Paint ``colour``, a number, or an array that broadcasts to (3, H, W), with the opacity ``alpha``."""
        self.image += alpha * (colour - self.image)
