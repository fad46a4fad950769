# The reference recipe to the letter: 6 epochs, batch 1, fp16, AdamW 1e-4, seed 42.
_base_ = [
    './_base_/models/sam3_text_lora.py',
    './_base_/datasets/yolo_crack.py',
    './_base_/schedules/reference_6e.py',
    './_base_/default_runtime.py',
]
# Beside each epoch's checkpoint and the best: the adapters as a PEFT folder
default_hooks = dict(adapter_checkpoint=dict(type='AdapterCheckpointHook'))
