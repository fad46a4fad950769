"""Predict with a segmentor whose background logit is 0: images of unequal sizes, in windows, by a threshold."""

from collections.abc import Callable, Iterable, Iterator, Sequence

import torch
from mmengine.config import ConfigDict
from mmengine.structures import PixelData
from mmseg.models.segmentors import EncoderDecoder
from mmseg.structures import SegDataSample
from mmseg.utils import OptSampleList, SampleList
from torch import Tensor

from crack_plugin.models import logits, sliding
from crack_plugin.models.enlarged import Enlarged, EnlargedData


class ForegroundSegmentor(EncoderDecoder):
    """What MMSegmentation's ``EncoderDecoder`` does after ``encode_decode``, with less memory.

    A subclass sets the attributes, and implements ``encode_decode``.

    Attributes:
        test_cfg: With ``mode``, 'whole' or 'slide', and for the latter ``crop_size``, ``stride``, ``batch`` and
            ``scales``.
        threshold: A pixel is foreground where 1 - p(background) exceeds it.
        window_progress: Iterates over the batches of windows, and may show the progress.
    """

    test_cfg: ConfigDict
    threshold: float
    window_progress: Callable[[Sequence[sliding.Windows]], Iterable[sliding.Windows]]

    def test_step(self, data: dict) -> SampleList:
        """Predict a batch from the dataloader, whose images may differ in size.

        Entire 8-bit images are one batch for the network, whatever their sizes; of others, those of one size.
        """
        is_raw = all(image.dtype == torch.uint8 for image in data['inputs'])
        is_padded = bool(getattr(self.data_preprocessor, 'test_cfg', None))
        if is_raw and not is_padded:
            return self._predict_windows(data) if self.test_cfg.mode == 'slide' else self._predict_entire(data)
        return self._by_size(data, super().test_step)

    def _predict_entire(self, data: dict) -> SampleList:
        """Predict 8-bit images of any sizes."""
        data = self.data_preprocessor.cast_data(data)
        images = list(data['inputs'])
        samples = data.get('data_samples') or [SegDataSample() for _ in images]
        # One image's logits at a time: the others' labels need less memory than theirs at once.
        for found, sample in zip(self.segment_images(images, [one.metainfo for one in samples]), samples, strict=True):
            if isinstance(found, Tensor):
                self.postprocess_result(found, [sample])
            elif found.is_partial and logits.is_original(found.size, sample.metainfo):
                # Neither, as long as nobody asks: together they take 16 bytes a pixel.
                labels = EnlargedData(found, self.threshold)
                sample.set_data({'seg_logits': EnlargedData(found), 'pred_sem_seg': labels})
            else:
                self.postprocess_result(found.whole(), [sample])
        return list(samples)

    def segment_images(self, images: Sequence[Tensor], metas: Sequence[dict]) -> Iterator[Tensor | Enlarged]:
        """Segment entire 8-bit images, each of (3, H, W) of its own; its logits (1, K + 1, H, W) when asked for."""
        for image, meta in zip(images, metas, strict=True):
            normalised = self.data_preprocessor({'inputs': [image]}, training=False)['inputs']
            yield self.encode_decode(normalised, [meta])

    def _predict_windows(self, data: dict) -> SampleList:
        """Predict 8-bit images in windows, each of which is normalised on its own.

        Normalising an entire image takes 12 bytes a pixel, and as much again for each intermediate result.
        """

        def predict(data: dict) -> SampleList:
            data = self.data_preprocessor.cast_data(data)
            images = data['inputs']
            stacked = images[0][None] if len(images) == 1 else torch.stack(list(images))
            return self.predict(stacked, data.get('data_samples'))

        return self._by_size(data, predict)

    def _by_size(self, data: dict, predict: Callable[[dict], SampleList]) -> SampleList:
        """Predict the images of one size together."""
        by_size: dict[torch.Size, list[int]] = {}
        for index, image in enumerate(data['inputs']):
            by_size.setdefault(image.shape, []).append(index)
        if len(by_size) == 1:
            return predict(data)
        predicted: dict[int, SegDataSample] = {}
        for indices in by_size.values():
            part = {key: [values[i] for i in indices] for key, values in data.items() if values is not None}
            predicted |= zip(indices, predict(part), strict=True)
        return [predicted[index] for index in range(len(predicted))]

    def val_step(self, data: dict) -> SampleList:
        """As :meth:`test_step`."""
        return self.test_step(data)

    def slide_inference(self, inputs: Tensor, batch_img_metas: list[dict]) -> Tensor:
        """Segment overlapping windows of ``test_cfg`` and blend their logits, see :mod:`~crack_plugin.models.sliding`.

        Args:
            inputs: Normalised images, or 8-bit ones that the preprocessor has not seen, shape (N, 3, H, W).
            batch_img_metas: Not used: padding is segmented as well.

        Returns:
            Logits, shape (N, K + 1, H, W), fp32; channel 0 (background) is 0.
        """
        cfg = self.test_cfg
        count, _, height, width = inputs.shape
        blended = inputs.new_zeros((count, self.out_channels, height, width), dtype=torch.float32)
        sliding.blend_windows(
            inputs,
            self.segment_windows,
            blended[:, 1:],
            cfg.crop_size,
            cfg.stride,
            cfg.get('batch', sliding.DEFAULT_BATCH),
            self.window_progress,
        )
        return blended

    def segment_windows(self, windows: Tensor) -> Tensor:
        """Foreground logits (B, K, h, w) of windows (B, 3, h, w), which are normalised here if they are 8-bit.

        With ``test_cfg.scales``, the mean of those at each, see :func:`~crack_plugin.models.sliding.at_scales`.
        """
        scales = self.test_cfg.get('scales')
        if scales is None:
            return self._segment_once(windows)
        return sliding.at_scales(windows, self._segment_once, self.out_channels - 1, scales, len(windows))

    def _segment_once(self, windows: Tensor) -> Tensor:
        if windows.dtype == torch.uint8:
            windows = self.data_preprocessor({'inputs': list(windows)}, training=False)['inputs']
        return self.encode_decode(windows, [{}] * len(windows))[:, 1:]

    def postprocess_result(self, seg_logits: Tensor, data_samples: OptSampleList = None) -> SampleList:
        """MMSegmentation's, with ``pred_sem_seg`` by ``threshold`` instead of argmax, and without copies.

        Args:
            seg_logits: Shape (N, K + 1, H, W).
            data_samples: N samples to fill; None for new ones.

        Returns:
            Samples with ``seg_logits`` of shape (K + 1, H, W), without padding, unflipped and at ``ori_shape``, and
            with labels in ``pred_sem_seg``, shape (1, H, W), int64.
        """
        samples = data_samples if data_samples is not None else [SegDataSample() for _ in seg_logits]
        for resized, sample in zip(seg_logits, samples, strict=True):
            restored = logits.restore_original(resized, sample.metainfo)
            labels = logits.threshold_labels(restored[None], self.threshold)
            sample.set_data({'seg_logits': PixelData(data=restored), 'pred_sem_seg': PixelData(data=labels)})
        return samples
