_base_ = ['mmseg::_base_/models/pspnet_r50-d8.py', '../_base_/benchmark.py']
model = dict(
    data_preprocessor=dict(size_divisor=1),
    pretrained=None,
    backbone=dict(init_cfg=dict(type='Pretrained', checkpoint='open-mmlab://resnet50_v1c')),
    decode_head=dict(num_classes=2, loss_decode=_base_.losses),
    auxiliary_head=dict(num_classes=2),
)
