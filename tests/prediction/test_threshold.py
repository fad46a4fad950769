"""`tools/tune_threshold.py`: the threshold against a search by NumPy, who uses it, and what is refused."""

import runpy
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from conftest import TOOLS
from mmengine.config import Config
from mmengine.dataset import pseudo_collate
from mmengine.runner import Runner, load_checkpoint
from mmseg.apis import init_model

from crack_plugin.checkpoints import find_best
from crack_plugin.evaluation import CrackMetric, measures
from crack_plugin.models import SAM3TextLoRA
from crack_plugin.models.foreground_segmentor import ForegroundSegmentor
from crack_plugin.models.logits import threshold_labels
from crack_plugin.prediction import Predictor
from crack_plugin.prediction.threshold import ThresholdError, check_split, label_histograms, search_threshold

Tune = Callable[..., Path]


@pytest.fixture(autouse=True)
def dark_is_crack(monkeypatch: pytest.MonkeyPatch) -> None:
    """What is dark is crack, more or less: so the best threshold is in the middle of the range."""

    def foreground_logits(self: SAM3TextLoRA, inputs: torch.Tensor, metas: list[dict], *_: Any) -> torch.Tensor:
        return -3 * inputs.mean(dim=1, keepdim=True) - 1.5

    monkeypatch.setattr(SAM3TextLoRA, 'foreground_logits', foreground_logits)
    # SAM3TextLoRA's own goes around it.
    monkeypatch.setattr(SAM3TextLoRA, 'segment_images', ForegroundSegmentor.segment_images)


@pytest.fixture
def config(trained: dict[str, Path], crack_folder: Path, tmp_path: Path) -> Path:
    """That of the trained weights, with the pictures they were made for."""
    path = tmp_path / 'tiny.py'
    path.write_text(
        f"""
_base_ = {str(trained['config'])!r}
data_root = {str(crack_folder)!r}
train_dataloader = dict(batch_size=1, num_workers=0, persistent_workers=False, dataset=dict(data_root=data_root))
val_dataloader = dict(num_workers=0, persistent_workers=False, dataset=dict(data_root=data_root))
test_dataloader = val_dataloader
"""
    )
    return path


@pytest.fixture
def checkpoint(trained: dict[str, Path], config: Path, tmp_path: Path) -> Path:
    """The trained weights in a folder of the test's own, with a config's text as MMEngine saves it."""
    content = torch.load(trained['checkpoint'])
    content['meta']['cfg'] = Config.fromfile(config).pretty_text
    torch.save(content, tmp_path / 'best_crack_IoU_epoch_1.pth')
    return tmp_path / 'best_crack_IoU_epoch_1.pth'


@pytest.fixture(scope='module')
def main() -> Callable[..., None]:
    return runpy.run_path(str(TOOLS / 'tune_threshold.py'))['main']


@pytest.fixture
def tune(main: Callable[..., None], config: Path, checkpoint: Path) -> Tune:
    """Runs the tool; the file that it writes."""

    def call(*options: str, of: Path = config) -> Path:
        main([str(of), str(checkpoint), '--device', 'cpu', *options])
        return checkpoint.with_name('best_crack_IoU_epoch_1_threshold.pth')

    return call


def validation_batches(config: Path) -> list[dict]:
    dataset = Runner.build_dataloader(Config.fromfile(config).val_dataloader).dataset
    return [pseudo_collate([dataset[index]]) for index in range(len(dataset))]


def search_by_numpy(config: Path, checkpoint: Path) -> tuple[int, np.ndarray]:
    """Hundredths of the best threshold, and F1 at each, with the model's probabilities of each validation image."""
    model = init_model(str(config), str(checkpoint), device='cpu')
    counts = np.zeros((99, 3))
    for batch in validation_batches(config):
        (sample,) = model.val_step(batch)
        p = sample.seg_logits.data.softmax(dim=0)[1].numpy()
        g = sample.gt_sem_seg.data[0].numpy() == 1
        for k in range(99):
            found = p > np.float32((k + 1) / 100)
            counts[k] += (found & g).sum(), (found & ~g).sum(), (~found & g).sum()
    tp, fp, fn = counts.T
    f1 = 2 * tp / (2 * tp + fp + fn)
    return int(f1.argmax()) + 1, f1


