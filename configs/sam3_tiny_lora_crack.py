# The embedded tiny SAM 3 (configs/sam3_tiny): the whole pipeline on a CPU in minutes, without gated weights.
_base_ = './sam3_lora_crack.py'
model = dict(
    base='{{ fileDirname }}/sam3_tiny',
    lora=dict(r=16, lora_alpha=32),  # a model 300 times smaller has less to adapt with
    # A larger photograph is seen in windows, or thin cracks are lost (measured in sam3_tiny/README.md); what is thin is
    # seen magnified as well, in five forwards for one (docs/recipes.md)
    test_cfg=dict(mode='slide', crop_size=(672, 672), stride=(448, 448), scales=(1, 1.5)),
)
train_pipeline = [
    dict(type='LoadImageFromFile'),
    dict(type='LoadYOLOPolygons'),
    dict(type='RandomFlip', prob=0.5, direction='horizontal'),
    dict(type='RandomFlip', prob=0.5, direction='vertical'),
    dict(type='PackSegInputs'),
]
train_dataloader = dict(batch_size=4, num_workers=1, dataset=dict(pipeline=train_pipeline))
val_dataloader = dict(num_workers=1)
test_dataloader = val_dataloader
# Adapters of a small model take, and need, larger steps
optim_wrapper = dict(type='OptimWrapper', optimizer=dict(lr=2e-3))
param_scheduler = [dict(type='CosineAnnealingLR', by_epoch=True, T_max=20)]
train_cfg = dict(max_epochs=20)
