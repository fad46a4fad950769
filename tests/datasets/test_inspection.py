import re
from pathlib import Path

import cv2
import numpy as np
import pytest

from crack_plugin.datasets.alignment import find_offset
from crack_plugin.datasets.duplicates import HASH_DISTANCE, find_leaks, perceptual_hashes
from crack_plugin.datasets.inspection import inspect_samples, open_split
from crack_plugin.datasets.problems import Problem, describe_cause, group_by_cause
from crack_plugin.datasets.samples import Sample, find_absent_classes, find_lost_cracks, summarize

DEEPCRACK = Path(__file__).parents[3] / 'shared' / 'data' / 'deepcrack'
LINE = '0 0 0.5 0.9 0.5 0.9 0.5\n'


def texture(seed: int, size: tuple[int, int] = (96, 128)) -> np.ndarray:
    """A picture with coarse structure, BGR."""
    coarse = np.random.default_rng(seed).integers(0, 256, (6, 8, 3), np.uint8)
    return cv2.resize(coarse, size[::-1], interpolation=cv2.INTER_CUBIC)


def write(root: Path, split: str, labels: dict[str, str | None]) -> None:
    """An image for each name, and a label file where there is text."""
    for folder in ('images', 'labels'):
        (root / split / folder).mkdir(parents=True, exist_ok=True)
    for seed, (name, label) in enumerate(labels.items()):
        cv2.imwrite(str(root / split / 'images' / f'{name}.png'), texture(seed + 100 * len(split)))
        if label is not None:
            (root / split / 'labels' / f'{name}.txt').write_text(label)


def inspect(root: Path, split: str = 'train', **options) -> tuple[list[Sample], list[Problem]]:
    dataset, problems = open_split(root, split, **options)
    assert dataset is not None
    results = list(inspect_samples(dataset))
    return [sample for sample, _ in results if sample], problems + [p for _, found in results for p in found]


def make_sample(split: str, name: str, picture: np.ndarray, width: float = 3.0) -> Sample:
    return Sample(split, name, picture.shape[:2], {'crack': 1}, 0.1, (width, width), perceptual_hashes(picture))


def test_all_problems_of_a_split_are_found(tmp_path):
    faulty = '0 0.1 0.1 0.9\n' + LINE + '5 0 0 1 0 1 1\n0 0 0 1 1 x 0\n0 0.5 0.5 0.1 0.1\n'
    write(tmp_path, 'train', {'bad': faulty, 'damaged': LINE, 'fine': LINE, 'none': None, 'twice': LINE * 3})
    write(tmp_path, 'train', {'full': '0 0 0 1 0 1 1 0 1\n'})
    (tmp_path / 'train/images/damaged.png').write_bytes(b'no image')
    (tmp_path / 'train/images/fine.jpg').write_bytes((tmp_path / 'train/images/fine.png').read_bytes())
    (tmp_path / 'train/images/notes.gif').touch()
    (tmp_path / 'train/labels/orphan.txt').touch()
    samples, problems = inspect(tmp_path)
    errors = [p.text for p in problems if p.severity == 'error']
    warnings = [p.text for p in problems if p.severity == 'warning']
    assert [line for line in range(1, 6) for text in errors if f'bad.txt, line {line}:' in text] == [1, 3, 4, 5]
    assert sum('damaged.png cannot be decoded' in text for text in errors) == 1
    assert len(errors) == 5
    for part in (
        'none.png has no label file and is taken as background',
        'orphan.txt is a label without an image',
        'notes.gif lies beside the images',
        'fine.txt is the label of 2 images',
        'twice.txt: 2 polygons repeat',
        'full.txt: 100% of the image is foreground',
    ):
        assert sum(part in text for text in warnings) == 1, part
    assert len(warnings) == 6
    assert len(samples) == 6
    assert {p.split for p in problems} == {'train'}


def test_split_that_cannot_be_opened_is_a_problem(tmp_path):
    write(tmp_path, 'train', {'a': LINE})
    dataset, problems = open_split(tmp_path, 'test')
    assert dataset is None
    assert problems[0].severity == 'error'
    assert "no split 'test'" in problems[0].text
    (tmp_path / 'data.yaml').write_text('names: [rust]')
    assert 'names' in open_split(tmp_path, 'train')[1][0].text


def test_missing_labels_can_be_errors(tmp_path):
    write(tmp_path, 'train', {'a': LINE, 'b': None})
    assert open_split(tmp_path, 'train', missing_label='error')[1][0].severity == 'error'
    assert open_split(tmp_path, 'train')[1][0].severity == 'warning'