def test_threshold_is_the_best_and_everything_uses_it(
    tune: Tune, config: Path, checkpoint: Path, images: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    before = checkpoint.read_bytes()
    tuned = tune()
    assert checkpoint.read_bytes() == before
    hundredths, f1 = search_by_numpy(config, checkpoint)
    threshold = hundredths / 100
    # Otherwise nothing below could tell it from the default.
    assert threshold != 0.5 and 10 < hundredths < 90
    printed = capsys.readouterr().out
    assert f'Threshold {threshold:.2f}: F1 {f1.max():.4f} over 3 images' in printed
    assert any(line.split('|')[1:3] == ['    0.50   ', f' {f1[49]:.4f} '] for line in printed.splitlines())

    # mmseg.apis, which loads checkpoints as tools/test.py does, Predictor, and who saves the model again
    model = init_model(str(config), str(tuned), device='cpu')
    assert model.threshold == threshold
    image = next(images.glob('a.*'))
    prediction = Predictor(config, tuned, device='cpu')(image)
    np.testing.assert_array_equal(prediction.labels, prediction.probabilities[0] > np.float32(threshold))
    samples = [sample for batch in validation_batches(config) for sample in model.val_step(batch)]
    pairs = [(sample.pred_sem_seg.data == 1, sample.gt_sem_seg.data == 1) for sample in samples]
    both, total = sum((p & g).sum() for p, g in pairs), sum(p.sum() + g.sum() for p, g in pairs)
    assert float(2 * both / total) == pytest.approx(f1.max(), abs=1e-6)
    assert model.state_dict()._metadata['']['threshold'] == threshold

    # an explicit one has precedence
    cfg = Config.fromfile(config)
    cfg.model.threshold = 0.5
    assert init_model(cfg, str(tuned), device='cpu').threshold == 0.5

    # what the file says of it
    content = torch.load(tuned)
    assert content['meta']['threshold'] == {
        'value': threshold,
        'f1': pytest.approx(f1.max(), abs=1e-6),
        'images': 3,
        'split': 'valid',
    }
    assert Config.fromstring(content['meta']['cfg'], '.py').model.threshold == threshold
    assert find_best(checkpoint.parent) == checkpoint


def test_other_weights_have_another_threshold(tune: Tune, config: Path, checkpoint: Path) -> None:
    """Training on changes them, and so does loading others; neither keeps what the former ones were tuned to."""
    tuned = tune()
    model = init_model(str(config), str(tuned), device='cpu')
    assert model.threshold != 0.5
    load_checkpoint(model, str(checkpoint))
    assert model.threshold == 0.5
    load_checkpoint(model, str(tuned))
    assert model.threshold != 0.5
    cfg = Config.fromfile(config)
    loader = Runner.build_dataloader(cfg.train_dataloader)
    data = model.data_preprocessor(next(iter(loader)), training=True)
    model(**data, mode='loss')
    assert model.threshold == 0.5
    assert 'threshold' not in model.state_dict()._metadata['']


def test_one_class_is_crack_ods() -> None:
    generator = torch.Generator().manual_seed(0)
    histograms, expected = [], []
    for _ in range(3):
        label = (torch.rand(20, 30, generator=generator) < 0.3).long()
        logits = torch.stack([torch.zeros(20, 30), torch.randn(20, 30, generator=generator) + 2 * label - 2])
        label[:2] = 255
        histograms.append(label_histograms(logits, label))
        probability = CrackMetric._foreground_probability(logits)[0]
        expected.append(measures.probability_histogram(probability, label == 1, label != 255))
    np.testing.assert_array_equal(np.stack(histograms)[:, 0], np.stack(expected))


def test_several_classes_count_the_models_labels() -> None:
    generator = torch.Generator().manual_seed(0)
    label = torch.randint(3, (20, 30), generator=generator)
    logits = torch.cat([torch.zeros(1, 20, 30), torch.randn(2, 20, 30, generator=generator)])
    counts = measures.counts_by_threshold(label_histograms(logits, label))
    for k in (9, 49, 79):
        predicted = threshold_labels(logits[None], (k + 1) / 100)[0]
        for c in (1, 2):
            tp, fp = ((predicted == c) & (label == c)).sum(), ((predicted == c) & (label != c)).sum()
            assert counts[c - 1, k].tolist() == [tp, fp, (label == c).sum() - tp]


def refusal(call: Callable[[], object], capsys: pytest.CaptureFixture[str]) -> str:
    with pytest.raises(SystemExit) as exit_info:
        call()
    assert exit_info.value.code
    return ' '.join(capsys.readouterr().err.split())


def test_test_images_are_refused_by_name(tune: Tune, capsys: pytest.CaptureFixture[str]) -> None:
    assert "val_dataloader reads the test split ('test')" in refusal(lambda: tune('--split', 'test'), capsys)


def test_test_images_are_refused_under_another_name(
    tune: Tune, config: Path, crack_folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    copied = tmp_path / 'data'
    shutil.copytree(crack_folder, copied)
    other = tmp_path / 'other.py'

    def write(lines: str) -> None:
        other.write_text(f'_base_ = {str(config)!r}\ndata = {str(copied)!r}\n{lines}')

    write('val_dataloader = dict(dataset=dict(data_root=data))\ntest_dataloader = val_dataloader\n')
    yaml = copied / 'data.yaml'
    yaml.write_text(f'{yaml.read_text().rstrip()}\ntest: valid/images\n')
    assert '3 of 3 validation images are in the test split of' in refusal(lambda: tune(of=other), capsys)
    yaml.unlink()
    write(
        "val_dataloader = dict(dataset=dict(data_root=data, split='train'))\n"
        "test_dataloader = dict(dataset=dict(data_root=data, indices=2, split='train'))\n"
    )
    assert '2 of 6 validation images are in test_dataloader as well' in refusal(lambda: tune(of=other), capsys)
    cfg = Config({'val_dataloader': {'dataset': {'type': 'X', 'data_prefix': {'img_path': 'images/test'}}}})
    with pytest.raises(ThresholdError, match='reads the test split'):
        check_split(cfg)


def test_other_refusals(
    tune: Tune,
    config: Path,
    checkpoint: Path,
    crack_folder: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    target = checkpoint.with_name('best_crack_IoU_epoch_1_threshold.pth')
    target.write_bytes(b'mine')
    assert f'{target} exists. Name another file with --out' in refusal(tune, capsys)
    before = checkpoint.read_bytes()
    assert 'is the checkpoint' in refusal(lambda: tune('--overwrite', '--out', str(checkpoint)), capsys)
    assert checkpoint.read_bytes() == before
    assert target.read_bytes() == b'mine'
    copied = tmp_path / 'data'
    shutil.copytree(crack_folder, copied)
    for file in (copied / 'valid' / 'labels').iterdir():
        file.write_text('')
    cfg = Config.fromfile(config)
    cfg.val_dataloader.dataset.data_root = cfg.test_dataloader.dataset.data_root = str(copied)
    with pytest.raises(ThresholdError, match='none of the 3 validation images has anything to be found'):
        search_threshold(cfg, checkpoint, 'cpu')
    nan = torch.full((1, 1, 4, 4), torch.nan)
    monkeypatch.setattr(SAM3TextLoRA, 'foreground_logits', lambda *_: nan)
    with pytest.raises(ThresholdError, match=r'the logits of \S+valid\S+ are not finite'):
        search_threshold(cfg, checkpoint, 'cpu')
    cfg.model.type = 'EncoderDecoder'
    with pytest.raises(ThresholdError, match='EncoderDecoder has no threshold'):
        search_threshold(cfg, checkpoint, 'cpu')
