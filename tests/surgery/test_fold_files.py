"""`tools/fold.py`: what it writes is plain mmdet, computes the same, and replaces nothing."""

import json
import os
from pathlib import Path

import pytest
import torch
from mmdet.registry import MODELS
from mmengine.config import Config

from mmws.checkpoints import CheckpointMismatchError
from mmws.compat import read_checkpoint
from mmws.surgery.fold_files import fold_files
from tests.helpers.paths import NARROW_CONFIG, ROOT
from tests.helpers.processes import call_tool, run_code

pytestmark = [pytest.mark.e2e, pytest.mark.usefixtures('mmdet_registered')]

NARROW = f"""
_base_ = '{NARROW_CONFIG}'
model = dict(
    backbone=dict(init_cfg=dict(_delete_=True, type='Pretrained', checkpoint='absent.pth')),
    test_cfg=dict(rcnn=dict(score_thr=0.0, max_per_img=20)),
)
custom_hooks = [dict(type='mmws.WeightNormInitHook'), dict(type='NumClassCheckHook')]
load_from = 'somewhere.pth'
"""
# In one program without mmws: mmcv's ops of mmws, found by their file.
PREDICT = """
import json, sys, types
folder, config, checkpoint = sys.argv[1:]
for name in ('mmws', 'mmws.compat'):  # the ops that MMCV lacks, without what registers layers
    sys.modules[name] = types.ModuleType(name)
    sys.modules[name].__path__ = [f'{folder}/{name.replace(".", "/")}']
from mmws.compat.mmcv_ext import install_fallback_ops
install_fallback_ops()
import numpy as np
from mmdet.apis import inference_detector, init_detector
model = init_detector(config, checkpoint, device='cpu')
image = np.random.RandomState(0).randint(0, 255, (64, 64, 3), np.uint8)
found = inference_detector(model, image).pred_instances
loaded = [name for name in sys.modules if name.startswith('mmws.')]
assert all(name.startswith('mmws.compat') for name in loaded), loaded
print(json.dumps([found.bboxes.tolist(), found.masks.sum((1, 2)).tolist()]))
"""


def make(folder: Path, text: str) -> tuple[Path, Path]:
    """Write a config and a checkpoint of random weights, as a training leaves it."""
    config = folder / 'mine.py'
    config.write_text(text)
    torch.manual_seed(0)
    model = MODELS.build(Config.fromfile(config).model)
    checkpoint = folder / 'epoch_1.pth'
    torch.save(
        {
            'meta': {'epoch': 1, 'dataset_meta': {'classes': ('cat',)}, 'cfg': 'mmws.ConvWS'},
            'state_dict': model.state_dict(),
            'optimizer': {'state': {}},
        },
        checkpoint,
    )
    return config, checkpoint


@pytest.fixture
def files(tmp_path):
    return make(tmp_path, NARROW)


def test_config_and_checkpoint_name_nothing_of_mmws(files, tmp_path):
    # Bug: an import, a hook, a layer or the config in the meta still asks for mmws.
    before = [path.read_bytes() for path in files]
    written = fold_files(*files, tmp_path / 'out')
    assert written.difference <= 1e-6
    assert [path.read_bytes() for path in files] == before
    assert sorted(os.listdir(tmp_path / 'out')) == ['epoch_1_folded.pth', 'mine_folded.py']
    assert 'mmws' not in written.config.read_text()
    assert b'mmws' not in written.checkpoint.read_bytes()

    cfg = Config.fromfile(written.config)
    assert cfg.model.backbone.norm_cfg == dict(type='GN', num_groups=32, requires_grad=True)
    assert cfg.model.backbone.conv_cfg == dict(type='Conv2d')
    assert cfg.model.backbone.init_cfg is None
    assert cfg.load_from is None
    assert cfg.custom_hooks == [dict(type='NumClassCheckHook')]
    contents = read_checkpoint(written.checkpoint)
    assert contents.keys() == {'meta', 'state_dict'}
    assert contents['meta']['dataset_meta'] == {'classes': ('cat',)}

    with pytest.raises(FileExistsError, match=r'epoch_1_folded\.pth exists'):
        fold_files(*files, tmp_path / 'out')


def test_predictions_without_mmws_are_those_with_it(files, tmp_path):
    # Bug: the folded model is equal here, where mmws is at hand, and other where it is not.
    from mmdet.apis import inference_detector, init_detector

    written = fold_files(*files, tmp_path)
    arguments = (PREDICT, ROOT, written.config, written.checkpoint)
    output = run_code(*arguments, cwd=tmp_path, PYTHONPATH=None)
    (found,) = [line for line in output.splitlines() if line.startswith('[[')]
    boxes, areas = json.loads(found)

    import numpy as np

    model = init_detector(str(files[0]), str(files[1]), device='cpu')
    image = np.random.RandomState(0).randint(0, 255, (64, 64, 3), np.uint8)
    expected = inference_detector(model, image).pred_instances
    assert len(boxes) == 20
    torch.testing.assert_close(torch.tensor(boxes), expected.bboxes)
    assert areas == expected.masks.sum((1, 2)).tolist()


