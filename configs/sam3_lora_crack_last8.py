# The fast recipe with adapters in the last 8 of the ViT's 32 blocks, the DETR encoder and the mask decoder. No gradient
# has to go through the other 24 blocks and the text encoder, whose output for a fixed prompt is computed once.
_base_ = './sam3_lora_crack_fast.py'
model = dict(
    lora=dict(
        target_modules=r'(vision_encoder\.backbone\.layers\.(2[4-9]|3[01])|detr_encoder|mask_decoder)\..*'
        r'\.(q_proj|k_proj|v_proj|o_proj)',
    ),
)
# The frozen blocks' output, 10.6 MB a picture at 1008 px, can be kept on disk, for later epochs to skip those blocks:
# custom_hooks = [dict(type='PrefixCacheHook', folder='work_dirs/prefix_cache')]
