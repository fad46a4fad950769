# SAM 3 as it comes, told only the prompt: test it without a checkpoint, `python tools/test.py <this file>`.
_base_ = './sam3_lora_crack.py'
model = dict(lora=None)
