# The embedded tiny SAM 3 as it comes: test it without a checkpoint.
_base_ = './sam3_tiny_lora_crack.py'
model = dict(
    lora=None,
    # What is thin is seen magnified as well, in five forwards for one: measured in sam3_tiny/README.md
    test_cfg=dict(scales=(1, 1.5)),
)
