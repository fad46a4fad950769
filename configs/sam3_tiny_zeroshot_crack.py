# The embedded tiny SAM 3 as it comes: test it without a checkpoint.
_base_ = './sam3_tiny_lora_crack.py'
model = dict(
    lora=None,
    # Untrained, it says too little, and magnified it sees more: both measured in sam3_tiny/README.md
    threshold=0.4,
    test_cfg=dict(scales=(1, 1.5, 2)),
)
