"""`Predictor`: what it takes, what it gives, and when adapters are merged."""

import copy
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
import torch
from mmengine.config import Config
from mmseg.apis import inference_model, init_model
from PIL import Image

from crack_plugin.datasets.photographs import ImageError
from crack_plugin.errors import CrackPluginError
from crack_plugin.models import SAM3TextLoRA
from crack_plugin.models.adapters import AdapterError
from crack_plugin.models.enlarged import Enlarged
from crack_plugin.models.logits import threshold_labels
from crack_plugin.prediction import Prediction, PredictionError, Predictor
from crack_plugin.prediction.found import EnlargedPrediction


@pytest.fixture(scope='module')
def predictor(trained: dict[str, Path]) -> Predictor:
    return Predictor(trained['config'], adapter=trained['adapter'], device='cpu')


@pytest.fixture
def paths(images: Path) -> list[Path]:
    return sorted(path for path in images.rglob('*') if path.is_file())


def weights_named(model: Any) -> set[str]:
    return {name for name, _ in model.named_parameters() if 'lora_' in name}


def test_prediction_is_that_of_mmseg(predictor: Predictor, trained: dict[str, Path], paths: list[Path]) -> None:
    model = init_model(str(trained['config']), str(trained['checkpoint']), device='cpu')
    for path in paths:
        expected = inference_model(model, str(path))
        found = predictor(path)
        assert (found.labels.dtype, found.labels.shape) == (np.uint8, (48, 64))
        np.testing.assert_array_equal(found.labels, expected.pred_sem_seg.data[0].numpy())
        probability = expected.seg_logits.data.softmax(dim=0)[1:].numpy()
        assert found.probabilities.dtype == np.float32
        np.testing.assert_allclose(found.probabilities, probability, rtol=0, atol=1e-5)
        assert found.class_names == ['crack']
        assert found.image_path == path
        np.testing.assert_array_equal(found.image, cv2.imread(str(path)))
        (score,) = found.scores
        assert score == pytest.approx(probability[0][found.labels == 1].mean(), abs=1e-5)


def test_array_is_bgr_as_opencv_reads_it(predictor: Predictor, paths: list[Path]) -> None:
    image = cv2.imread(str(paths[0]))
    image[..., 0] //= 4  # of an image that is grey both orders would do
    cv2.imwrite(str(paths[0].with_suffix('.png')), image)
    of_file, of_array = predictor(str(paths[0].with_suffix('.png'))), predictor(image)
    assert torch.equal(of_array.logits, of_file.logits)
    assert not torch.equal(predictor(np.ascontiguousarray(image[..., ::-1])).logits, of_file.logits)
    assert of_array.image_path is None
    assert 'labels' not in repr(of_array)


@pytest.mark.parametrize(
    'array',
    [np.zeros((8, 8), np.uint8), np.zeros((8, 8, 4), np.uint8), np.zeros((8, 8, 3)), np.zeros((0, 8, 3), np.uint8)],
    ids=['grey', 'alpha', 'float', 'empty'],
)
def test_other_arrays_are_refused(predictor: Predictor, array: np.ndarray) -> None:
    with pytest.raises(PredictionError, match=r'shape \(H, W, 3\), uint8, in BGR order; this one is .* of shape'):
        predictor(array)


@pytest.mark.parametrize('image', [Image.new('RGB', (4, 3)), torch.zeros(3, 4, 4), ['a.jpg'], b'a.jpg', None])
def test_what_is_no_image_is_named(predictor: Predictor, image: Any) -> None:
    with pytest.raises(PredictionError, match=rf'this one is a {type(image).__name__}\.'):
        predictor(image)


def test_device_that_is_not_there(trained: dict[str, Path]) -> None:
    for device in ('gpu', 'cuda:77'):
        with pytest.raises(PredictionError, match=rf"device '{device}' cannot be used here: .*'cpu' is always there"):
            Predictor(trained['config'], device=device)


def test_nan_is_no_prediction(trained: dict[str, Path], paths: list[Path]) -> None:
    predictor = Predictor(trained['config'], adapter=trained['adapter'], device='cpu')
    with torch.no_grad():
        next(predictor.model.sam3.mask_decoder.parameters()).fill_(float('nan'))
    with pytest.raises(PredictionError, match=f'{paths[0]}: the model gives NaN'):
        predictor(paths[0])


