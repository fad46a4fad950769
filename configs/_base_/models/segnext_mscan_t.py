# Of MMSegmentation's config for ADE20K, the model alone
_base_ = 'mmseg::segnext/segnext_mscan-t_1xb16-adamw-160k_ade20k-512x512.py'
for key in set(_base_) - {'model'}:
    del _base_[key]
del key
