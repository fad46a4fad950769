# PIDNet keeps its own losses: hard pixels weigh most in them already, and the boundary one needs edges of the labels.
_base_ = ['../_base_/models/pidnet_s.py', '../_base_/benchmark.py']
model = dict(
    data_preprocessor=dict(size=None, size_divisor=1),
    decode_head=dict(
        num_classes=2,
        loss_decode=[
            dict(type='CrossEntropyLoss', loss_weight=0.4),
            dict(type='OhemCrossEntropy', thres=0.9, min_kept=131072),
            dict(type='BoundaryLoss', loss_weight=20.0),
            dict(type='OhemCrossEntropy', thres=0.9, min_kept=131072),
        ],
    ),
)
*load_and_augment, pack = _base_.train_pipeline
train_pipeline = [*load_and_augment, dict(type='GenerateEdge', edge_width=4), pack]
del load_and_augment, pack
train_dataloader = dict(dataset=dict(pipeline=train_pipeline))
