# The reference recipe for GPUs with less memory.
_base_ = './sam3_lora_crack.py'
model = dict(
    dtype='bfloat16',  # frozen weights in half the bytes; adapters, loss and rotary positions stay in fp32
    activation_checkpointing=True,  # activations are computed again in the backward pass instead of kept
    lora=dict(lora_dropout=0.0),  # a dropout mask and a copy of the input are kept for every adapter
)
optim_wrapper = dict(type='OptimWrapper')  # bf16 weights need no autocast, and no gradient scaler
