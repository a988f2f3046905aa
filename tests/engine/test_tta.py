from pathlib import Path

import pytest
import torch
from mmengine.config import Config
from mmengine.registry import init_default_scope

from mmws.config import load_config
from mmws.engine import evaluate
from mmws.engine.cli import parse_test_args, prepare_test
from mmws.engine.tta import enable_tta
from tests.helpers.paths import DIGITS_CONFIG

pytestmark = pytest.mark.slow

pytest.importorskip('mmdet.models', exc_type=ImportError)


@pytest.fixture(scope='module')
def box_config(tmp_path_factory) -> Path:
    """Of an untrained detector of boxes, whose checkpoint lies beside it."""
    pytest.importorskip('sklearn')
    from mmdet.registry import MODELS

    from mmws.data.digits import generate_digits

    folder = tmp_path_factory.mktemp('tta')
    data = generate_digits(folder / 'digits', num_train=1, num_val=2)
    cfg = load_config(
        DIGITS_CONFIG,
        {
            'test_dataloader.dataset.data_root': str(data),
            'test_dataloader.num_workers': 0,
            'test_dataloader.persistent_workers': False,
            'test_evaluator.ann_file': str(data / 'annotations' / 'instances_val.json'),
            'test_evaluator.metric': 'bbox',
            'model.test_cfg.rcnn.score_thr': 0.0,
            'work_dir': str(folder / 'work'),
        },
    )
    cfg.model.roi_head.mask_head = None
    cfg.dump(folder / 'boxes.py')
    init_default_scope('mmdet')
    torch.manual_seed(0)
    torch.save(MODELS.build(cfg.model).state_dict(), folder / 'boxes.pth')
    return folder / 'boxes.py'


def test_every_image_is_seen_twice_and_the_boxes_are_merged(box_config, monkeypatch):
    # Bugs: the weights are those of the wrapper and load into nothing; a view is left out.
    from mmdet.models.test_time_augs import DetTTAModel

    seen = []
    merge = DetTTAModel.merge_preds

    def merge_and_note(self, views):
        merged = merge(self, views)
        seen.extend((views_of_one, one) for views_of_one, one in zip(views, merged))
        return merged

    monkeypatch.setattr(DetTTAModel, 'merge_preds', merge_and_note)
    reads = []
    load = torch.load
    monkeypatch.setattr(torch, 'load', lambda *args, **kw: reads.append(args) or load(*args, **kw))
    args = parse_test_args([str(box_config), str(box_config.with_suffix('.pth')), '--tta'])
    cfg, checkpoint = prepare_test(args)
    metrics = evaluate(cfg, checkpoint=checkpoint)
    assert len(reads) == 1
    assert 'coco/bbox_mAP' in metrics
    assert len(seen) == 2
    for views, merged in seen:
        assert sorted(view.flip for view in views) == [False, True]
        scores = torch.cat([view.pred_instances.scores for view in views])
        assert 0 < len(merged.pred_instances) <= 100
        # Each score is that of a box of one of the views.
        assert torch.isin(merged.pred_instances.scores, scores).all()


def test_pipelines_and_models_of_the_config_are_taken():
    own = [dict(type='LoadImageFromFile'), dict(type='TestTimeAug', transforms=[])]
    inner = dict(type='CocoDataset', pipeline=[dict(type='PackDetInputs')])
    cfg = Config(
        {
            'model': {'type': 'RetinaNet'},
            'tta_model': {'type': 'OtherTTA'},
            'tta_pipeline': own,
            'test_dataloader': {'dataset': {'type': 'RepeatDataset', 'dataset': inner}},
        }
    )
    enable_tta(cfg)
    assert cfg.test_dataloader.dataset.dataset.pipeline == own
    assert cfg.model == {'type': 'OtherTTA', 'module': {'type': 'RetinaNet'}}


def test_masks_are_refused_before_anything_is_built():
    # Bug: an assertion after the first batch.
    cfg = load_config(DIGITS_CONFIG)
    with pytest.raises(ValueError, match='`tta`: MMDetection merges boxes only'):
        enable_tta(cfg)
