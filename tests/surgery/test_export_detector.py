"""A whole folded detector in one file gives the detections of MMDetection's own code."""

import onnxruntime
import pytest
import torch
from mmdet.registry import MODELS
from mmengine.config import Config
from torch import nn

import mmws
from mmws.config import read_config
from mmws.surgery.export import export_detector, export_files
from tests.helpers.paths import CONFIGS, NARROW_CONFIG
from tests.helpers.processes import run_tool

pytestmark = pytest.mark.slow

SIZE = (90, 128)  # the height is no multiple of 32, so that the image is padded
_PREDICTING = ('fc_cls.weight', 'fc_reg.weight', 'retina_cls.weight', 'rpn_cls.weight',
               'conv_logits.weight')  # fmt: skip


def detector(name, threshold=0.02, **test_cfg):
    """A detector with random weights that finds some objects in noise."""
    torch.manual_seed(0)
    cfg = Config.fromfile(CONFIGS / f'{name}_r18_gnws_narrow.py').model
    settings = cfg.test_cfg.get('rcnn', cfg.test_cfg)
    settings.update(score_thr=threshold, max_per_img=20, **test_cfg)
    model = MODELS.build(cfg).eval()
    with torch.no_grad():
        for key, parameter in model.named_parameters():
            if key.endswith(_PREDICTING):
                parameter.normal_(std=0.05)
    return model


def an_image():
    return torch.rand(1, 3, *SIZE, generator=torch.Generator().manual_seed(5)) * 255


def expected(model, image):
    """Detections by the way that images take in MMDetection."""
    from mmdet.structures import DetDataSample

    meta = dict(img_id=0, img_path='', ori_shape=SIZE, img_shape=SIZE, scale_factor=(1.0, 1.0))
    sample = DetDataSample(metainfo=meta)
    found = model.test_step(dict(inputs=[image[0]], data_samples=[sample]))[0].pred_instances
    return [found[key] for key in ('bboxes', 'scores', 'labels', 'masks') if key in found]


def run_onnx(path, image):
    session = onnxruntime.InferenceSession(path)
    names = [output.name for output in session.get_outputs()]
    assert names == ['boxes', 'scores', 'labels', 'masks'][: len(names)]
    return [torch.as_tensor(output) for output in session.run(None, {'images': image.numpy()})]


def run_program(path, image):
    return torch.export.load(path).module()(image)


@pytest.mark.parametrize('name', ['mask_rcnn', 'faster_rcnn', 'retinanet'])
@pytest.mark.parametrize(('suffix', 'run'), [('onnx', run_onnx), ('pt2', run_program)])
def test_detections_are_those_of_the_detector(mmdet_registered, name, suffix, run, tmp_path):
    # Bug: the number of boxes of the recorded image is a constant of the file.
    model, path = detector(name), tmp_path / f'model.{suffix}'
    assert export_detector(model, path, SIZE) < 1e-3
    wanted = expected(model, an_image())
    assert len(wanted[0]) > 0
    found = run(path, an_image())
    assert len(found) == len(wanted) == (4 if name == 'mask_rcnn' else 3)
    torch.testing.assert_close(found[0], wanted[0], rtol=1e-4, atol=1e-3)
    torch.testing.assert_close(found[1], wanted[1], rtol=1e-4, atol=1e-5)
    assert torch.equal(found[2], wanted[2])
    if name == 'mask_rcnn':
        assert wanted[3].any()
        assert (found[3] != wanted[3]).float().mean() < 1e-4
    assert isinstance(model.backbone.conv1, mmws.ConvWS2d)  # the detector itself is not folded


@pytest.mark.parametrize(
    'name',
    [
        'atss/atss_r50_fpn_1x_coco',
        'cascade_rcnn/cascade-mask-rcnn_r50_fpn_1x_coco',
        'fcos/fcos_r50-caffe_fpn_gn-head_1x_coco',
    ],
)
def test_other_detectors_of_mmdetection(mmdet_registered, name, tmp_path):
    # Bug: a cascade gives probabilities of masks, of which the sigmoid is taken once more.
    cfg = read_config(f'mmdet::{name}.py').model
    cfg.backbone.update(depth=18, base_channels=16, init_cfg=None)
    cfg.neck.in_channels = [16, 32, 64, 128]
    settings = cfg.test_cfg.get('rcnn', cfg.test_cfg)
    settings.update(score_thr=0.0, max_per_img=5)
    torch.manual_seed(0)
    model = mmws.convert(MODELS.build(cfg))
    # The file is written only if its detections are those of the detector.
    assert export_detector(model, tmp_path / 'model.onnx', (96, 128)) < 1e-3


