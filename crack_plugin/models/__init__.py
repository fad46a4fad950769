"""The segmentor, its test-time augmentation and its losses."""

from crack_plugin.models.centerline_dice_loss import CenterlineDiceLoss
from crack_plugin.models.dice_loss import ForegroundDiceLoss
from crack_plugin.models.sam3_text_lora import SAM3TextLoRA
from crack_plugin.models.tta import SAM3TTAModel

__all__ = ['CenterlineDiceLoss', 'ForegroundDiceLoss', 'SAM3TTAModel', 'SAM3TextLoRA']
