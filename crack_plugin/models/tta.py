"""Test-time augmentation: the mean of the probabilities of several views of an image."""

from collections.abc import Iterable, Sequence

import torch
from mmengine.structures import PixelData
from mmseg.models.segmentors import SegTTAModel
from mmseg.registry import MODELS
from mmseg.structures import SegDataSample
from mmseg.utils import SampleList
from torch import Tensor

from crack_plugin.models.logits import threshold_labels
from crack_plugin.models.strips import strips


@MODELS.register_module()
class SAM3TTAModel(SegTTAModel):
    """Test-time augmentation that keeps the merged result: ``seg_logits`` is the log of the mean probabilities.

    MMSegmentation's own leaves the last augmentation's logits in the sample, has no ``threshold``, and keeps the logits
    of all augmentations until the last is done; here each is added to the mean and freed.
    """

    def test_step(self, data: dict) -> SampleList:
        """Predict and merge.

        Args:
            data: Lists over augmentations, as ``TestTimeAug`` and mmengine's collating make them.

        Returns:
            One sample per image.
        """
        count = len(next(iter(data.values())))
        batches = ({key: value[i] for key, value in data.items()} for i in range(count))
        return self._merge(self.module.test_step(batch) for batch in batches)

    def merge_preds(self, data_samples_list: list[SampleList]) -> SampleList:
        """Merge the augmentations of each image; their logits are overwritten.

        Args:
            data_samples_list: One list of predictions per image, (K + 1, H, W) logits in each.

        Returns:
            One sample per image.
        """
        return self._merge(zip(*data_samples_list, strict=True))

    def _merge(self, augmentations: Iterable[Sequence[SegDataSample]]) -> SampleList:
        """Into the samples of the first augmentation."""
        merged: SampleList = []
        count = 0
        for samples in augmentations:
            _add_probabilities(merged, samples)
            count += 1
            # Otherwise they would stay in memory while the next augmentation is predicted.
            del samples
        for sample in merged:
            probabilities = sample.seg_logits.data.div_(count)
            logits = probabilities.clamp_min_(torch.finfo(probabilities.dtype).tiny).log_()
            labels = threshold_labels(logits[None], self.module.threshold)
            sample.set_data({'pred_sem_seg': PixelData(data=labels)})
        return merged


def _add_probabilities(totals: SampleList, samples: Sequence[SegDataSample]) -> None:
    """Turn the logits of samples into probabilities, and add them to those in ``totals``, which may be empty."""
    for sample in samples:
        _softmax_(sample.seg_logits.data)
        sample.pop('pred_sem_seg', None)
    if not totals:
        totals += samples
        return
    for total, sample in zip(totals, samples, strict=True):
        total.seg_logits.data.add_(sample.seg_logits.data)


def _softmax_(logits: Tensor) -> None:
    """Softmax over the channels of logits (K + 1, H, W), in place."""
    for rows in strips(logits.shape[1], logits.shape[2], logits.device):
        logits[:, rows] = logits[:, rows].softmax(dim=0)
