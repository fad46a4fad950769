"""The world of the synthetic pictures: surfaces, classes, views, and that pictures and labels agree."""

from pathlib import Path

import cv2
import numpy as np
import pytest

from crack_plugin.datasets.polygons import parse_labels, rasterize
from crack_plugin.datasets.synthetic import DEFECTS, HELD_OUT, PRETRAINING_SURFACES, SURFACES, draw, write_dataset
from crack_plugin.datasets.synthetic.contact_sheet import write_contact_sheet
from crack_plugin.datasets.synthetic.curves import even_stroke, render_labels, render_strokes
from crack_plugin.datasets.synthetic.picture import label_map
from crack_plugin.datasets.synthetic.scene import Scene
from crack_plugin.datasets.synthetic.view import View, choose_view

SIZE = (64, 80)


def some_views(count: int, size: tuple[int, int] = (120, 160)) -> list[View]:
    views = [choose_view(np.random.default_rng(seed), size) for seed in range(3 * count)]
    assert any(view.is_plain for view in views)
    return [view for view in views if not view.is_plain][:count]


@pytest.mark.parametrize('surface', SURFACES)
def test_every_class_can_be_drawn_on_every_surface(surface: str) -> None:
    for seed, name in enumerate(DEFECTS):
        image, polygons, mask = draw(np.random.default_rng(seed), SIZE, surface, (name,))
        assert image.shape == (*SIZE, 3) and image.std() > 1
        assert set(np.unique(mask)) <= {0, 1} and mask.any()
        np.testing.assert_array_equal(rasterize(polygons, SIZE), mask)


def test_held_out_surfaces_are_not_for_pretraining() -> None:
    assert len(HELD_OUT) >= 2
    assert set(HELD_OUT) | set(PRETRAINING_SURFACES) == set(SURFACES)
    assert not set(HELD_OUT) & set(PRETRAINING_SURFACES)


@pytest.mark.parametrize('surface', SURFACES)
def test_negative_pictures_have_no_crack_and_no_spalling(surface: str) -> None:
    for seed in range(4):
        assert not draw(np.random.default_rng(seed), SIZE, surface, ('crack', 'spalling'), negative=True).mask.any()


def test_joints_of_a_wall_have_labels_where_they_are_asked_for() -> None:
    """Also in a picture that shows none of the defects, and never in one where joints are no class."""
    shares = []
    for seed in range(12):
        rng = [np.random.default_rng(seed) for _ in range(2)]
        asked = draw(rng[0], SIZE, 'masonry', ('crack', 'joint'), negative=True)
        other = draw(rng[1], SIZE, 'masonry', ('crack',), negative=True)
        np.testing.assert_array_equal(asked.image, other.image)
        assert not other.mask.any() and not (asked.mask == 1).any()
        shares.append((asked.mask == 2).mean())
    assert np.median(shares) > 0.05


def test_a_pixel_of_several_classes_is_the_first_of_them() -> None:
    """Whatever the ids: a crack through a joint is a crack, and a joint that is no class has no label."""
    scene = Scene(np.ones((3, 8, 8), np.float32), View((8, 8), (8, 8), np.eye(3)))
    for place, name in enumerate(DEFECTS):
        covered = np.zeros((8, 8), np.float32)
        covered[:, place:] = 1
        scene.mark(name, covered)
    np.testing.assert_array_equal(label_map(scene, DEFECTS)[0], np.ones(8))
    np.testing.assert_array_equal(label_map(scene, ('joint', 'rust stain'))[0], [0, 0, 2, 2, 2, 2, 2, 2])
    np.testing.assert_array_equal(label_map(scene, ('joint',))[0], [0, 0, 0, 0, 1, 1, 1, 1])


def test_pictures_hold_several_classes_at_once() -> None:
    masks = [draw(np.random.default_rng(seed), SIZE, 'masonry', ('joint', 'crack')).mask for seed in range(8)]
    assert sum({1, 2} <= set(np.unique(mask).tolist()) for mask in masks) >= 3


