"""BN with the gradients of 8 steps accumulated, which BN's statistics do not notice."""

_base_ = './digits_instances_pretrained_bn.py'

optim_wrapper = dict(accumulative_counts=8)
