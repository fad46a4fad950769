"""Prediction of single images from Python: :class:`Predictor`."""

import copy
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import cv2
import numpy as np
import torch
from mmengine.config import Config
from mmengine.dataset import Compose
from mmengine.device import get_device
from mmengine.hub import get_config
from mmengine.runner.amp import autocast
from mmseg.apis import init_model
from mmseg.registry import MODELS, TRANSFORMS
from torch import Tensor
from tqdm import tqdm

from crack_plugin import inference
from crack_plugin.errors import CrackPluginError
from crack_plugin.models import SAM3TextLoRA, portable
from crack_plugin.models.adapter_weights import base_weights
from crack_plugin.models.adapters import is_adapted
from crack_plugin.models.enlarged import EnlargedData
from crack_plugin.models.foreground_segmentor import ForegroundSegmentor
from crack_plugin.models.sliding import DEFAULT_BATCH
from crack_plugin.prediction.found import EnlargedPrediction, Prediction
from crack_plugin.prediction.mosaic import Windows


class PredictionError(CrackPluginError, ValueError):
    """Arguments from which nothing can be predicted."""


class Photograph(NamedTuple):
    """An image that is ready for the model.

    Attributes:
        image: As :attr:`Prediction.image`.
        path: The path that was given; None for an array.
        data: Its 'inputs' and 'data_samples', as the pipeline packs them.
    """

    image: np.ndarray
    path: str | Path | None
    data: dict[str, Any]


class MergeDifference(NamedTuple):
    """What merging adapters changes in the prediction of an image.

    Attributes:
        largest: Largest absolute difference of the logits.
        mean: Mean absolute difference of the foreground logits.
        changed: Share of the pixels whose label differs.
    """

    largest: float
    mean: float
    changed: float