def test_view_takes_picture_and_label_to_the_same_pixels() -> None:
    """Lines painted black on white: what is dark in the picture is what the label covers."""
    for seed, view in enumerate(some_views(12)):
        rng = np.random.default_rng(seed)
        height, width = view.canvas
        ends = rng.uniform(0.2, 0.8, (2, 2)) * (width, height)
        ends += 2 * (ends - ends[::-1])
        strokes = [even_stroke(np.linspace(ends[0], ends[1], 60), 9 * view.scale)]
        dark = view.take_smooth(1 - render_strokes(strokes, view.canvas)) < 0.5
        label = view.take(render_labels(strokes, view, 0)) >= 0.5
        assert label.sum() > 100
        assert (dark & label).sum() / (dark | label).sum() > 0.93


def test_hairlines_keep_a_label_without_gaps_in_every_view() -> None:
    for view in some_views(12):
        height, width = view.canvas
        points = np.stack([np.linspace(-5, width + 5, 200), np.full(200, height / 2)], axis=1)
        label = view.take(render_labels([even_stroke(points, 0.7)], view, 0)) >= 0.5
        assert cv2.connectedComponents(label.astype(np.uint8), connectivity=8)[0] == 2


def test_spacing_is_the_distance_between_neighbouring_pixels() -> None:
    """Against finite differences of the inverse map."""
    for view in some_views(8):
        centre = np.array([[view.size[1] / 2, view.size[0] / 2]])
        inverse = np.linalg.inv(view.matrix)

        def on_canvas(points: np.ndarray, inverse: np.ndarray = inverse) -> np.ndarray:
            return cv2.perspectiveTransform(points[None], inverse)[0]

        step = 1e-3
        columns = [(on_canvas(centre + d) - on_canvas(centre - d))[0] / (2 * step) for d in step * np.eye(2)]
        lengths = np.linalg.svd(np.stack(columns, axis=1), compute_uv=False)
        mean, largest = view.spacing(on_canvas(centre))
        assert mean[0] == pytest.approx(np.sqrt(lengths.prod()), rel=1e-4)
        assert largest[0] == pytest.approx(lengths[0], rel=1e-4)


def test_what_is_hidden_has_no_label() -> None:
    scene = Scene(np.ones((3, 40, 40), np.float32), View((40, 40), (40, 40), np.eye(3)))
    scene.mark('crack', np.ones((40, 40), np.float32))
    leaf = np.zeros((40, 40), np.float32)
    leaf[10:20] = 1
    scene.hide(leaf)
    np.testing.assert_array_equal(scene.coverage['crack'], 1 - leaf)


def test_sizes_vary_between_the_two_given(tmp_path: Path) -> None:
    write_dataset(tmp_path / 'data', 8, 0, (40, 48), 'tiles', ('crack', 'joint'), max_size=(64, 48))
    sizes = set()
    for path in sorted((tmp_path / 'data/train/images').iterdir()):
        size = cv2.imread(str(path)).shape[:2]
        parse_labels((tmp_path / 'data/train/labels' / f'{path.stem}.txt').read_bytes(), size, ('crack', 'joint'))
        sizes.add(size)
    assert len(sizes) > 3
    assert all(40 <= height <= 64 and width == 48 for height, width in sizes)


def test_contact_sheet_has_a_cell_for_each_surface_and_class(tmp_path: Path) -> None:
    write_contact_sheet(tmp_path / 'sheet.png', ('tiles', 'wood'), ('crack', 'joint', 'spalling'), (40, 48))
    sheet = cv2.imread(str(tmp_path / 'sheet.png'))
    assert sheet.shape[1] == 3 * 2 * 48 and sheet.shape[0] % 2 == 0 and sheet.shape[0] // 2 >= 40
    with pytest.raises(ValueError, match=r'sheet\.gif: a contact sheet is a \.png or a \.jpg'):
        write_contact_sheet(tmp_path / 'sheet.gif', ('tiles',), ('crack',), (40, 48))
