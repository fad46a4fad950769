_base_ = ['mmseg::_base_/models/upernet_swin.py', '../_base_/benchmark.py']
checkpoint = 'https://download.openmmlab.com/mmsegmentation/v0.5/pretrain/swin/swin_tiny_patch4_window7_224_20220317-1cdeb081.pth'
model = dict(
    data_preprocessor=dict(size_divisor=1),
    backbone=dict(init_cfg=dict(type='Pretrained', checkpoint=checkpoint)),
    decode_head=dict(num_classes=2, loss_decode=_base_.losses),
    auxiliary_head=dict(num_classes=2),
)
