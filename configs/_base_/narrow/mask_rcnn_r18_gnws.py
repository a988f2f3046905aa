# MMEngine inherits from a package only by names with a folder.
_base_ = '../../mask_rcnn_r18_gnws_narrow.py'
