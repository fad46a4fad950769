# Of MMSegmentation's config for Cityscapes, the model alone
_base_ = 'mmseg::mask2former/mask2former_r50_8xb2-90k_cityscapes-512x1024.py'
for key in set(_base_) - {'model'}:
    del _base_[key]
del key
