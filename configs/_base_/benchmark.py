# What the models of configs/benchmark have in common: data, augmentation, schedule and metric.
_base_ = ['./datasets/yolo_crack.py', './default_runtime.py']
image_size = (512, 512)
# Stretched to one square, as SAM 3 does it; Pillow's bilinear is antialiased when it shrinks, OpenCV's is not
resize = dict(type='Resize', scale=image_size, keep_ratio=False, backend='pillow')
train_pipeline = [
    dict(type='LoadImageFromFile'),
    dict(type='LoadYOLOPolygons'),
    resize,
    dict(type='RandomFlip', prob=0.5, direction='horizontal'),
    dict(type='RandomFlip', prob=0.5, direction='vertical'),
    dict(type='PackSegInputs'),
]
# Labels come after the resize: predictions are stretched back, and scored at the size of the image file
test_pipeline = [
    dict(type='LoadImageFromFile'),
    resize,
    dict(type='LoadYOLOPolygons'),
    dict(type='PackSegInputs'),
]
load, flips = _base_.tta_pipeline
tta_pipeline = [load, resize, flips]
del load, flips
tta_model = dict(type='SegTTAModel')
# Batch normalisation needs every batch to hold several images
train_dataloader = dict(batch_size=4, drop_last=True, dataset=dict(pipeline=train_pipeline))
val_dataloader = dict(dataset=dict(pipeline=test_pipeline))
test_dataloader = val_dataloader

# Cross-entropy alone makes little of cracks, a few percent of the pixels, in few epochs; SAM 3 trains on the same Dice
losses = [dict(type='CrossEntropyLoss'), dict(type='ForegroundDiceLoss')]

# The reference recipe's optimizer, clipping, cosine and length. Heads are new and learn ten times as fast as a
# pretrained backbone, as in SegFormer; after an epoch of warm-up.
optim_wrapper = dict(
    type='OptimWrapper',
    optimizer=dict(type='AdamW', lr=1e-3, weight_decay=0.01),
    paramwise_cfg=dict(custom_keys={'backbone': dict(lr_mult=0.1)}),
    clip_grad=dict(max_norm=1.0),
)
param_scheduler = [
    dict(type='LinearLR', start_factor=0.01, by_epoch=True, begin=0, end=1, convert_to_iter_based=True),
    dict(type='CosineAnnealingLR', by_epoch=True, T_max=6, begin=0, end=6, convert_to_iter_based=True),
]
train_cfg = dict(type='EpochBasedTrainLoop', max_epochs=6, val_interval=1)
val_cfg = dict(type='ValLoop')
test_cfg = dict(type='TestLoop')
# A checkpoint of SegFormer-B5 with the optimizer's moments takes a gigabyte
default_hooks = dict(checkpoint=dict(max_keep_ckpts=1))
