# More of each thin crack than the reference recipe finds: measured part by part in docs/recipes.md.
_base_ = './sam3_lora_crack.py'
model = dict(
    # Corrects the logits at the photograph's own pixels: +0.04 IoU, together with the next
    detail_head=dict(channels=16, levels=4),
    # Cross-entropy beside Dice: +0.006 to +0.01 IoU of it
    loss_decode=[dict(type='ForegroundDiceLoss'), dict(type='CrossEntropyLoss', loss_weight=0.5)],
)
# The head starts from nothing: it needs 2e-3, whatever the adapters take
optim_wrapper = dict(paramwise_cfg=dict(custom_keys=dict(detail_head=dict(lr_mult=20))))
# The head works at each photograph's own size, and cuDNN would time its convolutions anew for every size
env_cfg = dict(cudnn_benchmark=False)
