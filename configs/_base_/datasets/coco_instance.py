_base_ = 'mmdet::_base_/datasets/coco_instance.py'

# The numbers of MMDetection's, sooner.
val_evaluator = dict(type='mmws.CocoMetric')
test_evaluator = val_evaluator
