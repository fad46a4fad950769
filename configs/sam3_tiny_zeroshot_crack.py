# The embedded tiny SAM 3 as it comes: test it without a checkpoint.
_base_ = './sam3_tiny_lora_crack.py'
model = dict(lora=None)