class Predictor:
    """Predicts one image at a time, with the logits that ``tools/test.py`` has for it.

    Adapters on fp32 weights are merged, which leaves the logits as they are to within 1e-5 and saves memory and time.
    In lower precision merging would round, and is left to :meth:`merge`.

    Args:
        config: Config of a segmentor: a file, ``'crack_plugin::_base_/../NAME.py'`` for one that was installed with
            the package, or a ``Config``, which is left as it is.
        checkpoint: Its weights (.pth); None for the model as configured.
        adapter: A PEFT adapter in place of a checkpoint: a folder, or a hub id.
        device: Where to predict, such as ``'cpu'`` or ``'cuda:1'``; None for the best that is there.
        prompts: Prompts in place of the config's, one for each class; they name the classes.

    Attributes:
        model: The segmentor.
        class_names: Of the K foreground classes.

    Raises:
        PredictionError: Checkpoint and adapter are both given, or prompts or an adapter for a model without; or the
            device is not there.
        AdapterError: The adapter does not fit the model.
    """

    def __init__(
        self,
        config: str | Path | Config,
        checkpoint: str | Path | None = None,
        adapter: str | Path | None = None,
        device: str | torch.device | None = None,
        prompts: Sequence[str] | None = None,
    ) -> None:
        cfg = _own_config(config)
        if checkpoint is not None and adapter is not None:
            raise PredictionError(f'give checkpoint ({checkpoint}) or adapter ({adapter}), not both.')
        given = {'adapter': None if adapter is None else str(adapter), 'prompts': prompts}
        given = {name: value for name, value in given.items() if value is not None}
        if given and not has_prompts(cfg):
            raise PredictionError(
                f'{" and ".join(given)}: only SAM3TextLoRA has them, the config has {cfg.model.type}.'
            )
        cfg.model.update(given)
        # First to the CPU: merged, the model is smaller, and never whole on the device.
        self.model = init_model(cfg, None if checkpoint is None else str(checkpoint), device='cpu')
        self.fp16 = inference.mixed_precision(cfg)
        self.is_merged = False
        if isinstance(self.model, SAM3TextLoRA):
            self.model.window_progress = _show_windows
            if self.has_adapters and self.precision == torch.float32:
                self._merge()
        device = get_device() if device is None else device
        try:
            self.model.to(device)
        except (AssertionError, RuntimeError):
            _check_device(device)
            raise
        steps = [step for step in pipeline_of(cfg) if step['type'] != 'LoadAnnotations']
        # Reads files, and takes arrays as they are.
        self._load = TRANSFORMS.build({**steps[0], 'type': 'InferencerLoader'})
        self._transform = Compose(steps[1:])
        # What is predicted has no labels, and passes LoadYOLOPolygons as it is.
        self._packs_alone = [step['type'] for step in steps[1:] if step['type'] != 'LoadYOLOPolygons'] == [
            'PackSegInputs'
        ]
        trained_on = getattr(self.model, 'dataset_meta', {}).get('classes', ())[1:]
        names = [prompts, trained_on, cfg.test_dataloader.dataset.get('classes'), cfg.model.get('prompts')]
        numbers = [str(label) for label in range(1, max(self.model.out_channels, 2))]
        self.class_names = next((list(some) for some in names if some and len(some) == len(numbers)), numbers)

    @property
    def threshold(self) -> float | None:
        """Probability above which a pixel is foreground; None for a model that decides otherwise."""
        return self.model.threshold if isinstance(self.model, SAM3TextLoRA) else None

    @classmethod
    def from_pretrained(
        cls,
        repo: str | Path,
        revision: str | None = None,
        device: str | torch.device | None = None,
        prompts: Sequence[str] | None = None,
        base: str | Path | None = None,
    ) -> 'Predictor':
        """A predictor from what ``tools/push_to_hub.py`` uploaded; nothing in the repository is run.

        Args:
            repo: Hub id, ``'owner/name'`` or ``'owner/name@revision'``, or a folder with the same files.
            revision: Branch, tag or commit; None for the default.
            device: As of the class.
            prompts: As of the class.
            base: Folder of the base, on a machine that does not download it; None for the one that the repository
                names.

        Raises:
            AdapterError: The hub refused or cannot be reached, or the adapter does not fit.
            PortableError: The repository does not say how to predict, or what it says is refused.
        """
        folder = portable.find(repo, revision)
        cfg = portable.read_config(folder)
        if base is not None:
            cfg.model.base = str(base)
        return cls(cfg, adapter=folder, device=device, prompts=prompts)

    @property
    def device(self) -> torch.device:
        """Where it predicts."""
        return next(self.model.parameters()).device

    @property
    def has_adapters(self) -> bool:
        """Whether there are adapters that are not merged."""
        return isinstance(self.model, SAM3TextLoRA) and is_adapted(self.model.sam3)

    @property
    def precision(self) -> torch.dtype:
        """Of the weights of a ``SAM3TextLoRA``, or of the products if that is lower."""
        dtypes = {weight.dtype for weight in base_weights(self.model.sam3).values() if weight.is_floating_point()}
        lower = sorted(dtypes - {torch.float32}, key=str)
        return torch.float16 if self.fp16 else lower[0] if lower else torch.float32

    def __call__(self, image: str | Path | np.ndarray) -> Prediction:
        """Predict an image.

        Args:
            image: A file, or an array of shape (H, W, 3), uint8, in BGR order, as OpenCV and ``mmseg.apis`` have it.

        Raises:
            ImageError: The file is refused, as in training and testing.
            PredictionError: It is something else, the array is of another shape or type, or the model gives NaN.
        """
        photograph = self.read(image)
        return self.prediction(photograph, self.step([photograph])[0])

    def read(self, image: str | Path | np.ndarray) -> Photograph:
        """The first part of a prediction, without the model; several threads may do it at once.

        Raises:
            ImageError: As :meth:`__call__`; and PredictionError.
        """
        data = self._load(_checked(image))
        shown = np.asarray(data['img'], np.uint8)
        if self._packs_alone:
            # PackSegInputs takes planes as they are, and would take four times as long to make them.
            planes = np.empty((3, *shown.shape[:2]), np.uint8)
            cv2.split(shown, list(planes))
            data['img'] = planes.transpose(1, 2, 0)
        return Photograph(shown, None if isinstance(image, np.ndarray) else image, self._transform(data))

    def step(self, photographs: Sequence[Photograph]) -> list[Any]:
        """The second part: samples of photographs, which may differ in size. A GPU is not waited for."""
        batch = {key: [photograph.data[key] for photograph in photographs] for key in ('inputs', 'data_samples')}
        with torch.no_grad(), autocast(enabled=self.fp16):
            return self.model.test_step(batch)

    def prediction(self, photograph: Photograph, sample: Any) -> Prediction:
        """The third part: what :meth:`step` gave for a photograph, as a prediction.

        Raises:
            PredictionError: The model gives NaN.
        """
        found = sample.seg_logits
        if isinstance(found, EnlargedData) and found.source is not None:
            # Finite, or they would have been enlarged.
            given = list(self.class_names), photograph.image, photograph.path
            return EnlargedPrediction(found.source, sample.pred_sem_seg.threshold, *given)
        check_logits(found.data, photograph.path or 'the image')
        return Prediction(
            labels=sample.pred_sem_seg.data.squeeze(0).to(torch.uint8).cpu().numpy(),
            class_names=list(self.class_names),
            logits=found.data,
            image=photograph.image,
            image_path=photograph.path,
        )

    @property
    def windows(self) -> Windows | None:
        """How images of any size are cut, which are predicted in bands; None if only entire ones can be predicted."""
        cfg = getattr(self.model, 'test_cfg', None) or {}
        if not (isinstance(self.model, ForegroundSegmentor) and self._packs_alone and cfg.get('mode') == 'slide'):
            return None
        return Windows(tuple(cfg['crop_size']), tuple(cfg['stride']), cfg.get('batch', DEFAULT_BATCH))

    def segment_windows(self, windows: Tensor) -> Tensor:
        """Foreground logits (B, K, h, w) of 8-bit windows (B, 3, h, w) in BGR order, where :attr:`windows` is set."""
        with torch.no_grad(), autocast(enabled=self.fp16):
            return self.model.segment_windows(windows)

    def predict_many(self, paths: Iterable[str | Path | np.ndarray]) -> Iterator[Prediction]:
        """Predict images one after the other, each when it is asked for, in the order of ``paths``.

        An image that is refused raises, as in :meth:`__call__`; ``next`` goes on with the one after it.

        Raises:
            PredictionError: ``paths`` is a single path.
        """
        if isinstance(paths, (str, Path)):
            raise PredictionError(
                f'predict_many takes several paths, not {str(paths)!r}: call the predictor itself with one image, or '
                "list a folder, as in sorted(Path('photos').glob('*.jpg'))."
            )
        return map(self, paths)

    def merge(self, image: str | Path | np.ndarray | None = None) -> MergeDifference | None:
        """Merge the adapters into the weights, for less memory and time; if they are merged, nothing changes.

        Args:
            image: An image to predict before and after, as for :meth:`__call__`.

        Returns:
            How the two predictions of ``image`` differ; None without an image.

        Raises:
            ImageError: The image is refused; nothing is merged.
            PredictionError: The model has no adapters.
        """
        if not self.has_adapters and not self.is_merged:
            raise PredictionError('merge: the model has no adapters.')
        before = None if image is None else self(image)
        if not self.is_merged:
            self._merge()
        if image is None or before is None:
            return None
        after = self(image)
        difference = (after.logits - before.logits).abs()
        return MergeDifference(
            largest=difference.max().item(),
            mean=difference[1:].mean().item(),
            changed=float(np.mean(after.labels != before.labels)),
        )

    def _merge(self) -> None:
        self.model.merge_adapter()
        self.is_merged = True


