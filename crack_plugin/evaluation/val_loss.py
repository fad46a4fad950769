"""Loss of a prediction, from the logits that its masks were made of."""

from collections.abc import Mapping, Sequence
from typing import Any

from torch import Tensor

from crack_plugin.evaluation.measures import MetricError
from crack_plugin.losses import build_losses, decode_losses


class ImageLoss:
    """A segmentor's ``loss_decode`` on one image, without a second forward.

    ``seg_logits`` are at the mask's own size, where SAM3TextLoRA computes its training loss too, so the values are
    those of ``model.loss`` in evaluation mode on this image alone.

    Args:
        loss_decode: Config of one MMSeg loss or of several, as a segmentor or decode head takes it.
        ignore_index: Label of the pixels left out.

    Raises:
        LossError: There is no loss, or one that cannot be used here.
    """

    def __init__(self, loss_decode: Mapping[str, Any] | Sequence[Mapping[str, Any]], ignore_index: int) -> None:
        self.losses = build_losses(loss_decode, None, ignore_index).eval()
        self.ignore_index = ignore_index

    def __call__(self, seg_logits: Tensor, label: Tensor) -> dict[str, float]:
        """Compute the losses.

        Args:
            seg_logits: Logits, shape (K + 1, H, W).
            label: Shape (H, W).

        Returns:
            'val_loss', the sum that training minimises, and where there are several losses each as 'val_<loss_name>'.

        Raises:
            MetricError: ``seg_logits`` has one channel, which MMSegmentation fills with probabilities.
        """
        if len(seg_logits) == 1:
            raise MetricError(
                'a loss needs a logit for each class, and seg_logits has one channel of probabilities; set '
                "out_channels=2 in the model's decode_head, or take loss_decode out of CrackMetric"
            )
        self.losses.to(seg_logits.device)
        logits, labels = seg_logits[None].float(), label[None].to(seg_logits.device).long()
        losses = decode_losses(self.losses, logits, labels, self.ignore_index)
        values = {f'val_{name}': float(value) for name, value in losses.items()}
        total = sum(value for name, value in values.items() if 'loss' in name)
        return {'val_loss': total} | (values if len(values) > 1 else {})