def test_probabilities_are_computed_when_asked_for(predictor: Predictor, paths: list[Path]) -> None:
    """The logits of a large photograph are all that is held."""
    prediction = predictor(paths[0])
    assert 'probabilities' not in vars(prediction)
    assert 'scores' not in vars(prediction)
    assert prediction.probabilities is prediction.probabilities


@pytest.mark.parametrize('classes', [1, 3])
def test_probabilities_and_scores_of_several_strips(monkeypatch: pytest.MonkeyPatch, classes: int) -> None:
    monkeypatch.setattr('crack_plugin.models.strips.CPU_PIXELS', 40)
    logits = torch.randn(classes + 1, 30, 17, generator=torch.Generator().manual_seed(0))
    probabilities = logits.softmax(dim=0).numpy()
    labels = logits.argmax(dim=0).numpy().astype(np.uint8)
    labels[labels == 3] = 0  # of the third class there is no pixel
    found = Prediction(labels, [str(label) for label in range(classes)], logits, np.zeros((30, 17, 3), np.uint8), None)
    np.testing.assert_allclose(found.probabilities, probabilities[1:], atol=1e-6)
    expected = [probabilities[label][labels == label].mean() for label in range(1, min(classes, 2) + 1)]
    assert found.scores == pytest.approx([*expected, *[0] * (classes - len(expected))])


def test_single_channel_holds_probabilities() -> None:
    """As MMSegmentation stores them for a head with one channel."""
    probability = torch.rand(1, 4, 5, generator=torch.Generator().manual_seed(0))
    labels = (probability[0] > 0.5).numpy().astype(np.uint8)
    found = Prediction(labels, ['crack'], probability, np.zeros((4, 5, 3), np.uint8), None)
    np.testing.assert_array_equal(found.probabilities, probability.numpy())
    assert found.scores == pytest.approx([probability[probability > 0.5].mean().item()])


