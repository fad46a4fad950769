# Pretrains the detail head of the embedded tiny SAM 3 on synthetic pictures: tools/pretrain_tiny.py.
_base_ = './sam3_tiny_pretrain.py'
classes = ['crack']
model = dict(
    base='{{ fileDirname }}/sam3_tiny',
    prompts=classes,
    trainable='lora',  # of which there is none: the head alone trains
    detail_head=dict(channels=16, levels=4),
    loss_decode=[dict(type='ForegroundDiceLoss'), dict(type='CrossEntropyLoss', loss_weight=0.5)],
)
# cuDNN would time the head's convolutions anew for every size of a picture
env_cfg = dict(cudnn_benchmark=False)
# At the pictures' own pixels, which is where the head works
train_pipeline = [
    dict(type='LoadImageFromFile'),
    dict(type='LoadYOLOPolygons'),
    dict(type='RandomFlip', prob=0.5, direction='horizontal'),
    dict(type='RandomFlip', prob=0.5, direction='vertical'),
    dict(type='PackSegInputs'),
]
# What else the pictures hold is background to it
class_map = {'crack': 'crack', 'joint': None, 'spalling': None, 'rust stain': None}
train_dataloader = dict(dataset=dict(classes=classes, class_map=class_map, pipeline=train_pipeline))
val_dataloader = dict(dataset=dict(classes=classes, class_map=class_map))
test_dataloader = val_dataloader
optim_wrapper = dict(optimizer=dict(lr=2e-3))
# Shorter than the base's training
param_scheduler = [
    dict(type='LinearLR', start_factor=0.01, by_epoch=False, begin=0, end=20),
    dict(type='CosineAnnealingLR', by_epoch=True, T_max=1, convert_to_iter_based=True, begin=0, end=1),
]
train_cfg = dict(max_epochs=1)
# The learning rate ends at 0, so that the last weights need no average with earlier ones
custom_hooks = []
