# Pretrains the embedded tiny SAM 3 from scratch on synthetic pictures: tools/pretrain_tiny.py.
_base_ = ['./_base_/models/sam3_text_lora.py', './_base_/datasets/yolo_crack.py', './_base_/default_runtime.py']
classes = ['crack', 'joint', 'spalling', 'rust stain']
model = dict(
    # 3.1 M parameters at 336 px: one window of 24 x 24 tokens, SAM 3's own patch and token counts
    base=dict(
        _delete_=True,
        vision_config=dict(
            backbone_config=dict(
                model_type='sam3_vit_model',
                hidden_size=160,
                intermediate_size=320,
                num_hidden_layers=6,
                num_attention_heads=4,
                image_size=336,
            ),
            fpn_hidden_size=64,
        ),
        # CLIP's 49,408 tokens take most of the text encoder, so it is narrow
        text_config=dict(
            model_type='clip_text_model',
            vocab_size=49408,
            hidden_size=16,
            intermediate_size=32,
            projection_dim=16,
            num_hidden_layers=1,
            num_attention_heads=2,
            max_position_embeddings=32,
            hidden_act='gelu',
        ),
        geometry_encoder_config=dict(hidden_size=64, num_layers=1, num_attention_heads=4, intermediate_size=64),
        detr_encoder_config=dict(
            hidden_size=64, num_layers=2, num_attention_heads=4, intermediate_size=128, dropout=0.0
        ),
        detr_decoder_config=dict(
            hidden_size=64, num_layers=1, num_attention_heads=4, intermediate_size=64, num_queries=4
        ),
        mask_decoder_config=dict(hidden_size=64, num_attention_heads=4),
    ),
    # What the pictures hold: each prompt learns to mark its own, so that a prompt decides what is marked
    prompts=classes,
    lora=None,
    trainable='all',
    # cross-entropy gets a model from scratch off the ground, where Dice alone has hardly a gradient; what is thin has
    # few pixels, and counts more (background, crack, joint, spalling, rust stain)
    loss_decode=[
        dict(type='ForegroundDiceLoss'),
        dict(type='CrossEntropyLoss', class_weight=[1.0, 3.0, 2.0, 1.0, 1.0]),
        # each prompt on its own, as it is asked for later: in the softmax of both others above, "joint" may find cracks
        # as long as "crack" finds them better
        dict(type='CrossEntropyLoss', use_sigmoid=True, loss_weight=4.0, loss_name='loss_bce'),
    ],
)
data_root = 'data/synthetic_world'
train_pipeline = [
    dict(type='LoadImageFromFile'),
    dict(type='LoadYOLOPolygons'),
    # the model's own square already here, in the loading processes: the losses have half the pixels to go through
    dict(type='Resize', scale=(336, 336), keep_ratio=False),
    dict(type='RandomFlip', prob=0.5, direction='horizontal'),
    dict(type='RandomFlip', prob=0.5, direction='vertical'),
    dict(type='PackSegInputs'),
]
train_dataloader = dict(
    batch_size=8, num_workers=2, dataset=dict(data_root=data_root, classes=classes, pipeline=train_pipeline)
)
val_dataloader = dict(num_workers=1, dataset=dict(data_root=data_root, classes=classes))
test_dataloader = val_dataloader
optim_wrapper = dict(
    type='OptimWrapper', optimizer=dict(type='AdamW', lr=1e-3, weight_decay=0.01), clip_grad=dict(max_norm=1.0)
)
# Iterations, since a part of the training may end anywhere
param_scheduler = [
    dict(type='LinearLR', start_factor=0.01, by_epoch=False, begin=0, end=200),
    dict(type='CosineAnnealingLR', by_epoch=True, T_max=4, convert_to_iter_based=True, begin=0, end=4),
]
train_cfg = dict(type='EpochBasedTrainLoop', max_epochs=4, val_interval=1)
val_cfg = dict(type='ValLoop')
test_cfg = dict(type='TestLoop')
# Every 50 iterations, so that a part that ends anywhere loses little; the average of the last 200 is what is kept
default_hooks = dict(checkpoint=dict(by_epoch=False, interval=50, max_keep_ckpts=1))
custom_hooks = [dict(type='EMAHook', ema_type='ExponentialMovingAverage', momentum=0.005)]
