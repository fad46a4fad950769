"""The kinds of base models, by the ``model_type`` of their configuration.

SAM3-LiteText is SAM 3 with another text encoder: its other modules have SAM 3's names and compute the same.
"""

from typing import Any

from transformers import Sam3Config
from transformers.models.sam3.modeling_sam3 import Sam3Model
from transformers.models.sam3_lite_text.configuration_sam3_lite_text import Sam3LiteTextConfig
from transformers.models.sam3_lite_text.modeling_sam3_lite_text import Sam3LiteTextModel

CONFIGS: dict[str, Any] = {'sam3': Sam3Config, 'sam3_lite_text': Sam3LiteTextConfig}
MODELS: dict[str, Any] = {'sam3': Sam3Model, 'sam3_lite_text': Sam3LiteTextModel}
"""Classes of transformers by ``model_type``."""

VIDEO = 'sam3_video'
"""The hub's facebook/sam3: the image model, of type sam3, is its detector."""

KNOWN = ', '.join(MODELS)
"""Their names, for messages."""


def model_class(config: Any) -> Any:
    """The class of transformers that ``config`` describes a model of."""
    return MODELS[config.model_type]
