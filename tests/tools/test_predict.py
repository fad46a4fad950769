"""`tools/predict.py`: masks, overlays and areas of images, folders, patterns and videos; resuming; refusals."""

import csv
import re
import runpy
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
from conftest import ROOT, TOOLS, run_tool
from matplotlib.colors import to_rgb
from mmengine.config import Config
from mmseg.apis import inference_model, init_model

from crack_plugin.datasets.loading import LoadYOLOPolygons
from crack_plugin.datasets.photographs import READS_HEIC, LoadPhotograph
from crack_plugin.datasets.yolo_crack import YOLOCrackDataset
from crack_plugin.evaluation.geometry import measure_cracks
from crack_plugin.models import SAM3TextLoRA
from crack_plugin.prediction import output, raster_output
from crack_plugin.prediction.sources import Source
from crack_plugin.visualization.panels import CLASS_COLORS, overlay


@pytest.fixture(scope='module')
def tool() -> dict[str, Any]:
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(TOOLS)
        return runpy.run_path(str(TOOLS / 'predict.py'))


@pytest.fixture
def predict(tool: dict[str, Any], trained: dict[str, Path], tmp_path: Path) -> Callable[..., Path]:
    """Runs the tool with the trained checkpoint; the output folder."""

    def call(*images: str | Path, options: tuple[str | Path, ...] = (), out: str = 'out', weights: bool = True) -> Path:
        chosen = ['--checkpoint', trained['checkpoint']] if weights else []
        arguments = [*images, '--config', trained['config'], '--out', tmp_path / out, '--device', 'cpu', *chosen]
        tool['main']([str(argument) for argument in (*arguments, *options)])
        return tmp_path / out

    return call


def rows_of(out: Path) -> list[dict[str, str]]:
    with (out / 'predictions.csv').open(newline='', encoding='utf-8') as file:
        return list(csv.DictReader(file))


def mask_of(out: Path, name: str) -> np.ndarray:
    return cv2.imread(str(out / 'masks' / f'{name}.png'), cv2.IMREAD_UNCHANGED)


def files_of(folder: Path) -> dict[str, bytes]:
    return {str(file.relative_to(folder)): file.read_bytes() for file in folder.rglob('*') if file.is_file()}


def refusal(call: Callable[[], object], capsys: pytest.CaptureFixture[str], code: int = 2) -> str:
    with pytest.raises(SystemExit) as exit_info:
        call()
    assert exit_info.value.code == code
    return capsys.readouterr().err


def test_masks_areas_and_scores_are_those_of_the_logits(predict, images: Path, trained: dict[str, Path]) -> None:
    model = init_model(str(trained['config']), str(trained['checkpoint']), device='cpu')

    def crack_probability(image: str) -> np.ndarray:
        return inference_model(model, image).seg_logits.data.softmax(dim=0)[1].numpy()

    # A threshold that splits the first image, and that no pixel is close to.
    values = np.sort(crack_probability(str(next(images.glob('a.*')))).ravel())[1000:2000]
    gap = np.diff(values).argmax()
    threshold = (values[gap] + values[gap + 1]) / 2

    rows = rows_of(out := predict(images, options=('--threshold', str(threshold))))
    assert [row['mask'] for row in rows] == ['masks/a.png', 'masks/b.png', 'masks/pier 2/c.png']
    assert 1000 < int(rows[0]['pixels']) < 2072
    for row in rows:
        probability = crack_probability(row['image'])
        crack = probability > threshold
        mask = cv2.imread(str(out / row['mask']), cv2.IMREAD_UNCHANGED)
        np.testing.assert_array_equal(mask, 255 * crack.astype(np.uint8))
        assert (row['width'], row['height'], row['class_name']) == ('64', '48', 'crack')
        assert int(row['pixels']) == crack.sum()
        assert float(row['share']) == pytest.approx(crack.mean(), abs=1e-8)
        assert float(row['score']) == pytest.approx(probability[crack].mean() if crack.any() else 0, abs=1e-6)


def test_overlay_is_the_painted_image(predict, images: Path) -> None:
    out = predict(images)
    image = cv2.imread(str(next(images.glob('a.*'))))[..., ::-1]
    painted = overlay(image, (mask_of(out, 'a') > 0).astype(np.uint8))
    saved = cv2.imread(str(out / 'overlays' / 'a.jpg'))[..., ::-1]
    jpeg_error = np.abs(saved.astype(int) - painted).mean()
    assert jpeg_error < 0.2 * np.abs(saved.astype(int) - image).mean()


