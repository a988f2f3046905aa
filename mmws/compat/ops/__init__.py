"""MMCV's compiled ops, written with PyTorch and torchvision, one subject a module.

``mmws/compat/mmcv_ops.py`` offers them to MMCV as ``mmcv._ext``. Names, argument names and argument
order are those of MMCV's Python bindings. As there, the caller allocates the results: an op fills
the tensors that its documentation calls *filled*, in place. Every op runs on any device and on
float16, bfloat16, float32 and float64; half precision is computed in float32 and rounded once at
the end. Suppression runs on the CPU: boxes on a GPU are copied once for each call, and no op
synchronizes with a GPU for each box.

Shapes: B images, C channels, H × W pixels, R regions of interest (rois), N boxes, K classes,
O output channels, G groups, kh × kw kernel taps, ph × pw pooled bins. Boxes are (x1, y1, x2, y2)
and rois (image index, x1, y1, x2, y2), in pixels of the input image; ``spatial_scale`` is the size
of the feature map over that of the input image.
"""
