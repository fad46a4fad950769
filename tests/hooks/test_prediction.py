"""Saved masks are the scored masks, one file an image."""

import re
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from conftest import ScoreAs
from mmengine.config import Config
from mmengine.hooks import Hook
from mmengine.runner import Runner
from mmengine.structures import PixelData
from mmseg.structures import SegDataSample
from PIL import Image

from crack_plugin import files
from crack_plugin.hooks.prediction import PredictionHook, prediction_names


class Scored(Hook):
    """Remembers the masks as the evaluator saw them, by epoch and image."""

    def __init__(self) -> None:
        self.masks: dict[tuple[int, str], np.ndarray] = {}

    def after_val_iter(self, runner: Runner, batch_idx: int, data_batch: Any = None, outputs: Any = None) -> None:
        for sample in outputs:
            self.masks[runner.epoch, Path(sample.img_path).stem] = sample.pred_sem_seg.data[0].numpy() == 1


def make_runner(config: Path, work_dir: Path, **options: Any) -> Runner:
    cfg = Config.fromfile(config)
    cfg.merge_from_dict({'default_hooks.prediction.type': 'PredictionHook', **options})
    cfg.work_dir, cfg.experiment_name = str(work_dir), f'prediction_{time.monotonic_ns()}'
    return Runner.from_cfg(cfg)


def test_every_epoch_holds_the_scored_masks(tiny_config: Path, tmp_path: Path, crack_folder: Path) -> None:
    runner = make_runner(tiny_config, tmp_path)
    scored = Scored()
    runner.register_hook(scored)
    runner.train()
    images = sorted(path.stem for path in (crack_folder / 'valid' / 'images').iterdir())
    for epoch in (1, 2):
        folder = tmp_path / 'predictions' / f'epoch_{epoch}'
        assert sorted(path.name for path in folder.iterdir()) == [f'{name}.png' for name in images]
        for name in images:
            mask = np.array(Image.open(folder / f'{name}.png'))
            assert np.array_equal(mask, scored.masks[epoch, name] * np.uint8(255))
    assert {mask.any() for mask in scored.masks.values()} == {True}


def test_old_epochs_go_and_the_best_stays(tiny_config: Path, tmp_path: Path) -> None:
    (tmp_path / 'predictions' / 'epoch_9').mkdir(parents=True)
    options = {'train_cfg.max_epochs': 4, 'default_hooks.prediction.max_keep_epochs': 1}
    runner = make_runner(tiny_config, tmp_path, **options)
    runner.register_hook(ScoreAs([0.1, 0.7, 0.2, 0.3]))
    runner.train()
    kept = sorted(path.name for path in (tmp_path / 'predictions').iterdir())
    assert kept == ['epoch_2', 'epoch_4', 'epoch_9']


def test_outside_training_folders_have_the_loops_name(tiny_config: Path, tmp_path: Path) -> None:
    make_runner(tiny_config, tmp_path).test()
    make_runner(tiny_config, tmp_path).val()
    test, val = (sorted((tmp_path / 'predictions' / name).iterdir()) for name in ('test', 'val'))
    assert len(test) == 3
    assert [path.read_bytes() for path in test] == [path.read_bytes() for path in val]


@pytest.mark.parametrize(
    ('paths', 'names'),
    [
        (['/d/x/1.jpg', '/d/y/2.jpg'], ['1', '2']),
        (['/d/x/1.jpg', '/d/y/1.jpg', '/d/y/2.jpg'], ['x/1', 'y/1', 'y/2']),
        (['/d/1.jpg', '/d/1.png'], ['1.jpg', '1.png']),
        (['/d/1.v2.jpg', '/d/1.v2.jpg', '/d/1.jpg'], ['1.v2', '1.v2', '1']),
        (['1.jpg'], ['1']),
    ],
)
def test_names_do_not_collide(paths: list[str], names: list[str]) -> None:
    found = prediction_names(paths)
    assert [found[path] for path in paths] == names


class Pictures:
    """A dataset as the hook knows it."""

    def __init__(self, paths: list[str], classes: tuple[str, ...]) -> None:
        self.paths = paths
        self.metainfo = {'classes': classes}

    def __len__(self) -> int:
        return len(self.paths)

    def get_data_info(self, index: int) -> dict[str, str]:
        return {'img_path': self.paths[index]}


def prediction(path: str, labels: torch.Tensor) -> SegDataSample:
    return SegDataSample(metainfo={'img_path': path}, pred_sem_seg=PixelData(data=labels[None]))


class FakeRunner:
    def __init__(self, work_dir: Path, dataset: Pictures) -> None:
        self.work_dir = str(work_dir)
        self.test_loop = self
        self.dataloader = self
        self.dataset = dataset


def test_several_classes_have_a_folder_each(tmp_path: Path) -> None:
    paths = ['/d/a/1.jpg', '/d/b/1.jpg']
    hook = PredictionHook()
    runner = FakeRunner(tmp_path, Pictures(paths, ('background', 'crack', 'rust/stain')))
    hook.before_test_epoch(runner)
    labels = torch.tensor([[0, 1], [2, 1]])
    hook.after_test_iter(runner, 0, outputs=[prediction(path, labels) for path in paths])
    written = sorted(path for path in (tmp_path / 'predictions' / 'test').rglob('*') if path.is_file())
    assert [path.relative_to(tmp_path / 'predictions' / 'test').as_posix() for path in written] == [
        'crack/a/1.png',
        'crack/b/1.png',
        'rust_stain/a/1.png',
        'rust_stain/b/1.png',
    ]
    assert np.array(Image.open(written[0])).tolist() == [[0, 255], [0, 255]]
    assert np.array(Image.open(written[2])).tolist() == [[0, 0], [255, 0]]


def test_an_interrupted_write_leaves_the_former_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    files.write_atomically(tmp_path / 'a.png', b'whole')

    def interrupted(*args: Any) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(Path, 'replace', interrupted)
    with pytest.raises(KeyboardInterrupt):
        files.write_atomically(tmp_path / 'a.png', b'half')
    assert [(path.name, path.read_bytes()) for path in tmp_path.iterdir()] == [('a.png', b'whole')]


def test_what_cannot_be_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match='max_keep_epochs'):
        PredictionHook(max_keep_epochs=0)
    with pytest.raises(ValueError, match=re.escape("('crack',)")):
        PredictionHook().before_test_epoch(FakeRunner(tmp_path, Pictures(['1.jpg'], ('crack',))))
