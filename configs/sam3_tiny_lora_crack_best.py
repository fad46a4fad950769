# The recipe of sam3_lora_crack_best.py on the embedded tiny SAM 3.
_base_ = './sam3_tiny_lora_crack.py'
model = dict(
    # Trained on drawn cracks, as the tiny SAM 3 itself was: +0.005 IoU, +0.016 clIoU
    detail_head=dict(channels=24, weights='{{ fileDirname }}/sam3_tiny/detail_head.safetensors'),
    loss_decode=[dict(type='ForegroundDiceLoss'), dict(type='CrossEntropyLoss', loss_weight=0.5)],
)
# The head works at each photograph's own size, and cuDNN would time its convolutions anew for every size
env_cfg = dict(cudnn_benchmark=False)