@pytest.mark.parametrize('name', ['mask_rcnn', 'retinanet'])
def test_an_image_without_objects(mmdet_registered, name, tmp_path):
    # Bug: operators that need a box fail, or what fills up is taken for detections.
    path = tmp_path / 'model.onnx'
    export_detector(detector(name, threshold=0.9999), path, SIZE)
    boxes, scores, labels, *masks = run_onnx(path, an_image())
    assert (boxes.shape, scores.shape, labels.shape) == ((0, 4), (0,), (0,))
    assert [mask.shape for mask in masks] == [(0, *SIZE)] * len(masks)


def test_regions_without_area_are_no_proposals(mmdet_registered, tmp_path):
    # Bug: boxes that end outside of the image count as proposals, of which there are few.
    model = detector('faster_rcnn')
    with torch.no_grad():
        model.rpn_head.rpn_reg.bias.copy_(torch.tensor([6.0, 0, 0, 0]).repeat(3))
    wanted = expected(model, an_image())
    assert export_detector(model, tmp_path / 'model.onnx', SIZE, [an_image()]) < 1e-3
    assert len(run_onnx(tmp_path / 'model.onnx', an_image())[0]) == len(wanted[0])


@pytest.mark.parametrize(
    ('change', 'out', 'message'),
    [
        (lambda m: None, 'model.tflite', r'model\.tflite has no known format'),
        (
            lambda m: m.roi_head.test_cfg.nms.update(type='soft_nms'),
            'model.onnx',
            "suppression 'soft_nms' has no form in ONNX",
        ),
        (
            lambda m: setattr(m.backbone, 'gn1', mmws.BCN(32)),
            'model.onnx',
            r'BCN \(backbone\.gn1\) has no plain form',
        ),
    ],
)
def test_what_cannot_be_exported_is_said_in_one_line(
    mmdet_registered, change, out, message, tmp_path
):
    model = detector('faster_rcnn')
    change(model)
    with pytest.raises(ValueError, match=message) as caught:
        export_detector(model, tmp_path / out, SIZE)
    assert '\n' not in str(caught.value)
    assert not list(tmp_path.iterdir())


class Branching(nn.Module):
    """A backbone that does another thing with dark images."""

    def __init__(self, backbone):
        super().__init__()
        self.backbone = backbone

    def forward(self, x):
        features = self.backbone(x)
        return features if x.flatten()[0] > 0 else [-f for f in features]


def test_a_file_with_other_detections_is_not_written(mmdet_registered, tmp_path):
    # Bug: a branch of the model that depends on the image is recorded for one image alone.
    model = detector('retinanet')
    model.backbone = Branching(model.backbone)
    signs = [torch.full((1, 3, *SIZE), value) for value in (0.0, 255.0)]
    with pytest.raises(ValueError, match='RetinaNet cannot be exported: the file gives other'):
        export_detector(model, tmp_path / 'model.onnx', SIZE, signs)
    assert not list(tmp_path.iterdir())


@pytest.mark.e2e
def test_command_line(mmdet_registered, tmp_path):
    model = MODELS.build(Config.fromfile(NARROW_CONFIG).model)
    torch.save({'state_dict': model.state_dict()}, tmp_path / 'weights.pth')
    out = tmp_path / 'model.onnx'
    arguments = [NARROW_CONFIG, tmp_path / 'weights.pth', '--size', 64, 96, '--out', out]
    assert f'wrote {out}' in run_tool('export.py', *arguments)
    assert len(run_onnx(out, torch.zeros(1, 3, 64, 96))) == 4
    with pytest.raises(FileNotFoundError):
        export_files(NARROW_CONFIG, tmp_path / 'none.pth', tmp_path / 'x.onnx', (64, 96))
