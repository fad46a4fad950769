"""The segmentor and its loss."""

from crack_plugin.models.dice_loss import ForegroundDiceLoss
from crack_plugin.models.sam3_text_lora import SAM3TextLoRA, SAM3TTAModel

__all__ = ['ForegroundDiceLoss', 'SAM3TTAModel', 'SAM3TextLoRA']