def test_what_a_sample_holds(tmp_path):
    write(tmp_path, 'train', {'a': LINE * 2, 'b': ''})
    samples, _ = inspect(tmp_path)
    assert samples[0].polygons == {'crack': 2}
    assert samples[0].shape == (96, 128)
    assert samples[0].foreground == pytest.approx(116 / (96 * 128))
    assert samples[0].widths == pytest.approx((1, 1), abs=0.25)
    assert samples[1].foreground == 0
    assert samples[1].widths is None


@pytest.mark.parametrize(
    'change',
    [
        lambda picture: picture[:, ::-1],
        lambda picture: picture[::-1],
        lambda picture: np.rot90(picture),
        lambda picture: np.rot90(picture, 2),
        lambda picture: cv2.resize(picture, (200, 200)),
        lambda picture: cv2.convertScaleAbs(picture, alpha=0.8),
        lambda picture: cv2.GaussianBlur(picture, (0, 0), 1.5),
        lambda picture: cv2.imdecode(cv2.imencode('.jpg', picture, [cv2.IMWRITE_JPEG_QUALITY, 50])[1], 1),
    ],
    ids=['mirrored', 'upside down', 'quarter turn', 'half turn', 'resized', 'darker', 'blurred', 'jpeg'],
)
def test_changed_copy_in_another_split_is_a_leak(change):
    train = [make_sample('train', f'train/{i}.png', texture(i)) for i in range(20)]
    copy = make_sample('valid', 'valid/copy.png', np.ascontiguousarray(change(texture(7))))
    (leak,) = find_leaks([*train, copy])
    assert leak.severity == 'warning'
    assert leak.split == 'train, valid'
    assert 'valid/copy.png looks like 1 of the images in train, most like train/7.png' in leak.text


def test_different_pictures_and_copies_within_a_split_are_no_leak():
    samples = [make_sample('train' if i < 20 else 'valid', f'{i}.png', texture(i)) for i in range(30)]
    assert find_leaks([*samples, make_sample('train', 'copy.png', texture(3))]) == []
    assert len(find_leaks(samples, max_distance=64)) == 10
    assert HASH_DISTANCE < 14


def test_roboflow_names_tell_of_a_leak_too():
    samples = [
        make_sample('train', 'a/wall_jpg.rf.01.jpg', texture(0)),
        make_sample('valid', 'b/wall_jpg.rf.02.jpg', texture(1)),
        make_sample('valid', 'b/floor_jpg.rf.03.jpg', texture(2)),
    ]
    (leak,) = find_leaks(samples)
    assert 'b/wall_jpg.rf.02.jpg has the source name of a/wall_jpg.rf.01.jpg' in leak.text


def test_lost_cracks_name_the_tiles_that_keep_them():
    large = np.zeros((4000, 6000, 3), np.uint8)
    samples = [make_sample('train', 'wide.png', large, 8), make_sample('train', 'thin.png', large, 2)]
    (problem,) = find_lost_cracks(samples, 1008)
    assert 'lost in 1 of the 2 images' in problem.text
    assert 'thin.png, 6000 x 4000 pixels, a crack of 2.0 px becomes 0.34 px' in problem.text
    assert 'at most 2016 x 2016 pixels' in problem.text
    assert find_lost_cracks(samples, 3024) == []


def test_summary_counts_and_scales():
    plain = np.zeros((504, 1008, 3), np.uint8)
    negative = Sample('valid', 'n.png', (504, 504), {}, 0.0, None, perceptual_hashes(plain))
    rows = summarize([make_sample('train', 'a.png', plain, 7), make_sample('train', 'b.png', plain, 14), negative], 504)
    assert rows[0] == (
        'train',
        '2',
        '0',
        '2 crack',
        '1008 x 504',
        '10.00%',
        '10.5 (7.0 to 14.0)',
        '5.2 (3.5 to 7.0)',
        '1.5 (1.0 to 2.0)',
    )
    assert rows[1] == ('valid', '1', '1', '0', '504 x 504', '0.00%', '-', '-', '-')


