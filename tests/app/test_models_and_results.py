"""Weights to choose, predictions with progress and cancel, and the files to download, with a tiny random SAM 3."""

import csv
import json
import threading
import zipfile
from concurrent.futures import wait
from dataclasses import replace
from pathlib import Path

import cv2
import numpy as np
import pytest
import torch
from mmengine.config import Config

from crack_plugin.app import jobs, results
from crack_plugin.app.jobs import Job, Request, Worker, checked_settings, in_words, predict
from crack_plugin.app.limits import AppError, BusyError, Limits, UnknownError
from crack_plugin.app.models import GIVEN, ZERO_SHOT, Models, check_prompt, last_adapter
from crack_plugin.app.photographs import BEFORE, NOW, Photograph, Settings
from crack_plugin.app.sessions import Session
from crack_plugin.errors import ConfigError
from crack_plugin.inspection.severity import PROFILES
from crack_plugin.prediction import Predictor

SETTINGS = Settings(ZERO_SHOT, 'crack')
# Blocks of foreground pixels, so that cracks have places that are known.
BAR = np.s_[10:14, 5:35]


@pytest.fixture
def models(trained: dict[str, Path], tmp_path: Path) -> Models:
    """With an adapter."""
    config = Config.fromfile(trained['config'])
    return Models(config, None, str(trained['adapter']), tmp_path / 'trainings', 'cpu')


@pytest.fixture
def session(tmp_path: Path) -> Session:
    """Without photographs."""
    (tmp_path / 'session').mkdir()
    return Session(tmp_path / 'session', Limits(free_bytes=0))


def add(session: Session, name: str = 'a.png', shape: tuple[int, int] = (40, 60)) -> Photograph:
    """A photograph of noise."""
    image = np.random.default_rng(len(name)).integers(0, 256, (*shape, 3), np.uint8)
    upload = session.folder / 'upload'
    upload.write_bytes(cv2.imencode('.png', image)[1].tobytes())
    return session.add(name, upload)


def predicted(session: Session, name: str = 'a.png', settings: Settings = SETTINGS) -> Photograph:
    """A photograph with a bar of 4 x 30 pixels for a crack."""
    photograph = add(session, name)
    probability = np.zeros(photograph.shape, np.uint8)
    probability[BAR] = 204
    photograph.keep(NOW, probability, settings)
    return photograph


def test_config_of_several_classes_or_another_model_is_refused(trained: dict[str, Path], tmp_path: Path) -> None:
    config = Config.fromfile(trained['config'])
    config.model.prompts = ['crack', 'rust']
    with pytest.raises(AppError, match=r'one class, and model\.prompts has 2'):
        Models(config, None, None, tmp_path)
    config.model.type = 'EncoderDecoder'
    with pytest.raises(AppError, match='SAM3TextLoRA, this is EncoderDecoder'):
        Models(config, None, None, tmp_path)


def test_page_begins_with_the_windows_of_the_config(trained: dict[str, Path], tmp_path: Path) -> None:
    config = Config.fromfile(trained['config'])
    whole = Models(config, None, None, tmp_path, 'cpu')
    whole.load()
    assert not whole.in_windows and whole.step < whole.window == whole.predictor(ZERO_SHOT, 'crack').model.image_size
    config.model.test_cfg = {'mode': 'slide', 'crop_size': (40, 48), 'stride': (30, 20)}
    windows = Models(config, None, None, tmp_path, 'cpu')
    windows.load()
    assert (windows.in_windows, windows.window, windows.step) == (True, 48, 20)


def test_weights_to_choose(models: Models, tmp_path: Path) -> None:
    assert [weights.key for weights in models.choices()] == [GIVEN, ZERO_SHOT]
    for epoch in (2, 10):
        folder = tmp_path / 'trainings' / 'mine-1' / 'adapters' / f'epoch_{epoch}'
        folder.mkdir(parents=True)
        (folder / 'adapter_model.safetensors').touch()
    (tmp_path / 'trainings' / 'begun' / 'adapters').mkdir(parents=True)
    assert last_adapter(tmp_path / 'trainings' / 'mine-1') == folder
    assert [weights.key for weights in models.choices()] == [GIVEN, ZERO_SHOT, 'trained/mine-1']
    assert models.weights('trained/mine-1').adapter == str(folder)
    with pytest.raises(UnknownError, match='Choose others'):
        models.weights('trained/../..')