def check_logits(logits: Tensor, image: str | Path) -> None:
    """Refuse logits of an image that are NaN.

    Raises:
        PredictionError: They are.
    """
    # No threshold is below NaN: it would be "no crack". The sum needs no memory.
    if logits.sum().isnan():
        raise PredictionError(
            f'{image}: the model gives NaN. Its weights are damaged or have diverged, or half precision overflowed: '
            "take another checkpoint or adapter, or model.dtype=None or 'bfloat16' instead of 'float16'."
        )


def has_prompts(cfg: Config) -> bool:
    """Whether the config's model is a ``SAM3TextLoRA``, which has prompts, a threshold and adapters."""
    model_class = MODELS.get(cfg.model.type)
    return model_class is not None and issubclass(model_class, SAM3TextLoRA)


def pipeline_of(cfg: Config) -> list[dict[str, Any]]:
    """The pipeline of the test set; that of the config if the test set wraps other datasets and has none itself."""
    return cfg.test_dataloader.dataset.get('pipeline') or cfg.test_pipeline


def _own_config(config: str | Path | Config) -> Config:
    if isinstance(config, Config):
        return copy.deepcopy(config)
    return get_config(config) if isinstance(config, str) and '::' in config else Config.fromfile(config)


def _check_device(device: str | torch.device) -> None:
    try:
        torch.empty(1, device=device)
    # What torch raises for a device that is not there, or was not compiled in, or is no device.
    except (AssertionError, NotImplementedError, RuntimeError) as error:
        reason = str(error).strip().partition('\n')[0]
        raise PredictionError(
            f"device {str(device)!r} cannot be used here: {reason}. 'cpu' is always there."
        ) from error


def _checked(image: str | Path | np.ndarray) -> str | np.ndarray:
    if isinstance(image, (str, Path)):
        return str(image)
    if not isinstance(image, np.ndarray):
        raise PredictionError(
            f'an image is a path, or an array of shape (H, W, 3), uint8, in BGR order; this one is a '
            f'{type(image).__name__}. Of several, use predict_many; of a picture of PIL, np.array(picture)[..., ::-1].'
        )
    if image.dtype != np.uint8 or image.ndim != 3 or image.shape[2] != 3 or not image.size:
        raise PredictionError(
            f'an image is an array of shape (H, W, 3), uint8, in BGR order; this one is {image.dtype} of shape '
            f'{image.shape}. Convert it, for example with cv2.cvtColor.'
        )
    return image


def _show_windows(batches: Sequence) -> Iterable:
    """A progress bar over the windows of an image that takes longer than two seconds."""
    return tqdm(batches, desc='windows', leave=False, delay=2)
