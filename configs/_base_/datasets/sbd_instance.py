"""Instance segmentation on SBD: 8,498 images to train on, 2,857 to evaluate.

The annotation files are written by

    python tools/dataset_converters/voc_instances.py data/sbd
"""

_base_ = './voc_instance.py'

data_root = 'data/sbd/'
train_dataloader = dict(dataset=dict(data_root=data_root, data_prefix=dict(img='img/')))
val_dataloader = dict(dataset=dict(data_root=data_root, data_prefix=dict(img='img/')))
test_dataloader = val_dataloader

val_evaluator = dict(ann_file=data_root + 'annotations/instances_val.json')
test_evaluator = val_evaluator