def test_predictors_are_those_of_the_config(models: Models, trained: dict[str, Path], session: Session) -> None:
    """And two stay in memory, however many are asked for."""
    photograph = add(session)
    config = Config.fromfile(trained['config'])
    wanted = Predictor(config, adapter=trained['adapter'], device='cpu', prompts=['a thin crack'])
    found = predict(models, photograph, Settings(GIVEN, 'a thin crack'), Job(1))
    assert np.abs(found / 255 - wanted(photograph.file).probabilities[0]).max() <= 0.5 / 255 + 1e-6

    config.model.lora = None
    zero_shot = predict(models, photograph, SETTINGS, Job(1))
    expected = Predictor(config, device='cpu')(photograph.file).probabilities[0]
    assert np.abs(zero_shot / 255 - expected).max() <= 0.5 / 255 + 1e-6
    assert np.abs(zero_shot.astype(int) - found).max() > 2

    again = predict(models, photograph, Settings(GIVEN, 'a thin crack'), Job(1))
    np.testing.assert_array_equal(again, found)
    assert models.config.pretty_text == Config.fromfile(trained['config']).pretty_text

    first = models.predictor(ZERO_SHOT, 'crack')
    assert models.predictor(ZERO_SHOT, 'crack') is first
    models.predictor(ZERO_SHOT, 'line')
    models.predictor(ZERO_SHOT, 'gap')
    assert len(models._predictors) == 2
    assert models.predictor(ZERO_SHOT, 'crack') is not first


def test_prompt_is_checked_before_a_model_is_loaded() -> None:
    assert check_prompt('  thin \n crack ') == 'thin crack'
    with pytest.raises(AppError, match='the prompt is empty'):
        check_prompt(' ')
    with pytest.raises(ConfigError, match='SAM 3 reads 32'):
        check_prompt('crack ' * 40)


@pytest.mark.parametrize(
    ('window', 'step', 'told'), [(16, 16, '32 or more'), (64, 65, 'left out'), (64, 0, 'left out')]
)
def test_windows_that_leave_pixels_out_are_refused(window: int, step: int, told: str) -> None:
    with pytest.raises(AppError, match=told):
        checked_settings(GIVEN, 'crack', window, step)


def test_windows_are_counted_and_blended_as_the_predictor_does(models: Models, session: Session) -> None:
    photograph = add(session, shape=(60, 100))
    job = Job(1)
    found = predict(models, photograph, checked_settings(ZERO_SHOT, 'crack', 40, 30), job)
    # Rows at 0 and 20, columns at 0, 30 and 60.
    assert (job.windows, job.all_windows) == (6, 6)
    predictor = models.predictor(ZERO_SHOT, 'crack')
    predictor.model.window_progress = iter
    assert np.abs(found / 255 - predictor(photograph.file).probabilities[0]).max() <= 0.5 / 255 + 1e-6
    whole = predict(models, photograph, SETTINGS, Job(1))
    assert not np.array_equal(whole, found)


def test_job_predicts_both_and_can_be_cancelled_between_windows(models: Models, session: Session) -> None:
    photographs = [add(session, 'a.png'), add(session, 'b.png')]
    worker = Worker(models)
    job = worker.start(session, Request(photographs, SETTINGS, before=GIVEN))
    wait([job.future])
    assert (job.state, job.done, job.total, job.fraction) == ('done', 4, 4, 1)
    assert all(
        photograph.predicted == {NOW: SETTINGS, BEFORE: replace(SETTINGS, weights=GIVEN)} for photograph in photographs
    )

    windows = checked_settings(ZERO_SHOT, 'crack', 32, 4)
    started, model = threading.Event(), models.predictor(ZERO_SHOT, 'crack').model
    encode = model.segment_windows

    def slowly(values: torch.Tensor) -> torch.Tensor:
        started.set()
        job.stop.wait(10)
        return encode(values)

    model.segment_windows = slowly
    job = worker.start(session, Request(photographs, windows))
    assert started.wait(10)
    with pytest.raises(BusyError, match='wait, or cancel'):
        worker.start(session, Request(photographs, windows))
    worker.cancel(session)
    wait([job.future], 10)
    assert (job.state, job.done, job.windows) == ('cancelled', 0, 1)
    # What was there before stays.
    assert photographs[0].predicted[NOW] == SETTINGS
    worker.close()


