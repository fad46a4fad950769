_base_ = ['mmseg::_base_/models/segformer_mit-b0.py', '../_base_/benchmark.py']
checkpoint = 'https://download.openmmlab.com/mmsegmentation/v0.5/pretrain/segformer/mit_b0_20220624-7e0fe6dd.pth'
model = dict(
    data_preprocessor=dict(size_divisor=1),
    backbone=dict(init_cfg=dict(type='Pretrained', checkpoint=checkpoint)),
    decode_head=dict(num_classes=2, loss_decode=_base_.losses),
)
