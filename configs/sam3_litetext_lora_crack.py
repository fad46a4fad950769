# The reference recipe on SAM3-LiteText: SAM 3 with a small text encoder, for users without access to its gated weights.
# docs/bases.md has its licence, and what could not be checked here.
_base_ = './sam3_lora_crack.py'
model = dict(
    base='yonigozlan/sam3-litetext-s0',
    # All attention projections: the output of its text encoder's attention has a name of its own
    lora=dict(target_modules=['q_proj', 'k_proj', 'v_proj', 'o_proj', 'out_proj']),
)
