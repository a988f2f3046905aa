_base_ = 'mmdet::_base_/schedules/schedule_2x.py'

# The learning rate is that of 16 images a step, and scales with their number.
auto_scale_lr = dict(enable=True)
