"""One model each of 25 families of MMDetection: converted, trained for a step, folded."""

import pytest

from tools.dev.zoo_check.check import check_model
from tools.dev.zoo_check.run import ZOO, read_zoo_config

pytestmark = [pytest.mark.slow, pytest.mark.usefixtures('mmdet_registered')]

SAMPLE = {  # config -> convolutions and norms that are converted
    'atss/atss_r18_fpn_8xb8-amp-lsj-200e_coco.py': (28, 20),
    'autoassign/autoassign_r50-caffe_fpn_1x_coco.py': (61, 53),
    'cascade_rcnn/cascade-rcnn_r18_fpn_8xb8-amp-lsj-200e_coco.py': (20, 20),
    'centernet/centernet_r18-dcnv2_8xb16-crop512-140e_coco.py': (26, 26),
    'ddod/ddod_r50_fpn_1x_coco.py': (61, 53),
    'detr/detr_r18_8xb2-500e_coco.py': (20, 20),
    'faster_rcnn/faster-rcnn_r18_fpn_8xb8-amp-lsj-200e_coco.py': (20, 20),
    'fcos/fcos_r18_fpn_gn-head-center-normbbox-centeronreg-giou_8xb8-amp-lsj-200e_coco.py': (
        28,
        20,
    ),
    'foveabox/fovea_r50_fpn_4xb4-1x_coco.py': (53, 53),
    'gfl/gfl_r50_fpn_1x_coco.py': (61, 53),
    'ld/ld_r18-gflv1-r101_fpn_1x_coco.py': (28, 20),
    'libra_rcnn/libra-retinanet_r50_fpn_1x_coco.py': (53, 53),
    'mask_rcnn/mask-rcnn_r18_fpn_8xb8-amp-lsj-200e_coco.py': (20, 20),
    'paa/paa_r50_fpn_1x_coco.py': (61, 53),
    'regnet/retinanet_regnetx-800MF_fpn_1x_coco.py': (53, 53),
    'reppoints/reppoints-moment_r50_fpn-gn_head-gn_1x_coco.py': (67, 53),
    'retinanet/retinanet_r18_fpn_1x_coco.py': (20, 20),
    'rpn/rpn_r50_fpn_1x_coco.py': (53, 53),
    'rtmdet/rtmdet_tiny_8xb32-300e_coco.py': (68, 76),
    'ssd/ssdlite_mobilenetv2-scratch_8xb24-600e_coco.py': (76, 76),
    'tood/tood_r50_fpn_1x_coco.py': (59, 53),
    'vfnet/vfnet_r50_fpn_1x_coco.py': (60, 53),
    'yolo/yolov3_mobilenetv2_8xb24-320-300e_coco.py': (72, 72),
    'yolof/yolof_r50-c5_8xb8-1x_coco.py': (73, 73),
    'yolox/yolox_tiny_8xb8-300e_coco.py': (74, 74),
}


@pytest.mark.parametrize('config', SAMPLE)
def test_converts_trains_and_folds(config):
    # Bug: a change of convert or fold breaks a family of models that no other test builds.
    results = {}
    for result in check_model(read_zoo_config(ZOO, config)):
        results.update(result)
    assert (results['convs'], results['norms']) == SAMPLE[config]
    assert results['compared'] > 0 or results['mode'] == 'predict'
    assert results['difference'] < 1e-4
