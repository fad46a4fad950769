"""Light and camera: from reflectance to a photograph."""

import math

import cv2
import numpy as np

from crack_plugin.datasets.synthetic.noise import log_uniform


def photograph(rng: np.random.Generator, reflectance: np.ndarray) -> np.ndarray:
    """Light, lens, sensor and compression: (3, H, W) reflectance to (H, W, 3) uint8."""
    height, width = size = reflectance.shape[1:]
    y = np.linspace(-1, 1, height, dtype=np.float32)[:, None]
    x = np.linspace(-1, 1, width, dtype=np.float32)
    uneven = 0.05 if rng.random() < 0.8 else 0.16
    slope_x, slope_y = rng.normal(0, uneven), rng.normal(0, uneven)
    light = np.maximum(1 + slope_x * x + slope_y * y - abs(rng.normal(0, 0.07)) * (x * x + y * y), 0.2)
    cold, green = rng.normal(0, 0.045 if rng.random() < 0.75 else 0.09), rng.normal(0, 0.015)
    cast = np.exp(np.array([cold, green, -cold], np.float32))
    exposed = reflectance * (light * cast[:, None, None])
    # An auto-exposing camera brings most scenes near the middle of the range.
    exposed *= (rng.uniform(0.38, 0.75) / float(exposed.mean())) ** rng.uniform(0.2, 1)
    image = cv2.merge(list(cv2.pow(np.clip(exposed, 0.004, 1.2), rng.uniform(0.75, 1.15))))
    middle = float(image.mean())
    image = middle + (image - middle) * rng.uniform(0.6, 1.2)
    if rng.random() < 0.4:
        image = cv2.GaussianBlur(image, (0, 0), log_uniform(rng, 0.35, 1.2))
    if rng.random() < 0.1:
        image = _out_of_focus(rng, image) if rng.random() < 0.5 else _moved(rng, image)
    if rng.random() < 0.4:
        image += rng.uniform(0.2, 1.1) * (image - cv2.GaussianBlur(image, (0, 0), 1.2))
    sensor = rng.standard_normal(size, np.float32) * np.float32(log_uniform(rng, 0.002, 0.025))
    picture = cv2.add(image, cv2.merge([sensor] * 3))
    picture = cv2.convertScaleAbs(np.maximum(picture, 0), alpha=255)
    quality = int(rng.uniform(50, 98))
    return np.asarray(
        cv2.imdecode(cv2.imencode('.jpg', picture, [cv2.IMWRITE_JPEG_QUALITY, quality])[1], cv2.IMREAD_COLOR)
    )


def _out_of_focus(rng: np.random.Generator, image: np.ndarray) -> np.ndarray:
    radius = rng.uniform(1, 2.5) * min(1, min(image.shape[:2]) / 200)
    reach = math.ceil(radius)
    y, x = np.mgrid[-reach : reach + 1, -reach : reach + 1]
    disc = np.clip(radius + 0.5 - np.hypot(x, y), 0, 1).astype(np.float32)
    return cv2.filter2D(image, -1, disc / disc.sum(), borderType=cv2.BORDER_REFLECT)


def _moved(rng: np.random.Generator, image: np.ndarray) -> np.ndarray:
    length = rng.uniform(2, 6) * min(1, min(image.shape[:2]) / 200)
    angle = rng.uniform(0, np.pi)
    reach = math.ceil(length / 2)
    kernel = np.zeros((2 * reach + 1, 2 * reach + 1), np.float32)
    for t in np.linspace(-length / 2, length / 2, 25):
        kernel[round(reach + t * math.sin(angle)), round(reach + t * math.cos(angle))] += 1
    return cv2.filter2D(image, -1, kernel / kernel.sum(), borderType=cv2.BORDER_REFLECT)