def test_failure_is_told_and_the_photographs_stay(
    models: Models, session: Session, monkeypatch: pytest.MonkeyPatch
) -> None:
    photograph, worker = add(session), Worker(models)

    def fail(*_: object) -> None:
        raise torch.OutOfMemoryError('CUDA out of memory. Tried to allocate 20.00 GiB')

    monkeypatch.setattr(jobs, 'predict', fail)
    job = worker.start(session, Request([photograph], SETTINGS))
    wait([job.future])
    facts = job.facts()
    assert facts['state'] == 'failed'
    assert 'Choose windows' in facts['error'] and 'Tried to allocate 20.00 GiB' in facts['error']
    assert session.photographs == [photograph]
    worker.close()


def test_errors_in_words() -> None:
    assert in_words(AppError('say so')) == 'say so'
    assert 'too little memory' in in_words(MemoryError())
    assert in_words(ZeroDivisionError('division by zero')).startswith('The program has a fault')


def test_rows_have_sizes_severity_and_place(session: Session) -> None:
    photograph = predicted(session)
    (row,) = results.rows(results.find(photograph, 0.5, PROFILES['bre251']))
    assert (row['unit'], row['severity'], row['score']) == ('px', None, 0.8)
    assert row['box'] == [5, 10, 35, 14]
    assert row['length'] == pytest.approx(30, abs=1)
    photograph.mm_per_pixel = 0.5
    (row,) = results.rows(results.find(photograph, 0.5, PROFILES['bre251']))
    assert (row['unit'], row['uncertainty']) == ('mm', 0.5)
    assert row['max_width'] == pytest.approx(2, abs=0.2)
    assert row['severity'] == '2 slight'
    assert results.rows(results.find(photograph, 0.9)) == []


def test_mask_and_overlay(session: Session) -> None:
    photograph = predicted(session)
    mask = cv2.imdecode(np.frombuffer(results.mask_png(photograph, 0.5), np.uint8), cv2.IMREAD_UNCHANGED)
    expected = np.zeros(photograph.shape, np.uint8)
    expected[BAR] = 255
    np.testing.assert_array_equal(mask, expected)
    painted = cv2.imdecode(np.frombuffer(results.overlay_jpg(photograph, 0.5), np.uint8), cv2.IMREAD_COLOR)
    assert painted.shape == (40, 60, 3)


def test_files_of_all_photographs(models: Models, session: Session) -> None:
    photographs = [predicted(session, 'a.png'), predicted(session, 'b.png')]
    corrections = np.zeros((40, 60), np.uint8)
    corrections[30:33, 20:50] = 1
    photographs[1].correct(corrections)
    photographs[0].mm_per_pixel = photographs[1].mm_per_pixel = 0.5
    folder = results.build(session, models, 0.5, PROFILES['bre251'])
    rows = list(csv.DictReader((folder / 'cracks.csv').open()))
    assert [(row['image'], row['mask'], row['unit'], row['severity']) for row in rows] == [
        ('a.png', 'masks/a.png', 'mm', '2 slight'),
        ('b.png', 'masks/b.png', 'mm', '2 slight'),
        ('b.png', 'masks/b.png', 'mm', rows[2]['severity']),
    ]
    features = json.loads((folder / 'polygons.geojson').read_text())['features']
    assert [feature['properties']['image'] for feature in features] == ['a.png', 'b.png', 'b.png']
    page = (folder / 'report.html').read_text()
    assert '2 photographs' in page and 'zero-shot (no adapter)' in page
    for name in results.FILES:
        assert str(session.folder) not in (folder / name).read_text()
    with zipfile.ZipFile(folder / results.ARCHIVE) as archive:
        assert {*results.FILES, 'predictions.csv', 'masks/a.png', 'overlays/b.jpg'} < set(archive.namelist())


def test_files_of_photographs_of_different_settings_are_refused(models: Models, session: Session) -> None:
    with pytest.raises(UnknownError, match='nothing was predicted'):
        results.build(session, models, 0.5, None)
    predicted(session, 'a.png')
    predicted(session, 'b.png', Settings(ZERO_SHOT, 'joint'))
    with pytest.raises(AppError, match=r'a\.png and b\.png were predicted with different'):
        results.build(session, models, 0.5, None)


def test_severities_need_every_scale(models: Models, session: Session) -> None:
    predicted(session, 'a.png').mm_per_pixel = 0.5
    predicted(session, 'b.png')
    folder = results.build(session, models, 0.5, PROFILES['bre251'])
    assert 'the scale of 1 photographs, such as b.png, is not known' in (folder / 'report.html').read_text()
    rows = list(csv.DictReader((folder / 'cracks.csv').open()))
    assert [(row['unit'], row['severity']) for row in rows] == [('mm', ''), ('px', '')]
