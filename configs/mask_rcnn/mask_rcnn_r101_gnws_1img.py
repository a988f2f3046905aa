"""`mask_rcnn_r101_gnws.py` at one image per GPU."""

_base_ = './mask_rcnn_r101_gnws.py'

train_dataloader = dict(batch_size=1)
