"""`faster_rcnn_r101_gnws_1x.py` at one image per GPU."""

_base_ = './faster_rcnn_r101_gnws_1x.py'

train_dataloader = dict(batch_size=1)
