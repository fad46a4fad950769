_base_ = '../../../configs/sam3_tiny_lora_crack.py'
dataset = dict(data_root='data', class_map={'crack': 'crack'}, boxes='drop', missing_label='background')
model = dict(
    base='base',
    prompts=['crack'],
    lora=dict(r=2, lora_alpha=4, lora_dropout=0.1, target_modules=['q_proj', 'v_proj']),
    loss_decode=dict(type='ForegroundDiceLoss'),
    threshold=0.49,
    test_cfg=dict(mode='whole'),
)
train_dataloader = dict(batch_size=2, num_workers=0, persistent_workers=False, dataset=dataset)
val_dataloader = dict(num_workers=0, persistent_workers=False, dataset=dataset)
test_dataloader = val_dataloader
optim_wrapper = dict(type='OptimWrapper', optimizer=dict(lr=1e-2), clip_grad=dict(max_norm=1.0))
param_scheduler = [dict(type='CosineAnnealingLR', by_epoch=True, T_max=2)]
train_cfg = dict(max_epochs=2)
default_hooks = dict(
    logger=dict(interval=1),
    checkpoint=dict(interval=1, max_keep_ckpts=2, save_best='crack/IoU', rule='greater'),
    non_finite_loss=dict(on_nan='skip'),
    prediction=dict(max_keep_epochs=2),
)