def test_scores_of_enlarged_logits_are_those_of_logits(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr('crack_plugin.models.strips.CPU_PIXELS', 300)
    enlarged = Enlarged([3 * torch.randn(1, 1, 8, 6, generator=torch.Generator().manual_seed(0))], (190, 371))
    logits = enlarged.whole()[0]
    labels, image = threshold_labels(logits[None], 0.5)[0].numpy().astype(np.uint8), np.zeros((190, 371, 3), np.uint8)
    expected = Prediction(labels, ['crack'], logits, image, None)
    found = EnlargedPrediction(enlarged, 0.5, ['crack'], image, None)
    np.testing.assert_array_equal(found.labels, labels)
    # Summed in another order.
    assert found.scores == pytest.approx(expected.scores, rel=0, abs=1e-9)
    assert 'logits' not in vars(found)
    assert found.logits is found.logits and torch.equal(found.logits, logits)
    np.testing.assert_array_equal(found.probabilities, expected.probabilities)
    assert repr(found).startswith('EnlargedPrediction(class_names=')


def test_many_come_lazily_in_order_and_past_what_is_refused(
    predictor: Predictor, paths: list[Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    broken = paths[0].with_name('broken.jpg')
    broken.write_text('no image')
    steps = []
    whole = SAM3TextLoRA.test_step
    monkeypatch.setattr(SAM3TextLoRA, 'test_step', lambda self, data: steps.append(1) or whole(self, data))
    many = predictor.predict_many(iter([str(paths[2]), broken, paths[0]]))
    assert not steps
    first = next(many)
    assert (first.image_path, len(steps)) == (str(paths[2]), 1)
    with pytest.raises(ImageError, match=r'broken\.jpg'):
        next(many)
    assert [prediction.image_path for prediction in many] == [paths[0]]


@pytest.mark.parametrize('kind', [str, Path])
def test_many_of_one_path_are_refused(predictor: Predictor, kind: type) -> None:
    with pytest.raises(PredictionError, match=r"not 'photo\.jpg'"):
        predictor.predict_many(kind('photo.jpg'))


def test_prompts_name_the_classes(trained: dict[str, Path], paths: list[Path]) -> None:
    cfg = Config.fromfile(trained['config'])
    given = copy.deepcopy(cfg.to_dict())
    prediction = Predictor(cfg, trained['checkpoint'], device='cpu', prompts=('thin crack', 'spalling'))(paths[0])
    assert cfg.to_dict() == given
    assert prediction.class_names == ['thin crack', 'spalling']
    assert prediction.probabilities.shape == (2, 48, 64)
    cfg.model.prompts = ['thin crack', 'spalling']
    expected = inference_model(init_model(cfg, str(trained['checkpoint']), device='cpu'), str(paths[0]))
    np.testing.assert_array_equal(prediction.labels, expected.pred_sem_seg.data[0].numpy())


def test_installed_config_by_name(paths: list[Path]) -> None:
    predictor = Predictor('crack_plugin::_base_/../sam3_tiny_zeroshot_crack.py', device='cpu', prompts=['crack'])
    assert predictor(paths[0]).labels.shape == (48, 64)


def test_arguments_that_do_not_go_together(trained: dict[str, Path], tmp_path: Path) -> None:
    config, checkpoint, adapter = trained['config'], trained['checkpoint'], trained['adapter']
    with pytest.raises(PredictionError, match='not both') as caught:
        Predictor(config, checkpoint, adapter)
    assert isinstance(caught.value, CrackPluginError)
    with pytest.raises(AdapterError, match='nowhere'):
        Predictor(config, adapter=tmp_path / 'nowhere', device='cpu')
    for given in ({'adapter': adapter}, {'prompts': ['crack']}):
        with pytest.raises(PredictionError, match='only SAM3TextLoRA has them, the config has EncoderDecoder'):
            Predictor(Config({'model': {'type': 'EncoderDecoder'}}), **given)
    with pytest.raises(ValueError, match='give a list of texts'):
        Predictor(config, prompts='crack', device='cpu')


def test_fp32_adapters_are_merged_on_the_cpu_and_change_nothing(
    trained: dict[str, Path], paths: list[Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Nothing of the model is on the device asked for before it is merged."""
    moves: list[tuple[str, bool]] = []
    monkeypatch.setattr(
        SAM3TextLoRA, 'to', lambda self, device: moves.append((str(device), bool(weights_named(self)))) or self
    )
    predictor = Predictor(trained['config'], trained['checkpoint'], device='cuda:1')
    assert moves[-1] == ('cuda:1', False)
    assert {device for device, _ in moves[:-1]} == {'cpu'}
    apart = init_model(str(trained['config']), str(trained['checkpoint']), device='cpu')
    assert weights_named(apart) and not weights_named(predictor.model)
    logits, expected = predictor(paths[0]).logits, inference_model(apart, str(paths[0])).seg_logits.data
    assert (logits - expected).abs().max() <= 1e-5 < expected.std()
    # Merged already: nothing is left to change.
    assert predictor.is_merged
    assert predictor.merge() is None
    assert predictor.merge(paths[0]) == (0, 0, 0)


def test_best_device_is_the_default(trained: dict[str, Path], monkeypatch: pytest.MonkeyPatch) -> None:
    moves: list[str] = []
    monkeypatch.setattr('crack_plugin.prediction.predictor.get_device', lambda: 'npu')
    monkeypatch.setattr(SAM3TextLoRA, 'to', lambda self, device: moves.append(str(device)) or self)
    Predictor(trained['config'])
    assert moves[-1] == 'npu'


def test_the_difference_of_merging_is_that_of_the_logits(trained: dict[str, Path], paths: list[Path]) -> None:
    cfg = Config.fromfile(trained['config'])
    cfg.model.dtype = 'bfloat16'
    predictor = Predictor(cfg, trained['checkpoint'], device='cpu')
    before = predictor(paths[0])
    assert predictor.has_adapters
    largest, mean, changed = predictor.merge(paths[0])
    after = predictor(paths[0])
    difference = (after.logits - before.logits).abs()[1]
    assert (largest, mean) == pytest.approx((difference.max().item(), difference.mean().item()))
    assert changed == pytest.approx((after.labels != before.labels).mean())
    assert not weights_named(predictor.model)


def test_merging_no_adapters(trained: dict[str, Path]) -> None:
    cfg = Config.fromfile(trained['config'])
    cfg.model.lora = None
    with pytest.raises(PredictionError, match='no adapters'):
        Predictor(cfg, device='cpu').merge()


def test_image_that_is_refused_merges_nothing(trained: dict[str, Path], tmp_path: Path) -> None:
    cfg = Config.fromfile(trained['config'])
    cfg.model.dtype = 'bfloat16'
    predictor = Predictor(cfg, trained['checkpoint'], device='cpu')
    with pytest.raises(ImageError):
        predictor.merge(tmp_path / 'nowhere.jpg')
    assert predictor.has_adapters
