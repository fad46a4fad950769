model = dict(
    type='SAM3TextLoRA',
    data_preprocessor=dict(
        type='SegDataPreProcessor',
        mean=[127.5] * 3,
        std=[127.5] * 3,
        bgr_to_rgb=True,
        size_divisor=1,
        pad_val=0,
        seg_pad_val=255,
    ),
    base='facebook/sam3',
    prompts=['crack'],
    lora=dict(r=8, lora_alpha=16, lora_dropout=0.1, target_modules=['q_proj', 'k_proj', 'v_proj', 'o_proj']),
    loss_decode=dict(type='ForegroundDiceLoss'),
    test_cfg=dict(mode='whole'),
)
tta_model = dict(type='SAM3TTAModel')
