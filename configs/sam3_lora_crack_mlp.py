# The fast recipe with adapters in the MLPs (fc1, fc2) instead of the attention, on a 12 GB GPU.
_base_ = './sam3_lora_crack_fast.py'
model = dict(lora=dict(target_modules=r'(?!detr_decoder|geometry_encoder).*\.(fc1|fc2)'))
# On a 4 GB GPU: model.activation_checkpointing=True
