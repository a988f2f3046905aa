"""Mask R-CNN R50-FPN with GN+WS in backbone, neck, box head and mask head; COCO 2x.

Two images per GPU. The learning rate scales by itself to (GPUs x images per GPU) / 16, so the same
file trains rightly on 8x2, 8x1, 2x1 or 1x1.
"""

_base_ = './mask_rcnn/mask_rcnn_r50_gnws.py'
