# Of MMSegmentation's config for Cityscapes, the model alone
_base_ = 'mmseg::ddrnet/ddrnet_23-slim_in1k-pre_2xb6-120k_cityscapes-1024x1024.py'
for key in set(_base_) - {'model'}:
    del _base_[key]
del key
