"""Photographs of one surface, registered: against the homography that they were made with; what is refused."""

import cv2
import numpy as np
import pytest
from two_dates import camera, seen, texture

from crack_plugin.inspection import registration
from crack_plugin.inspection.registration import RegistrationError, jacobians, map_places, register

SHAPE = (240, 320)
TILTED = camera(6, 1.0, (0, -10), (1e-4, -2e-4))


def largest_error(found: np.ndarray, true: np.ndarray, shape: tuple[int, int]) -> float:
    """Over all places of the first photograph that are in the second."""
    places = np.stack(np.meshgrid(np.arange(0, shape[1], 20), np.arange(0, shape[0], 20)), axis=-1).reshape(-1, 2)
    wanted = map_places(true, places)
    inside = ((wanted >= 0) & (wanted < shape[::-1])).all(axis=1)
    return float(np.hypot(*(map_places(found, places) - wanted)[inside].T).max())


@pytest.mark.parametrize(
    'true',
    [camera(25, 0.8, (90, -20)), camera(-170, 1.2, (340, 300)), TILTED],
    ids=['turn', 'upside down', 'tilt'],
)
def test_known_movements_are_found_within_half_a_pixel(true: np.ndarray) -> None:
    before = texture(SHAPE)
    after = seen(before, true, SHAPE)
    # A crack that has come since.
    cv2.line(after, (50, 40), (250, 200), (20, 20, 20), 4)
    found = register(before, after)
    assert largest_error(found.matrix, true, SHAPE) < 0.5
    assert found.residual < 1
    assert found.inliers <= found.matches
    corners = np.array([[[0, 0], [320, 0], [320, 240], [0, 240]]], np.float32) - np.float32(0.5)
    area, _ = cv2.intersectConvexConvex(cv2.perspectiveTransform(corners, true), corners)
    assert found.overlap == pytest.approx(area / (240 * 320), abs=0.01)


def test_large_photographs_of_two_sizes_are_registered_in_their_own_pixels(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(registration, 'WORKING_SIDE', 240)
    true = camera(10, 1.5, (60, -40))
    before = texture(SHAPE)
    found = register(before, seen(before, true, (360, 480)))
    assert largest_error(found.matrix, true, (360, 480)) < 1


def test_derivatives_are_those_of_small_steps() -> None:
    places = np.array([[10.0, 20.0], [300.0, 50.0]])
    steps = [(map_places(TILTED, places + step) - map_places(TILTED, places)) / 1e-5 for step in 1e-5 * np.eye(2)]
    np.testing.assert_allclose(jacobians(TILTED, places), np.stack(steps, axis=2), rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize(
    ('after', 'reason'),
    [
        (texture(SHAPE, seed=5), 'of .* matching features agree'),
        (np.full((*SHAPE, 3), 90, np.uint8), r'^b\.jpg has too little texture .*Take it again'),
        # A corner in common with the first, and nothing else.
        (seen(texture(SHAPE), camera(0, 1, (250, 180)), SHAPE), 'features agree|share only'),
        (texture(SHAPE)[:8, :8], r'^b\.jpg has too little texture'),
        (np.zeros((2, 32768, 3), np.uint8), r'^b\.jpg has a side of more than 32,767 pixels'),
    ],
    ids=['another place', 'blank', 'corner', 'tiny', 'huge'],
)
def test_what_does_not_fit_is_refused_by_name(after: np.ndarray, reason: str) -> None:
    with pytest.raises(RegistrationError, match=reason) as info:
        register(texture(SHAPE), after, ('a.jpg', 'b.jpg'))
    assert 'b.jpg' in str(info.value)
    assert 'Take' in str(info.value) or 'Cut' in str(info.value)


def test_features_in_a_corner_and_bad_residuals_are_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    corner = np.random.default_rng(0).uniform(0, 40, (200, 2))
    monkeypatch.setattr(registration, '_matches', lambda before, after, names: (corner, corner + 2.0))
    with pytest.raises(RegistrationError, match=r'features that agree are in [0-9]+% of what they share'):
        register(texture(SHAPE), texture(SHAPE))
    places = np.random.default_rng(0).uniform(0, 240, (200, 2))
    off = places + np.random.default_rng(1).uniform(-2.1, 2.1, places.shape)
    monkeypatch.setattr(registration, '_matches', lambda before, after, names: (places, off))
    with pytest.raises(RegistrationError, match=r'still 1\.\d px apart'):
        register(texture(SHAPE), texture(SHAPE))


@pytest.mark.parametrize(
    'matrix', [np.diag([-1.0, 1, 1]), camera(0, 1, (0, 0), (-0.004, 0))], ids=['mirror', 'horizon']
)
def test_folded_fits_are_refused(matrix: np.ndarray, monkeypatch: pytest.MonkeyPatch) -> None:
    places = np.random.default_rng(0).uniform(0, 200, (200, 2))
    monkeypatch.setattr(registration, '_matches', lambda *_: (places, map_places(matrix, places)))
    with pytest.raises(RegistrationError, match='mirrored or folded over'):
        register(texture(SHAPE), texture(SHAPE))
