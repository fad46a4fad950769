# Needs mmdet: pip install "mmdet>=3.3,<3.4". With mmcv-lite it runs on the CPU only: on a GPU, deformable attention is
# one of the operators that full mmcv compiles.
_base_ = ['../_base_/models/mask2former_r50.py', '../_base_/benchmark.py']
custom_imports = dict(imports=['crack_plugin', 'crack_plugin.comparison.mask2former'])
model = dict(
    data_preprocessor=dict(size=None, size_divisor=1, test_cfg=None),
    # Its own losses: each of its masks has a Dice loss already. The classes' weights are of two, and of 'no object'
    decode_head=dict(num_classes=2, loss_cls=dict(class_weight=[1.0, 1.0, 0.1])),
)
# Its transformer decoder wants smaller steps than a convolutional head
optim_wrapper = dict(optimizer=dict(lr=1e-4, weight_decay=0.05), clip_grad=dict(max_norm=0.01))
