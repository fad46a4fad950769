# The reference recipe on a 4 GB GPU.
_base_ = './sam3_lora_crack.py'
model = dict(
    dtype='bfloat16',  # frozen weights in half the bytes; adapters, loss and rotary positions stay in fp32
    activation_checkpointing=True,  # activations are computed again in the backward pass instead of kept
    lora=dict(
        lora_dropout=0.0,  # a dropout mask and a copy of the input are kept for every adapter
        # Only what has a path to the output: the modules without one, and their adapters, need not be in memory
        target_modules=r'(?!detr_decoder|geometry_encoder).*\.(q_proj|k_proj|v_proj|o_proj)',
    ),
)
optim_wrapper = dict(type='OptimWrapper')  # bf16 weights need no autocast, and no gradient scaler