def test_problems_of_one_cause_are_one_row(tmp_path):
    """Three kinds of fault in 12 files, among them values and lines that differ."""
    write(tmp_path, 'train', {f'box{i}': '0 0.5 0.5 0.1 0.1\n' * 5 for i in range(5)})
    write(tmp_path, 'train', {f'id{i}': f'{i} 0 0 1 0 1 1\n' for i in range(1, 6)})
    write(tmp_path, 'train', {'none1': None, 'none2': None})
    _, problems = inspect(tmp_path)
    causes = group_by_cause(problems)
    assert [len(cause) for cause in causes] == [25, 5, 2]
    boxes, ids, none = (describe_cause(cause) for cause in causes)
    labels, images = tmp_path / 'train/labels', tmp_path / 'train/images'
    assert boxes[:4] == ('error', 'train', '25', '5')
    first, *others = boxes[4].split('\n')
    assert first.startswith(f'{labels}/box0.txt, line 1: five values')
    assert others == [f'also {labels}/box1.txt, line 1', f'also {labels}/box2.txt, line 1']
    assert ids[2:4] == ('5', '5')
    for i, example in enumerate(ids[4].split('\n'), start=1):
        assert f"{labels}/id{i}.txt, line 1: unknown class id '{i}'" in example
    assert none == (
        *('warning', 'train', '2', '2'),
        f'{images}/none1.png has no label file and is taken as background. Add one, empty if nothing is to be seen.\n'
        f'also {images}/none2.png',
    )


def test_files_without_a_partner_are_each_named(tmp_path):
    """Labels without image, images without label, and files that are no images: five of each are three rows."""
    write(tmp_path, 'train', {f'bare{i}': None for i in range(5)} | {'a': LINE})
    for i in range(5):
        (tmp_path / f'train/labels/orphan{i}.txt').touch()
        (tmp_path / f'train/images/phone{i}.gif').touch()
    _, problems = open_split(tmp_path, 'train')
    assert [len(cause) for cause in group_by_cause(problems)] == [5, 5, 5]
    names = [name for i in range(5) for name in (f'bare{i}.png', f'orphan{i}.txt', f'phone{i}.gif')]
    assert sorted(Path(problem.file).name for problem in problems) == sorted(names)


def test_examples_are_of_several_files_before_several_lines(tmp_path):
    write(tmp_path, 'train', {'a': '0 0.5\n' * 9, 'b': '0 0.5\n'})
    write(tmp_path, 'valid', {'c': '0 0.5\n'})
    problems = [*inspect(tmp_path)[1], *inspect(tmp_path, 'valid')[1]]
    (cause,) = group_by_cause(problems)
    _, split, count, files, text = describe_cause(cause)
    assert (split, count, files) == ('train, valid', '11', '3')
    assert [name in example for name, example in zip('abc', text.split('\n'), strict=True)] == [True] * 3


def test_two_masks_with_other_values_are_one_cause(tmp_path):
    (tmp_path / 'train/masks').mkdir(parents=True)
    write(tmp_path, 'train', {'a': None, 'b': None, 'c': None})
    for name, value in (('a', 7), ('b', 9)):
        cv2.imwrite(str(tmp_path / f'train/masks/{name}.png'), np.full((96, 128), value, np.uint8))
    (tmp_path / 'train/masks/c.png').write_bytes(b'no image')
    _, problems = inspect(tmp_path, annotations='masks')
    assert [len(cause) for cause in group_by_cause(problems)] == [2, 1]
    assert {problem.file for problem in problems} == {str(tmp_path / f'train/masks/{name}.png') for name in 'abc'}


def test_one_statement_may_find_two_causes(tmp_path):
    """Pillow's reason decides: three files that are no PNG, two that end too early, at different bytes."""
    (tmp_path / 'train/masks').mkdir(parents=True)
    write(tmp_path, 'train', dict.fromkeys('abcde'))
    mask = cv2.imencode('.png', np.random.default_rng(0).integers(0, 2, (96, 128), np.uint8))[1].tobytes()
    contents = {'a': b'', 'b': mask[:700], 'c': b'text', 'd': mask[:900], 'e': b'more text'}
    for name, content in contents.items():
        (tmp_path / f'train/masks/{name}.png').write_bytes(content)
    causes = group_by_cause(inspect(tmp_path, annotations='masks')[1])
    assert [[Path(problem.file).stem for problem in cause] for cause in causes] == [['a', 'c', 'e'], ['b', 'd']]


@pytest.mark.parametrize(
    'lines',
    [
        '0 0 0 1 nan 1 1\n0 0 0 1 1 inf 1\n',
        '0 0 0 1 x 1 1\n0 0 0 1 1 crack 1\n0 0 "quoted" 1 1 1 1\n',
        '0 0 0 1 1 2.5 1\n0 0 -7e-1 1 1 3 1\n',
        '0 0 0 1\n0 0 0 1 1 1\n',
        '0.5 0 0 1 1 1 0\n-1.5 0 0 1 1 1 0\n',
    ],
)
def test_other_values_are_no_other_cause(tmp_path, lines):
    write(tmp_path, 'train', {'a': lines})
    _, problems = inspect(tmp_path)
    assert len(problems) == lines.count('\n')
    assert len(group_by_cause(problems)) == 1


