"""What predicts: a config with several weights, loaded when they are asked for."""

import copy
from collections import OrderedDict
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from mmengine.config import Config

from crack_plugin.app.limits import AppError, UnknownError
from crack_plugin.models.tokenizer import clip_tokenizer, tokenize
from crack_plugin.prediction import Predictor
from crack_plugin.prediction.predictor import has_prompts
from crack_plugin.prediction.settings import prediction_settings

GIVEN, ZERO_SHOT = 'given', 'zero-shot'
_KEPT = 2
"""Predictors that stay in memory: that of the picture before the slider, and that of the one after it."""


@dataclass(frozen=True)
class Weights:
    """Weights to choose.

    Attributes:
        key: Names them to the server.
        name: Names them to the user.
        checkpoint: File of a training.
        adapter: PEFT adapter.
        zero_shot: Whether there are none: the base as it is.
    """

    key: str
    name: str
    checkpoint: str | None = None
    adapter: str | None = None
    zero_shot: bool = False

    @property
    def file(self) -> str | None:
        """Checkpoint or adapter."""
        return self.checkpoint or self.adapter


class Models:
    """The predictors of one config.

    Args:
        config: Of a ``SAM3TextLoRA`` with one class.
        checkpoint: Weights that it is started with.
        adapter: An adapter in their place.
        trainings: Folder of the trainings that the page starts; the adapters of those that are there can be chosen.
        device: Where to predict; None for the best that is there.

    Attributes:
        prompt: That of the config.
        threshold: Of the model, once it is loaded.
        in_windows: Whether the config has photographs predicted in windows.
        window: Their side in pixels; of a config without, that of what the model sees at once. Of a loaded model.
        step: From window to window in pixels, likewise.

    Raises:
        AppError: The config has another model, or several classes.
    """

    def __init__(
        self,
        config: Config,
        checkpoint: str | None,
        adapter: str | None,
        trainings: Path,
        device: str | None = None,
    ) -> None:
        if not has_prompts(config):
            raise AppError(f'{config.filename}: the page is for SAM3TextLoRA, this is {config.model.type}.')
        prompts = config.model.get('prompts', ['crack'])
        if len(prompts) != 1:
            raise AppError(f'{config.filename}: the page looks for one class, and model.prompts has {len(prompts)}.')
        self.config, self.prompt = config, prompts[0]
        self.threshold, self.window, self.step = 0.5, 1008, 756
        self.in_windows = (config.model.get('test_cfg') or {}).get('mode') == 'slide'
        self.trainings, self._device = trainings, device
        self._given: list[Weights] = []
        adapter = adapter or (None if checkpoint else config.model.get('adapter'))
        if checkpoint or adapter:
            file = Path(checkpoint or adapter or '')
            self._given.append(Weights(GIVEN, f'{file.parent.name}/{file.name}'.strip('/'), checkpoint, adapter))
        self._given.append(Weights(ZERO_SHOT, 'zero-shot (no adapter)', zero_shot=True))
        self._predictors: OrderedDict[tuple[str, str | None, str], Predictor] = OrderedDict()

    def load(self) -> None:
        """Load what it is started with, so that faults are told before a browser asks.

        Raises:
            CrackPluginError: It cannot be loaded.
        """
        predictor = self.predictor(self._given[0].key, self.prompt)
        self.threshold = predictor.threshold or self.threshold
        self.window = int(predictor.model.image_size)
        self.step = round(3 * self.window / 4)
        if self.in_windows:
            windows = self.config.model.test_cfg
            self.window, self.step = max(windows.crop_size), min(windows.stride)

    def choices(self) -> list[Weights]:
        """The weights there are: those that it was started with first, then zero-shot, then what was trained here."""
        trained = [
            Weights(f'trained/{folder.name}', f'trained here: {folder.name}', adapter=str(adapter))
            for folder in sorted(self.trainings.glob('*'))
            if (adapter := last_adapter(folder)) is not None
        ]
        return self._given + trained

    def weights(self, key: str) -> Weights:
        """Weights by their key.

        Raises:
            UnknownError: There are none.
        """
        for weights in self.choices():
            if weights.key == key:
                return weights
        raise UnknownError('these weights are not there any more. Choose others.')

    def predictor(self, key: str, prompt: str) -> Predictor:
        """A predictor, which is loaded unless it is among those that were used last; one thread at a time.

        Raises:
            CrackPluginError: It cannot be loaded.
        """
        weights = self.weights(key)
        # A training that goes on has another adapter after each epoch.
        place = key, weights.file, prompt
        if place not in self._predictors:
            # Before the new one is loaded, or one more than that would be in memory.
            while len(self._predictors) >= _KEPT:
                self._predictors.popitem(last=False)
            self._predictors[place] = Predictor(
                self._config_of(weights), weights.checkpoint, weights.adapter, self._device, [prompt]
            )
        self._predictors.move_to_end(place)
        return self._predictors[place]

    def settings(self, key: str, prompt: str, test_cfg: dict[str, Any]) -> dict[str, Any]:
        """All that a prediction depends on, for a report."""
        weights = self.weights(key)
        config = self._config_of(weights)
        config.model.update(prompts=[prompt], test_cfg=test_cfg)
        return prediction_settings(config, weights.checkpoint, weights.adapter)

    def _config_of(self, weights: Weights) -> Config:
        # Config.copy() shares what is below its first level.
        config = copy.deepcopy(self.config)
        config.model.adapter = None
        if weights.zero_shot:
            config.model.update(lora=None, detail_head=None)
        return config


def last_adapter(training: Path) -> Path | None:
    """The adapter of the last epoch of a training that is complete; None if there is none yet."""
    folders = training.glob('adapters/epoch_*/adapter_model.safetensors')
    numbered = {int(path.parent.name.rpartition('_')[2]): path.parent for path in folders}
    return numbered[max(numbered)] if numbered else None


def check_prompt(prompt: str) -> str:
    """A prompt without blanks around it.

    Raises:
        AppError: It is empty.
        ConfigError: It is too long.
    """
    prompt = ' '.join(prompt.split())
    if not prompt:
        raise AppError('the prompt is empty: say what to look for, such as "crack".')
    tokenize(clip_tokenizer(), [prompt])
    return prompt
