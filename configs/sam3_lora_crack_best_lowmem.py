# sam3_lora_crack_best.py on a 4 GB GPU.
_base_ = './sam3_lora_crack_lowmem.py'
model = dict(
    detail_head=dict(channels=16, levels=4),
    loss_decode=[dict(type='ForegroundDiceLoss'), dict(type='CrossEntropyLoss', loss_weight=0.5)],
)
optim_wrapper = dict(paramwise_cfg=dict(custom_keys=dict(detail_head=dict(lr_mult=20))))
# The head works at each photograph's own size, and cuDNN would time its convolutions anew for every size
env_cfg = dict(cudnn_benchmark=False)