def test_problems_know_file_and_line(tmp_path):
    write(tmp_path, 'train', {'a': LINE + '\n0 0.5\n', 'b': LINE})
    (tmp_path / 'train/images/b.png').write_bytes(b'no image')
    _, (label, image) = inspect(tmp_path)
    assert (label.file, label.line) == (str(tmp_path / 'train/labels/a.txt'), 3)
    assert (image.file, image.line) == (str(tmp_path / 'train/images/b.png'), None)


@pytest.mark.parametrize('annotations', ['polygons', 'masks'])
def test_split_without_foreground_is_a_warning(tmp_path, annotations):
    write(tmp_path, 'train', {'a': '', 'b': None})
    (tmp_path / 'train/masks').mkdir()
    for name in 'ab':
        cv2.imwrite(str(tmp_path / f'train/masks/{name}.png'), np.zeros((96, 128), np.uint8))
    samples, _ = inspect(tmp_path, annotations=annotations)
    (problem,) = find_absent_classes(samples, ['crack'])
    assert problem.severity == 'warning'
    assert "no foreground ('crack'), all is background, in 2 images" in problem.text
    (tmp_path / 'train/labels/a.txt').write_text(LINE)
    cv2.imwrite(str(tmp_path / 'train/masks/a.png'), np.full((96, 128), 255, np.uint8))
    assert find_absent_classes(inspect(tmp_path, annotations=annotations)[0], ['crack']) == []


def test_class_that_is_left_out_or_nowhere_is_a_warning(tmp_path):
    """Two classes of which one is in no label, and polygons that class_map or boxes leave out."""
    write(tmp_path, 'train', {'a': LINE, 'b': ''})
    (tmp_path / 'data.yaml').write_text('names: [crack, spalling]')
    classes = ('crack', 'spalling')
    (problem,) = find_absent_classes(inspect(tmp_path, classes=classes)[0], classes)
    assert "nothing of the class 'spalling' in 2 images" in problem.text
    assert 'crack/IoU/spalling' in problem.text
    left_out = inspect(tmp_path, classes=('spalling',), class_map={'crack': None})[0]
    assert 'no foreground' in find_absent_classes(left_out, ('spalling',))[0].text
    write(tmp_path, 'train', {'a': '0 0.5 0.5 0.5 0.5\n'})
    dropped = inspect(tmp_path, classes=classes, boxes='drop')[0]
    assert "no foreground ('crack', 'spalling')" in find_absent_classes(dropped, classes)[0].text


def test_labels_with_faults_may_have_foreground(tmp_path):
    write(tmp_path, 'train', {'a': '0 0.5\n'})
    assert find_absent_classes(inspect(tmp_path)[0], ['crack']) == []
    write(tmp_path, 'train', {'a': '0 0.5\n', 'b': ''})
    (problem,) = find_absent_classes(inspect(tmp_path)[0], ['crack'])
    assert 'in the 1 of 2 images whose labels have no faults' in problem.text


def test_label_that_cannot_be_opened_is_named(tmp_path):
    write(tmp_path, 'train', {'a': LINE})
    (tmp_path / 'train/labels/a.txt').unlink()
    (tmp_path / 'train/labels/a.txt').symlink_to('nowhere')
    samples, (problem,) = inspect(tmp_path)
    assert samples == []
    assert problem.text.startswith(f'{tmp_path}/train/labels/a.txt cannot be read: No such file')


def test_what_the_options_leave_out_is_counted(tmp_path):
    write(tmp_path, 'train', {'a': LINE * 2 + '1' + LINE[1:] + '0 0.5 0.5 0.1 0.1\n' * 3})
    (tmp_path / 'data.yaml').write_text('names: [crack, scale bar]')
    (sample,), _ = inspect(tmp_path, class_map={'scale bar': None}, boxes='drop')
    assert sample.polygons == {'crack': 2, 'scale bar (left out)': 1, 'boxes (dropped)': 3}
    assert summarize([sample], 1008)[0][3] == '3 boxes (dropped), 2 crack, 1 scale bar (left out)'


def test_class_that_others_cover_is_a_warning(tmp_path):
    """A crack inside a patch of spalling: drawn before it, nothing of it is left; drawn after it, all is well."""
    patch = '1 0 0 1 0 1 0.6 0 0.6\n'
    write(tmp_path, 'train', {'covered': LINE + patch, 'fine': patch + LINE, 'crack': LINE})
    (tmp_path / 'data.yaml').write_text('names: [crack, spalling]')
    samples, problems = inspect(tmp_path, classes=('crack', 'spalling'))
    assert [sample.present for sample in samples] == [{'spalling'}, {'crack'}, {'crack', 'spalling'}]
    (problem,) = [problem for problem in problems if problem.cause == 'covered']
    assert problem.text.startswith(f'{tmp_path}/train/labels/covered.txt: the polygons of crack leave no pixel')
    left_out = inspect(tmp_path, classes=('spalling',), class_map={'crack': None})[1]
    assert not [problem for problem in left_out if problem.cause == 'covered']


