# The fast recipe with adapters in every linear layer that has a path to the output, on a 12 GB GPU.
_base_ = './sam3_lora_crack_fast.py'
model = dict(
    lora=dict(
        target_modules='all-linear',
        exclude_modules=r'(detr_decoder|geometry_encoder|dot_product_scoring|mask_decoder\.mask_embedder'
        r'|text_encoder\.(text_)?projection)(\..*)?',
    ),
)
# On a 4 GB GPU: model.activation_checkpointing=True