def test_overlay_leaves_the_background(images: Path) -> None:
    image = np.random.default_rng(0).integers(0, 256, (5, 4, 3)).astype(np.uint8)
    labels = np.zeros((5, 4), np.uint8)
    labels[0, 0], labels[1, 1], labels[2, 2] = 1, 2, 255
    painted = overlay(image, labels, alpha=0.25)
    changed = (painted != image).any(axis=-1)
    assert changed.sum() == 2
    assert changed[0, 0]
    for label, pixel in ((1, (0, 0)), (2, (1, 1))):
        color = 255 * np.array(to_rgb(CLASS_COLORS[label - 1]))
        np.testing.assert_allclose(painted[pixel], 0.75 * image[pixel] + 0.25 * color, atol=0.51)


def test_nothing_found_scores_zero(predict, images: Path) -> None:
    out = predict(images, options=('--threshold', '0.999999'))
    assert {(row['pixels'], row['share'], row['score']) for row in rows_of(out)} == {('0', '0.0', '0.0')}
    assert not mask_of(out, 'a').any()


def test_files_patterns_and_folders_name_their_masks(predict, images: Path) -> None:
    single = next(images.glob('a.*'))
    out = predict(single, f'{images}/*/*', f'{images}/p*/c*')
    assert [row['mask'] for row in rows_of(out)] == ['masks/a.png', 'masks/pier 2/c.png']


def test_interrupted_run_goes_on(predict, images: Path, capsys: pytest.CaptureFixture[str], monkeypatch) -> None:
    whole = files_of(predict(images, out='whole'))
    predicted = []
    original = output.write_one

    def counted(key, *arguments, **options):
        if len(predicted) == 2:
            raise KeyboardInterrupt
        predicted.append(key[0].path)
        return original(key, *arguments, **options)

    monkeypatch.setattr(output, 'write_one', counted)
    with pytest.raises(SystemExit, match='130'):
        predict(images, options=('--workers', '1'))
    # What a kill leaves of the last line; the image is then not done.
    table = images.parent / 'out' / 'predictions.csv'
    table.write_text(table.read_text()[:-5])

    predicted.clear()
    monkeypatch.setattr(
        output,
        'write_one',
        lambda key, *rest, **options: (predicted.append(key[0].path), original(key, *rest, **options))[1],
    )
    capsys.readouterr()
    out = predict(images)
    assert [Path(image).stem for image in predicted] == ['b', 'c']
    assert '1 images or frames are done already and skipped' in capsys.readouterr().out
    assert files_of(out) == whole

    predicted.clear()
    predict(images, options=('--overwrite',))
    assert len(predicted) == 3
    assert files_of(out) == whole


def test_missing_output_is_made_again(predict, images: Path) -> None:
    out = predict(images)
    whole = files_of(out)
    (out / 'overlays' / 'b.jpg').unlink()
    assert files_of(predict(images)) == whole


def test_other_settings_do_not_mix(predict, images: Path, capsys: pytest.CaptureFixture[str]) -> None:
    predict(images)
    assert 'model.threshold' in refusal(lambda: predict(images, options=('--threshold', '0.3')), capsys)
    assert 'sha256' in refusal(lambda: predict(images, weights=False), capsys)
    predict(images, options=('--threshold', '0.3', '--overwrite'))