def cracked(root: Path, name: str, down: int) -> None:
    """A dark crack on a rough surface, and a label that lies so many pixels below it."""
    image = np.random.default_rng(0).normal(150, 12, (200, 300)).clip(0, 255).astype(np.uint8)
    points = np.array([[20, 60], [120, 100], [200, 90], [280, 140]])
    cv2.polylines(image, [points], False, 70, 3)
    cv2.imwrite(str(root / 'train/images' / f'{name}.png'), cv2.cvtColor(image, cv2.COLOR_GRAY2BGR))
    middle = points + np.array([0, down])
    outline = np.concatenate([middle - np.array([0, 1]), middle[::-1] + np.array([0, 1])])
    values = ' '.join(f'{value:.5f}' for value in (outline / [300, 200]).ravel())
    (root / 'train/labels' / f'{name}.txt').write_text(f'0 {values}\n')


@pytest.mark.parametrize(('down', 'told'), [(0, False), (1, False), (8, True), (-15, True)])
def test_a_label_beside_its_crack_is_told_with_the_way_to_it(tmp_path, down, told):
    write(tmp_path, 'train', {})
    cracked(tmp_path, 'a', down)
    _, problems = inspect(tmp_path)
    found = [problem.text for problem in problems if problem.cause == 'beside']
    assert len(found) == told
    if told:
        ways = {name: int(pixels) for pixels, name in re.findall(r'(\d+) pixels (left|right|up|down)', found[0])}
        assert ways.pop('up' if down > 0 else 'down') == pytest.approx(abs(down), abs=1)
        assert all(pixels == 1 for pixels in ways.values()) and 'a.txt lies beside' in found[0]


@pytest.mark.skipif(not DEEPCRACK.is_dir(), reason='DeepCrack is not here')
def test_the_label_of_deepcrack_that_lies_beside_its_crack_is_found():
    """A caption was added below the photograph after it was labelled."""
    folder = DEEPCRACK / 'valid'
    for name, offset in (('11168', (0, -10)), ('11168-2', None)):
        mask = cv2.imread(str(folder / 'masks' / f'{name}.png'), cv2.IMREAD_GRAYSCALE) > 0
        found = find_offset(cv2.imread(str(folder / 'images' / f'{name}.jpg')), mask)
        assert (found and found[:2]) == offset


def test_pale_and_two_sided_cracks_are_not_beside_their_labels():
    rough = np.random.default_rng(0).normal(150, 12, (200, 300))
    mask = np.zeros((200, 300), bool)
    mask[98:104, 20:280] = True
    for upper, lower in ((60, 60), (230, 230), (60, 120)):
        picture = rough.copy()
        picture[98:101, 20:280], picture[101:104, 20:280] = upper, lower
        image = np.repeat(picture.clip(0, 255).astype(np.uint8)[..., None], 3, axis=2)
        assert find_offset(image, mask) is None
        moved = find_offset(image, np.roll(mask, 12, axis=0))
        assert moved is not None and moved.down == pytest.approx(-12, abs=2)


@pytest.mark.parametrize('factor', [1, 6])
def test_the_way_to_the_crack_is_in_pixels_of_the_file(factor):
    """Large pictures are reduced to be compared."""
    image = np.full((200 * factor, 300 * factor, 3), 150, np.uint8)
    mask = np.zeros(image.shape[:2], bool)
    image[100 * factor : 103 * factor, 50 * factor : 250 * factor] = 60
    mask[112 * factor : 115 * factor, 42 * factor : 242 * factor] = True
    offset = find_offset(image, mask)
    assert offset is not None
    assert (offset.right, offset.down) == pytest.approx((8 * factor, -12 * factor), abs=factor)


@pytest.mark.parametrize('shape', [(1, 1), (1, 40), (5, 3), (64, 64)])
def test_pictures_without_contrast_or_room_have_no_offset(shape):
    mask = np.zeros(shape, bool)
    assert find_offset(np.full((*shape, 3), 9, np.uint8), mask) is None
    mask[0, 0] = True
    assert find_offset(np.full((*shape, 3), 9, np.uint8), mask) is None
    assert find_offset(np.full((*shape, 3), 9, np.uint8), np.ones(shape, bool)) is None
