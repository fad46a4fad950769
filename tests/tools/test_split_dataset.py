"""`tools/split_dataset.py`."""

import runpy
from collections.abc import Callable
from pathlib import Path

import pytest

from crack_plugin.datasets import YOLOCrackDataset
from crack_plugin.datasets.names import source_name
from crack_plugin.datasets.splitting import split_groups

TOOLS = Path(__file__).parents[2] / 'tools'


@pytest.fixture
def tool(monkeypatch) -> dict:
    monkeypatch.syspath_prepend(TOOLS)
    return runpy.run_path(str(TOOLS / 'split_dataset.py'))


@pytest.fixture
def export(tmp_path) -> Path:
    """40 pictures with three augmentations each, all in train."""
    for picture in range(40):
        for augmentation in range(3):
            for kind, suffix in (('images', 'jpg'), ('labels', 'txt')):
                path = tmp_path / 'export/train' / kind / f'wall-{picture}_jpg.rf.{augmentation}{picture}.{suffix}'
                path.parent.mkdir(parents=True, exist_ok=True)
                path.touch()
    (tmp_path / 'export/data.yaml').write_text('train: ../train/images\nval: ../valid/images\nnames: [Riß]\n')
    return tmp_path / 'export'


def files_of(root: Path, split: str) -> list[Path]:
    dataset = YOLOCrackDataset(root, split, classes=('Riß',))
    infos = [dataset.get_data_info(i) for i in range(len(dataset))]
    assert all(Path(info['label_path']).exists() for info in infos)
    return [Path(info['img_path']).resolve() for info in infos]


def run_to_error(main: Callable, capsys, *arguments: object) -> str:
    with pytest.raises(SystemExit) as stop:
        main([str(argument) for argument in arguments])
    assert stop.value.code
    return capsys.readouterr().err


def test_pictures_stay_together_and_nothing_is_lost(export, tmp_path, tool):
    tool['main']([str(export), str(tmp_path / 'split')])
    train, valid = (files_of(tmp_path / 'split', split) for split in ('train', 'valid'))
    assert sorted(train + valid) == sorted((export / 'train/images').resolve().iterdir())
    assert len(valid) == 18  # 15 % of 120
    assert not {source_name(str(image)) for image in train} & {source_name(str(image)) for image in valid}


def test_test_images_stay_apart(export, tmp_path, tool):
    for kind, suffix in (('images', 'jpg'), ('labels', 'txt')):
        (export / 'test' / kind).mkdir(parents=True)
        (export / 'test' / kind / f'held.{suffix}').touch()
    tool['main']([str(export), str(tmp_path / 'split')])
    assert files_of(tmp_path / 'split', 'test') == [(export / 'test/images/held.jpg').resolve()]
    assert len(files_of(tmp_path / 'split', 'train')) == 102


def test_masks_can_be_split(export, tmp_path, tool):
    (export / 'train/labels').rename(export / 'train/masks')
    for mask in (export / 'train/masks').iterdir():
        mask.rename(mask.with_suffix('.png'))
    tool['main']([str(export), str(tmp_path / 'split'), '--annotations', 'masks'])
    dataset = YOLOCrackDataset(tmp_path / 'split', 'valid', annotations='masks', missing_label='error')
    assert len(dataset) == 18


def test_same_seed_same_split(export, tmp_path, tool):
    lists = []
    for name, seed in (('a', 1), ('b', 1), ('c', 2)):
        tool['main']([str(export), str(tmp_path / name), '--seed', str(seed)])
        lists.append((tmp_path / name / 'valid.txt').read_text())
    assert lists[0] == lists[1] != lists[2]


def test_groups_by_a_pattern(tmp_path, tool):
    for i in range(20):
        for kind, suffix in (('images', 'png'), ('labels', 'txt')):
            path = tmp_path / 'tiles/images/train' / f'b{i // 5}_tile{i}.png'
            path = Path(str(path).replace('images', kind)).with_suffix(f'.{suffix}')
            path.parent.mkdir(parents=True, exist_ok=True)
            path.touch()
    tool['main']([str(tmp_path / 'tiles'), str(tmp_path / 'split'), '--group', r'(.+)_tile\d+'])
    dataset = YOLOCrackDataset(tmp_path / 'split', 'val')
    names = {Path(dataset.get_data_info(i)['img_path']).name.split('_')[0] for i in range(len(dataset))}
    assert len(dataset) == 5
    assert len(names) == 1


@pytest.mark.parametrize(
    ('sizes', 'share', 'expected'), [([1] * 100, 0.15, 15), ([10, 1, 1], 0.15, (1, 2, 10)), ([50, 50], 0.15, 50)]
)
def test_share_is_met_as_closely_as_whole_groups_allow(sizes, share, expected):
    groups = {str(i): [f'{i}/{j}' for j in range(size)] for i, size in enumerate(sizes)}
    for seed in range(10):
        train, valid = split_groups(groups, share, seed)
        assert train
        assert sorted(train + valid) == sorted(image for group in groups.values() for image in group)
        assert len(valid) in (expected if isinstance(expected, tuple) else (expected,))


def test_source_names():
    assert source_name('a/wall.1_jpg.rf.0f3a.jpg') == source_name('b/wall.1_jpg.rf.77.jpg')
    assert source_name('a/wall.1_jpg.rf.0f3a.jpg') != source_name('a/wall.2_jpg.rf.0f3a.jpg')
    assert source_name('export.rf.1/wall.jpg') == source_name('wall.png') == 'wall'


def test_wrong_use_is_explained(export, tmp_path, tool, capsys):
    main = tool['main']
    assert 'between 0 and 1' in run_to_error(main, capsys, export, tmp_path / 'o', '--share', 1)
    assert 'no regular expression' in run_to_error(main, capsys, export, tmp_path / 'o', '--group', '(')
    assert 'one is wanted' in run_to_error(main, capsys, export, tmp_path / 'o', '--group', 'a')
    assert 'does not match' in run_to_error(main, capsys, export, tmp_path / 'o', '--group', '(floor)')
    assert 'one group' in run_to_error(main, capsys, export, tmp_path / 'o', '--group', '(wall)')
    assert "no split 'extra'" in run_to_error(main, capsys, export, tmp_path / 'o', '--split', 'extra')
    main([str(export), str(tmp_path / 'o')])
    assert 'exists' in run_to_error(main, capsys, export, tmp_path / 'o')
    main([str(export), str(tmp_path / 'o'), '--overwrite'])


@pytest.mark.parametrize(('images', 'labels'), [('images', 'labels'), ('.', '.'), ('images', 'images')], ids=str)
def test_a_dataset_without_splits(images, labels, tmp_path, tool):
    root = tmp_path / 'export'
    for i in range(10):
        for folder, suffix in ((images, 'jpg'), (labels, 'txt')):
            (root / folder).mkdir(parents=True, exist_ok=True)
            (root / folder / f'{i}.{suffix}').touch()
    (root / 'classes.txt').write_text('Riß\nscale bar\n')
    tool['main']([str(root), str(tmp_path / 'split')])
    options = {'classes': ('Riß',), 'class_map': {'scale bar': None}, 'missing_label': 'error'}
    train, valid = (YOLOCrackDataset(tmp_path / 'split', split, **options) for split in ('train', 'valid'))
    paths = [dataset.get_data_info(i)['img_path'] for dataset in (train, valid) for i in range(len(dataset))]
    assert (len(train), len(valid)) == (8, 2)
    assert sorted(Path(path).resolve() for path in paths) == sorted((root / images).resolve().glob('*.jpg'))
