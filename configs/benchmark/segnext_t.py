_base_ = ['../_base_/models/segnext_mscan_t.py', '../_base_/benchmark.py']
model = dict(
    data_preprocessor=dict(size=None, size_divisor=1, test_cfg=None),
    decode_head=dict(num_classes=2, loss_decode=_base_.losses),
)
