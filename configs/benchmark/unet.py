# UNet has no pretrained backbone: everything learns at the rate of the heads.
_base_ = ['mmseg::_base_/models/fcn_unet_s5-d16.py', '../_base_/benchmark.py']
model = dict(
    data_preprocessor=dict(size_divisor=1),
    backbone=dict(init_cfg=None),
    decode_head=dict(num_classes=2, loss_decode=_base_.losses),
    auxiliary_head=dict(num_classes=2),
    test_cfg=dict(_delete_=True, mode='whole'),
)
optim_wrapper = dict(paramwise_cfg=None)
