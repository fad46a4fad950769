# The reference recipe for photographs much larger than the model's square: trained on crops, tested in windows.
_base_ = './sam3_lora_crack.py'
side = 1008  # SAM 3's own input: a pixel of the photograph is a pixel of the model's
model = dict(test_cfg=dict(mode='slide', crop_size=(side, side), stride=(672, 672), batch=2))
train_pipeline = [
    dict(type='LoadImageFromFile'),
    dict(type='LoadYOLOPolygons'),
    # Three crops of four hold a crack; elsewhere most would be plain surface
    dict(type='CrackRandomCrop', crop_size=(side, side), crack_prob=0.75),
    dict(type='PackSegInputs'),
]
train_dataloader = dict(dataset=dict(pipeline=train_pipeline))
# Windows have the model's scale, so that here, and not in the whole-image configs, a resize changes what it sees
tta_pipeline = [
    dict(type='LoadImageFromFile'),
    dict(
        type='TestTimeAug',
        transforms=[
            [dict(type='Resize', scale_factor=scale, keep_ratio=True) for scale in (0.75, 1.0, 1.25)],
            [dict(type='RandomFlip', prob=0.0), dict(type='RandomFlip', prob=1.0, direction='horizontal')],
            [dict(type='LoadYOLOPolygons')],
            [dict(type='PackSegInputs')],
        ],
    ),
]