def test_settings_or_out_that_are_not_as_written(predict, images: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = predict(images)
    before = files_of(out)
    for content in ('{', '[1]', ''):
        (out / 'predict.json').write_text(content)
        assert 'predict.json is not as it was written' in refusal(lambda: predict(images), capsys)
    (out.parent / 'file').touch()
    assert 'file is no folder. Take another --out' in refusal(lambda: predict(images, out='file'), capsys)
    assert {**files_of(out), 'predict.json': before['predict.json']} == before


def test_file_name_that_is_no_text(predict, images: Path) -> None:
    shutil.copy(next(images.glob('a.*')), images / 'g\udcff.jpg')
    out = predict(images)
    table = (out / 'predictions.csv').read_bytes()
    assert b'masks/g\xff.png' in table
    assert (predict(images) / 'predictions.csv').read_bytes() == table


def test_foreign_masks_are_not_overwritten(predict, images: Path, capsys: pytest.CaptureFixture[str]) -> None:
    truth = images.parent / 'data' / 'masks' / 'a.png'
    truth.parent.mkdir(parents=True)
    truth.write_bytes(b'ground truth')
    assert 'data/masks' in refusal(lambda: predict(images, out='data'), capsys)
    assert truth.read_bytes() == b'ground truth'


def test_unreadable_files_are_listed_after_the_others(
    predict, images: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (images / 'a0.jpg').write_text('no image')
    (images / 'empty.png').touch()
    error = refusal(lambda: predict(images), capsys, code=1)
    assert 'a0.jpg' in error
    assert 'empty.png' in error
    out = images.parent / 'out'
    assert len(rows_of(out)) == 3
    for name in ('a0.jpg', 'empty.png'):
        (images / name).unlink()
    predict(images)


def test_photographs_that_training_refuses_are_not_predicted(
    predict, images: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    cv2.imwrite(str(images / 'sensor.png'), np.linspace(0, 4095, 64 * 48).reshape(48, 64).astype(np.uint16))
    error = refusal(lambda: predict(images), capsys, code=1)
    assert 'sensor.png has 16 bits a channel, but its brightest value is 4095 of 65535' in error
    assert [row['mask'] for row in rows_of(images.parent / 'out')] == [
        'masks/a.png',
        'masks/b.png',
        'masks/pier 2/c.png',
    ]


@pytest.mark.skipif(READS_HEIC, reason='pillow-heif is installed')
def test_pictures_of_other_formats_are_counted_and_fail(
    predict, images: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for name in ('1.HEIC', '2.heic', 'pier 2/3.HEIC', 'x.CR2', 'clip.MOV', '._1.gif'):
        (images / name).write_bytes(b'x')
    for name in ('notes.txt', 'a.json', 'Thumbs.db', 'a.xml', 'LICENSE'):
        (images / name).write_bytes(b'x')
    (images / 'b.jpg').rename(images / 'b.jfif')
    with pytest.raises(SystemExit) as stop:
        predict(images)
    assert stop.value.code == 1
    output = capsys.readouterr()
    lines = (
        f'3 .heic files are not read: {images}/1.HEIC, {images}/2.heic, {images}/pier 2/3.HEIC. HEIC is read with',
        f'1 .cr2 file is not read: {images}/x.CR2. .cr2 is not read. Convert it to JPEG or PNG.',
        f'1 .mov file is not read: {images}/clip.MOV. Videos are taken where they are named, or found by a pattern',
    )
    for line in lines:
        assert line in output.out
        assert line in output.err
    assert '5 files could not be read, the others are done' in output.err
    assert 'gif' not in output.out + output.err
    assert [row['mask'] for row in rows_of(images.parent / 'out')] == [
        'masks/a.png',
        'masks/b.png',
        'masks/pier 2/c.png',
    ]


@pytest.mark.skipif(READS_HEIC, reason='pillow-heif is installed')
def test_folder_of_nothing_but_heic(predict, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / 'phone').mkdir()
    (tmp_path / 'phone' / 'IMG_1.HEIC').write_bytes(b'x')
    assert '1 .heic file is not read' in refusal(lambda: predict(tmp_path / 'phone'), capsys)
    assert '1 .heic file is not read' in refusal(
        lambda: predict(tmp_path / 'phone' / 'IMG_1.HEIC', next(tmp_path.glob('phone/*'))), capsys, code=1
    )


@pytest.mark.parametrize('pattern', ['nowhere', 'nowhere/*.jpg'])
def test_nothing_to_predict(predict, pattern: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert 'nowhere' in refusal(lambda: predict(pattern), capsys)


def test_two_files_with_one_mask(predict, images: Path, capsys: pytest.CaptureFixture[str]) -> None:
    shutil.copy(next(images.glob('b.*')), images / 'a.png')
    error = refusal(lambda: predict(images), capsys)
    assert 'a.png' in error
    assert 'a.jpg' in error


def test_video_frames(predict, images: Path, capsys: pytest.CaptureFixture[str]) -> None:
    video = images / 'drone.avi'
    writer = cv2.VideoWriter(str(video), cv2.VideoWriter_fourcc(*'MJPG'), 5, (64, 48))
    for file in sorted(images.rglob('*.jpg')):
        writer.write(cv2.imread(str(file)))
    writer.release()
    out = predict(video)
    assert [row['mask'] for row in rows_of(out)] == [f'masks/drone/{i:06d}.png' for i in range(3)]
    whole = files_of(out)
    (out / 'masks' / 'drone' / '000001.png').unlink()
    assert files_of(predict(video)) == whole

    video.write_bytes(b'RIFF')
    shutil.rmtree(out)
    assert 'drone.avi: decoding ended after 0' in refusal(lambda: predict(video), capsys, code=1)


def test_adapter_folder_predicts_as_the_checkpoint(predict, images: Path, trained: dict[str, Path]) -> None:
    of_checkpoint = predict(images, out='checkpoint')
    of_adapter = predict(images, out='adapter', options=('--adapter', trained['adapter']), weights=False)
    assert rows_of(of_adapter) == rows_of(of_checkpoint)
    untrained = predict(images, out='untrained', weights=False)
    assert rows_of(untrained) != rows_of(of_checkpoint)


def test_checkpoint_and_adapter_exclude_each_other(predict, images, trained, capsys) -> None:
    assert 'not allowed' in refusal(lambda: predict(images, options=('--adapter', trained['adapter'])), capsys)


def test_prompts_become_the_classes_of_a_label_map(predict, images: Path, trained: dict[str, Path]) -> None:
    out = predict(images, options=('--prompt', 'thin crack', 'spalling'))
    rows = rows_of(out)
    assert [row['class_name'] for row in rows] == ['thin crack', 'spalling'] * 3
    labels = mask_of(out, 'a')
    assert [int(row['pixels']) for row in rows[:2]] == [(labels == 1).sum(), (labels == 2).sum()]
    assert labels.max() <= 2

    cfg = Config.fromfile(trained['config'])
    cfg.model.prompts = ['thin crack', 'spalling']
    expected = inference_model(init_model(cfg, str(trained['checkpoint']), device='cpu'), rows[0]['image'])
    np.testing.assert_array_equal(labels, expected.pred_sem_seg.data[0].numpy())


def test_slide_is_that_of_the_config(predict, images: Path, trained: dict[str, Path]) -> None:
    out = predict(images, options=('--slide', '32', '24'))
    cfg = Config.fromfile(trained['config'])
    cfg.model.test_cfg = dict(mode='slide', crop_size=(32, 32), stride=(24, 24))
    model = init_model(cfg, str(trained['checkpoint']), device='cpu')
    expected = inference_model(model, str(next(images.glob('a.*')))).pred_sem_seg.data[0].numpy()
    np.testing.assert_array_equal(mask_of(out, 'a'), 255 * expected)
    assert rows_of(out) != rows_of(predict(images, out='whole'))


def test_slide_must_cover_the_image(predict, images: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert 'STRIDE' in refusal(lambda: predict(images, options=('--slide', '32', '40')), capsys)


def test_cracks_are_measured(predict, images: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = predict(images, options=('--measure',))
    with (out / 'measurements.csv').open(newline='') as file:
        pixels = list(csv.DictReader(file))
    assert [row['mask'] for row in pixels] == [row['mask'] for row in rows_of(out)]
    for row in pixels:
        expected = measure_cracks(cv2.imread(str(out / row['mask']), cv2.IMREAD_UNCHANGED) > 0)
        assert row['unit'] == 'px'
        for column in ('length', 'mean_width', 'max_width', 'alignment', 'density'):
            assert float(row[column]) == pytest.approx(getattr(expected, column), abs=1e-4)
    lengths = [float(row['length']) for row in pixels]
    assert sum(lengths) > 0
    assert f'{sum(lengths):,.1f} px long in all' in capsys.readouterr().out

    # What is predicted already is only measured
    predict(images, options=('--measure', '--mm-per-pixel', '0.5'))
    assert 'skipped' in capsys.readouterr().out
    with (out / 'measurements.csv').open(newline='') as file:
        millimetres = list(csv.DictReader(file))
    assert {row['unit'] for row in millimetres} == {'mm'}
    assert [float(row['length']) for row in millimetres] == pytest.approx([0.5 * one for one in lengths], abs=1e-3)


def test_measuring_classes_and_images_without_cracks(predict, images: Path, capsys: pytest.CaptureFixture[str]) -> None:
    options = ('--measure', '--threshold', '0.999999', '--prompt', 'thin crack', 'spalling')
    out = predict(images, options=options)
    lines = (out / 'measurements.csv').read_text().splitlines()
    assert len(lines) == 7
    assert lines[1].endswith('masks/a.png,thin crack,px,0.0,0.0,0.0,,0.0,0.0')
    assert 'spalling: in none of 3 images' in capsys.readouterr().out


@pytest.mark.parametrize('options', [('--workers', '0'), ('--workers', '3'), ('--batch-size', '2')])
def test_workers_and_batches_change_no_file(predict, images: Path, options: tuple[str, str]) -> None:
    for number in range(3):
        shutil.copy(next(images.glob('a.*')), images / f'd{number}.jpg')
    assert files_of(predict(images, options=options)) == files_of(predict(images, out='plain'))


@pytest.mark.parametrize('options', [('--workers', '-1'), ('--workers', 'all'), ('--batch-size', '0')])
def test_numbers_without_sense(predict, images: Path, options, capsys: pytest.CaptureFixture[str]) -> None:
    assert options[0] in refusal(lambda: predict(images, options=options), capsys)


@pytest.mark.parametrize('options', [('--mm-per-pixel', '0.5'), ('--measure', '--mm-per-pixel', '0')])
def test_scale_without_sense(predict, images: Path, options, capsys: pytest.CaptureFixture[str]) -> None:
    assert '--mm-per-pixel' in refusal(lambda: predict(images, options=options), capsys)


def test_cracks_vectors_and_labels(predict, images: Path, capsys: pytest.CaptureFixture[str]) -> None:
    scales = images / 'scales.csv'
    scales.write_text('image,mm_per_pixel\na.jpg,0.5\nb.jpg,0.5\npier 2/c.jpg,2\n')
    options = ('--cracks', '--vector', 'geojson', '--severity', 'bre251', '--mm-per-pixel', scales, '--labels', 'yolo')
    predict(images)
    capsys.readouterr()
    # Masks of a run that kept no records are predicted again, after that they are not.
    out = predict(images, options=options)
    assert 'skipped' not in capsys.readouterr().out
    with (out / 'cracks.csv').open(newline='') as file:
        rows = list(csv.DictReader(file))
    masks = {row['mask']: mask_of(out, row['mask'][6:-4]) > 0 for row in rows_of(out)}
    for mask, pixels in masks.items():
        scale = 2 if 'c.' in mask else 0.5
        areas = [float(row['area']) for row in rows if row['mask'] == mask]
        assert len(areas) == cv2.connectedComponents(pixels.astype(np.uint8))[0] - 1
        assert sum(areas) == pytest.approx(pixels.sum() * scale**2)
    # The score of an image is that of its cracks, weighted by their areas.
    for row in rows_of(out):
        own = [(float(crack['score']), float(crack['area'])) for crack in rows if crack['mask'] == row['mask']]
        if own:
            scores, weights = np.transpose(own)
            assert float(row['score']) == pytest.approx(np.average(scores, weights=weights), abs=2e-6)
    assert {row['unit'] for row in rows} == {'mm'}
    assert all(row['severity'] for row in rows)

    dataset = YOLOCrackDataset(
        str(out / 'labels' / 'yolo'), 'train', pipeline=[LoadPhotograph(), LoadYOLOPolygons()], serialize_data=False
    )
    read = {Path(sample['img_path']).stem: sample['gt_seg_map'] for sample in dataset}
    assert {Path(mask).stem for mask in masks} == read.keys()
    for mask, pixels in masks.items():
        np.testing.assert_array_equal(read[Path(mask).stem], pixels)

    predict(images, options=('--cracks',))
    assert '3 images or frames are done already and skipped' in capsys.readouterr().out
    with (out / 'cracks.csv').open(newline='') as file:
        assert {row['unit'] for row in csv.DictReader(file)} == {'px'}
    # Cracks that are predicted again may be others than those of the record.
    predict(images, options=('--overwrite',))
    assert not [path for path in (out / 'records').rglob('*') if path.is_file()]


def test_overlay_of_a_strip_too_long_for_jpeg_is_reduced(tmp_path: Path) -> None:
    image = np.full((4, 66000, 3), 90, np.uint8)
    source = Source(tmp_path / 'strip.png', 'strip')
    labels = np.zeros((4, 66000), np.uint8)
    output.write_one((source, source.mask), image, labels, [0.0], out=tmp_path, class_names=['crack'])
    assert mask_of(tmp_path, 'strip').shape == (4, 66000)
    assert cv2.imread(str(tmp_path / 'overlays' / 'strip.jpg')).shape[1] == 33000


def test_cracks_of_some_images_keep_the_rows_of_the_others(
    predict, images: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = predict(images)
    before = rows_of(out)
    capsys.readouterr()
    predict(images / 'b.jpg', options=('--cracks',))
    assert '2 images of earlier runs are left out' in capsys.readouterr().out
    assert rows_of(out) == before
    with (out / 'cracks.csv').open(newline='') as file:
        assert {Path(row['image']).name for row in csv.DictReader(file)} <= {'b.jpg'}


@pytest.mark.parametrize(
    ('options', 'message'),
    [
        (('--severity', 'ec2'), '--severity needs the scale of every photograph'),
        (('--severity', 'ec3'), 'bre251, ec2, aci224r'),
        (('--severity', 'ec2', '--mm-per-pixel', 'none.csv'), 'none.csv: no such file'),
        (('--labels', 'voc'), "invalid choice: 'voc'"),
    ],
)
def test_what_cannot_be_made_of_the_masks_is_told_first(
    predict, images: Path, options: tuple[str, ...], message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert message in refusal(lambda: predict(images, options=options), capsys)
    assert not (images.parent / 'out').exists()


@pytest.mark.slow
def test_memory_of_a_large_photograph(trained: dict[str, Path]) -> None:
    """Peak memory of the process, per pixel of a photograph of 16 megapixels."""
    options = ('--megapixels', '16', '--config', trained['config'], '--slide', '1008', '672')
    result = run_tool(ROOT / 'benchmarks' / 'large_images.py', *options)
    assert result.returncode == 0, result.stderr
    bytes_per_pixel = float(result.stdout.splitlines()[-1].split('|')[-2])
    assert 10 < bytes_per_pixel < 30


@pytest.mark.parametrize('merge', [False, True])
def test_low_precision_adapters_are_merged_on_demand_alone(
    predict, images: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, merge: bool
) -> None:
    merged = []
    whole = SAM3TextLoRA.merge_adapter
    monkeypatch.setattr(SAM3TextLoRA, 'merge_adapter', lambda self: merged.append(self) or whole(self))
    options = ('--cfg-options', 'model.dtype=bfloat16')
    predict(images, options=(*(['--merge'] if merge else []), *options))
    assert len(merged) == merge
    printed = capsys.readouterr().out
    assert ('Adapters merged in bfloat16: on ' in printed) == merge
    if merge:
        figures = re.search(r'by (\S+) on average and (\S+) at most, and (\S+)% of the pixels', printed)
        assert figures and 0 < float(figures[1]) < float(figures[2]) < 1
        assert 'merge' in refusal(lambda: predict(images, options=options), capsys)


def test_merging_what_has_no_adapters_is_refused(predict, images: Path, capsys: pytest.CaptureFixture[str]) -> None:
    options = ('--merge', '--cfg-options', 'model.lora=None')
    assert 'has no adapters' in refusal(lambda: predict(images, options=options, weights=False), capsys)


def test_large_tiff_is_predicted_in_bands(predict, tmp_path: Path, monkeypatch, capsys) -> None:
    rasterio = pytest.importorskip('rasterio')
    image = np.random.default_rng(0).integers(0, 255, (120, 90, 3), np.uint8)
    cv2.imwrite(str(tmp_path / 'deck.tif'), image)
    options = ('--slide', '56', '40', '--cracks')
    at_once = predict(tmp_path / 'deck.tif', options=options, out='at_once')
    error = refusal(lambda: predict(tmp_path / 'deck.tif', options=(*options, '--probabilities')), capsys)
    assert '--probabilities are of images of more than 67 megapixels' in error
    monkeypatch.setattr(raster_output, 'RASTER_PIXELS', 120 * 90 - 1)
    out = predict(tmp_path / 'deck.tif', options=(*options, '--probabilities'))
    with rasterio.open(out / 'masks/deck.tif') as file:
        np.testing.assert_array_equal(255 * file.read(1), mask_of(at_once, 'deck'))
    assert (out / 'probabilities/deck.tif').is_file()
    (row,), (expected,) = rows_of(out), rows_of(at_once)
    assert float(row.pop('score')) == pytest.approx(float(expected.pop('score')), abs=2e-6)
    assert row == {**expected, 'mask': 'masks/deck.tif'}
    cracks, others = ((folder / 'cracks.csv').read_text().splitlines() for folder in (out, at_once))
    assert len(cracks) == len(others) > 1
    before = files_of(out)
    predict(tmp_path / 'deck.tif', options=(*options, '--probabilities'))
    assert files_of(out) == before
