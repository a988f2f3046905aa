"""`mask_rcnn_r50_gnws.py` is mmdet's own GN+WS model, so that its published checkpoints fit."""

from pathlib import Path

import mmdet
import pytest
import torch
from mmdet.registry import MODELS
from mmdet.testing import demo_mm_inputs
from mmdet.utils import register_all_modules
from mmengine.config import Config
from torch.utils._pytree import tree_leaves

import mmws  # noqa: F401

CONFIGS = Path(__file__).parents[2] / 'configs'
MMDET_CONFIGS = Path(mmdet.__file__).parent / '.mim' / 'configs'


def build(path: Path) -> torch.nn.Module:
    register_all_modules()
    torch.manual_seed(0)
    cfg = Config.fromfile(path).model
    # Few RoIs, for time.
    cfg.train_cfg.rpn_proposal.max_per_img = cfg.test_cfg.rpn.max_per_img = 50
    cfg.train_cfg.rcnn.sampler.num = 32
    return MODELS.build(cfg)


@pytest.fixture(scope='module')
def models():
    ours = build(CONFIGS / 'mask_rcnn_r50_gnws.py')
    theirs = build(MMDET_CONFIGS / 'gn+ws' / 'mask-rcnn_r50_fpn_gn-ws-all_2x_coco.py')
    return ours, theirs


def test_state_dict_is_that_of_mmdet(models):
    # Bug: a published checkpoint loads with missing keys and evaluates to noise.
    shapes = [{k: v.shape for k, v in model.state_dict().items()} for model in models]
    assert shapes[0] == shapes[1]


def test_every_normalized_convolution_is_weight_standardized(models):
    # Bug: one of backbone, neck, box head, mask head keeps plain convolutions.
    names = [
        {n for n, m in model.named_modules() if type(m).__name__ == 'ConvWS2d'} for model in models
    ]
    assert len(names[0]) == 53 + 8 + 4 + 4
    assert names[0] == names[1]
    own = {type(m).__module__ for m in models[0].modules() if type(m).__name__ == 'ConvWS2d'}
    assert {module.split('.')[0] for module in own} == {'mmws'}


def test_losses_gradients_and_outputs_equal_those_of_mmdet(models):
    ours, theirs = models
    theirs.load_state_dict(ours.state_dict())
    batch = demo_mm_inputs(1, [[3, 96, 128]], num_classes=80, with_mask=True)
    results = []
    for model in models:
        # In float64, or rounding alone picks other proposals.
        model.double()
        data = model.data_preprocessor(batch, training=True)
        data['inputs'] = data['inputs'].double()
        torch.manual_seed(1)  # RoIs are sampled
        loss, log = model.parse_losses(model.train()(**data, mode='loss'))
        model.zero_grad()
        loss.backward()
        with torch.no_grad():
            outputs = tree_leaves(model.eval()(**data, mode='tensor'))
        results.append((dict(log), model.backbone.layer2[0].conv1.weight.grad, outputs))
    assert len(results[0][2]) == 3  # of every RoI the classes, the boxes, the masks
    torch.testing.assert_close(*results)


@pytest.mark.parametrize(
    ('config', 'images'), [('mask_rcnn_r50_gnws.py', 2), ('mask_rcnn_r50_gnws_1img.py', 1)]
)
def test_learning_rate_follows_the_images_on_all_gpus(config, images):
    # Bug: 2 GPUs x 1 image train at the learning rate of 8 x 2 and diverge.
    cfg = Config.fromfile(CONFIGS / config)
    assert cfg.train_dataloader.batch_size == images
    assert cfg.auto_scale_lr == dict(enable=True, base_batch_size=16)
    assert cfg.optim_wrapper.optimizer.lr == 0.02
    assert cfg.train_cfg.max_epochs == 24
    assert cfg.param_scheduler[1].milestones == [16, 22]
