# The recipe of sam3_lora_crack_best.py on the embedded tiny SAM 3.
_base_ = './sam3_tiny_lora_crack.py'
model = dict(
    detail_head=dict(channels=24),
    loss_decode=[dict(type='ForegroundDiceLoss'), dict(type='CrossEntropyLoss', loss_weight=0.5)],
)