@pytest.mark.parametrize(
    'base', ['retinanet/retinanet_r18_fpn_1x_coco.py', 'yolox/yolox_s_8xb8-300e_coco.py']
)
def test_a_converted_model_gets_a_plain_config(tmp_path, base):
    # Bug: the config of the model before, with BN, is taken for that of the model with GN; norms
    # that the config leaves to a default (YOLOX) stay BN.
    text = f"""
_base_ = 'mmdet::{base}'
model = dict(type='mmws.Converted', model={{{{_base_.model}}}}, conv='WS', norm='GN')
"""
    files = make(tmp_path, text)
    written = fold_files(*files, tmp_path / 'out')
    assert written.difference <= 1e-6
    assert 'mmws' not in written.config.read_text()
    model = MODELS.build(Config.fromfile(written.config).model)
    assert not [m for m in model.modules() if isinstance(m, torch.nn.BatchNorm2d)]
    model.load_state_dict(read_checkpoint(written.checkpoint)['state_dict'])


def test_a_model_that_no_plain_config_describes_is_refused(tmp_path):
    # Bug: a config that gives another model is written, or a half of the files.
    text = NARROW + "model['backbone']['norm_cfg'] = dict(type='mmws.BCN', num_groups=8)\n"
    config, checkpoint = make(tmp_path, text)
    with pytest.raises(
        ValueError, match=r'no plain layer does the same as BCN .*`weights_only=True`'
    ):
        fold_files(config, checkpoint, tmp_path / 'out')
    assert not os.listdir(tmp_path / 'out')
    written = fold_files(config, checkpoint, tmp_path / 'out', weights_only=True)
    assert written.config is None
    assert os.listdir(tmp_path / 'out') == ['epoch_1_folded.pth']


def test_group_counts_that_one_norm_cfg_cannot_give_are_refused(tmp_path):
    # Bug: the plain GN takes 32 groups where mmws.GN took the largest count that fits.
    text = NARROW + "model['backbone']['base_channels'] = 24\n"
    text += "model['neck'] = dict(in_channels=[24, 48, 96, 192])\n"
    config, checkpoint = make(tmp_path, text)
    with pytest.raises(ValueError, match=r'ResNet has mmws\.GN of \[24, 32\] groups'):
        fold_files(config, checkpoint, tmp_path / 'out')


def test_a_checkpoint_of_another_model_is_refused(files, tmp_path):
    # Bug: what does not fit stays at its random start, and is folded all the same.
    torch.save({'state_dict': {'conv.weight': torch.zeros(1)}}, tmp_path / 'other.pth')
    with pytest.raises(ValueError, match=r'checkpoint .*other\.pth shares no weight'):
        fold_files(files[0], tmp_path / 'other.pth', tmp_path / 'out')
    # Bug: weights of another function have the same names, and are folded to other filters.
    weights = read_checkpoint(files[1])['state_dict']
    trained = dict(weights=[], unknown=[], norms=[], data_preprocessor=None)
    function = dict(function='Normalize', arguments={}, beside=['weight_g'], layers=[])
    function['layers'] = [key.rpartition('.')[0] for key in weights]
    meta = dict(mmws=dict(trained, weights=[function]))
    torch.save(dict(state_dict=dict(weights), meta=meta), tmp_path / 'wn.pth')
    with pytest.raises(ValueError, match=r'wn\.pth was trained with Weight Normalization'):
        fold_files(files[0], tmp_path / 'wn.pth', tmp_path / 'out')
    assert not (tmp_path / 'out').exists()


def test_tool(files, tmp_path, capsys):
    # Bug: the command line and the library go different ways.
    call_tool('fold.py', *files, '--out', tmp_path / 'out')
    assert 'mine_folded.py' in capsys.readouterr().out
    with pytest.raises(SystemExit, match=r'error: .*exists: remove it'):
        call_tool('fold.py', *files, '--out', tmp_path / 'out')


@pytest.mark.parametrize(
    ('classes', 'message'),
    [
        (['dog'], 'trained on other classes, cat'),
        (['cat'], None),
        (['cat', 'dog'], 'other classes'),
    ],
)
def test_the_classes_of_config_and_checkpoint_are_compared(tmp_path, classes, message):
    # Bug: the folded checkpoint calls a class by the name that another one has in the config.
    loader = f'dict(dataset=dict(metainfo=dict(classes={classes})))'
    files = make(tmp_path, f'{NARROW}test_dataloader = val_dataloader = {loader}\n')
    if message is None:
        assert fold_files(*files, tmp_path / 'out').config
        return
    with pytest.raises(CheckpointMismatchError, match=message):
        fold_files(*files, tmp_path / 'out')
    assert not (tmp_path / 'out').exists()


def test_a_folded_config_names_no_folder_of_the_training_machine(tmp_path):
    # Bug: the config works on one machine alone, and tells whose it was.
    paths = f"""
data_root = '{tmp_path}/somebody/birds/'
loader = dict(
    dataset=dict(data_root=data_root, ann_file='val.json', data_prefix=dict(img='images/'))
)
train_dataloader = val_dataloader = test_dataloader = loader
val_evaluator = dict(ann_file=data_root + 'val.json')
test_evaluator = dict(ann_file='{tmp_path}/elsewhere/test.json')
work_dir = '{tmp_path}/work'
"""
    written = fold_files(*make(tmp_path, NARROW + paths), tmp_path / 'out')
    assert str(tmp_path) not in written.config.read_text()
    cfg = Config.fromfile(written.config)
    assert cfg.data_root == cfg.val_dataloader.dataset.data_root == 'data/birds/'
    assert cfg.val_evaluator.ann_file == 'data/birds/val.json'
    assert cfg.test_evaluator.ann_file == 'data/birds/test.json'
    assert cfg.val_dataloader.dataset.ann_file == 'val.json'
