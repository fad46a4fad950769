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
    dict(
        type='SeededAlbu',
        transforms=[
            # Up to a quarter off each side: cracks up to twice as large, whatever the size of the picture
            dict(type='RandomCropFromBorders', crop_left=0.25, crop_right=0.25, crop_top=0.25, crop_bottom=0.25, p=0.5),
            # No stronger, or the thinnest cracks are gone
            dict(
                type='OneOf',
                transforms=[
                    dict(type='GaussianBlur', sigma_limit=(0.5, 1.5)),
                    dict(type='MotionBlur', blur_limit=(3, 5)),
                ],
                p=0.2,
            ),
            # Triangles: with more corners they cross themselves and leave dark lines that look like cracks
            dict(
                type='RandomShadow',
                shadow_roi=(0, 0, 1, 1),
                num_shadows_limit=(1, 1),
                shadow_dimension=3,
                shadow_intensity_range=(0.2, 0.5),
                p=0.3,
            ),
        ],
    ),
    dict(type='PhotoMetricDistortion'),
    dict(type='PackSegInputs'),
]
train_dataloader = dict(dataset=dict(pipeline=train_pipeline))
