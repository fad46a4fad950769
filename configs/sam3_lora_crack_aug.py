# The reference recipe with augmentation. Crops are the change of scale: the model stretches every picture to its
# square, so that a mere resize would change nothing.
_base_ = './sam3_lora_crack.py'
train_pipeline = [
    dict(type='LoadImageFromFile'),
    dict(type='LoadYOLOPolygons'),
    dict(type='RandomFlip', prob=0.5, direction='horizontal'),
    dict(type='RandomFlip', prob=0.5, direction='vertical'),
    # Corners that a rotation leaves empty are ignored (label 255)
    dict(type='RandomRotate', prob=0.5, degree=20, pad_val=127, seg_pad_val=255),
    # Pictures below 512 px stay as they are
    dict(type='RandomApply', transforms=[dict(type='RandomCrop', crop_size=(512, 512))], prob=0.5),
    dict(type='PhotoMetricDistortion'),
    dict(type='PackSegInputs'),
]
train_dataloader = dict(dataset=dict(pipeline=train_pipeline))
