# Of MMSegmentation's config for Cityscapes, the model alone
_base_ = 'mmseg::pidnet/pidnet-s_2xb6-120k_1024x1024-cityscapes.py'
for key in set(_base_) - {'model'}:
    del _base_[key]
del key
