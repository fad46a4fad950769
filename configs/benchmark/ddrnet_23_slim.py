# DDRNet keeps its own losses, one for each branch: hard pixels weigh most in them already.
_base_ = ['../_base_/models/ddrnet_23_slim.py', '../_base_/benchmark.py']
model = dict(
    data_preprocessor=dict(size=None, size_divisor=1),
    decode_head=dict(
        num_classes=2,
        loss_decode=[
            dict(type='OhemCrossEntropy', thres=0.9, min_kept=131072),
            dict(type='OhemCrossEntropy', thres=0.9, min_kept=131072, loss_weight=0.4),
        ],
    ),
)
