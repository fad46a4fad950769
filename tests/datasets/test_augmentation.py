from pathlib import Path

import cv2
import numpy as np
from mmengine.config import Config
from mmengine.registry import init_default_scope
from mmseg.registry import DATASETS

CONFIGS = Path(__file__).parents[2] / 'configs'


def test_augmentation_moves_image_and_label_together(tmp_path):
    for folder in ('images', 'labels'):
        (tmp_path / 'train' / folder).mkdir(parents=True)
    image = np.full((640, 800, 3), 30, np.uint8)
    image[200:400, 100:500] = 220
    cv2.imwrite(str(tmp_path / 'train/images/a.png'), image)
    corners = [(x / 800, y / 640) for x, y in ((100, 200), (499, 200), (499, 399), (100, 399))]
    (tmp_path / 'train/labels/a.txt').write_text('0 ' + ' '.join(f'{x:.6f} {y:.6f}' for x, y in corners))
    cfg = Config.fromfile(CONFIGS / 'sam3_lora_crack_aug.py').train_dataloader.dataset
    cfg.data_root = str(tmp_path)
    init_default_scope('mmseg')
    dataset = DATASETS.build(cfg)
    np.random.seed(0)  # noqa: NPY002 - what MMSegmentation's transforms draw from
    shapes, ignored, compared = set(), 0, 0
    for _ in range(24):
        sample = dataset[0]
        labels = sample['data_samples'].gt_sem_seg.data[0].numpy()
        grey = sample['inputs'].numpy().max(axis=0)
        seen = labels != 255
        if (labels == 1).any() and (labels == 0).any():
            dark, bright = (np.median(grey[labels == label]) for label in (0, 1))
            assert bright > dark
            # Bilinear edges and nearest labels may differ along the boundary.
            assert ((grey > (dark + bright) / 2) == (labels == 1))[seen].mean() > 0.98
            compared += 1
        shapes.add(labels.shape)
        ignored += not seen.all()
    assert shapes == {(640, 800), (512, 512)}
    assert 4 < ignored < 20
    assert compared > 12


def test_reference_recipe_stays_without_augmentation():
    steps = [step.type for step in Config.fromfile(CONFIGS / 'sam3_lora_crack.py').train_pipeline]
    assert steps == ['LoadImageFromFile', 'LoadYOLOPolygons', 'PackSegInputs']
