"""The runner over the zoo: every config gets a line that tells what became of it, once."""

import json
import os
import signal
import time

import pytest
import torch
from mmdet.registry import MODELS
from torch import nn

import mmws
from tools.dev.zoo_check import check_zoo, write_report
from tools.dev.zoo_check.check import check_model
from tools.dev.zoo_check.report import report
from tools.dev.zoo_check.run import ZOO, read_results, read_zoo_config, zoo_configs

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(
        torch.cuda.is_available(), reason='forks a process that may have threads of CUDA by now'
    ),
]

NARROW = """
model = dict(
    type='RetinaNet',
    data_preprocessor=dict(type='DetDataPreprocessor', pad_size_divisor=32),
    backbone=dict(
        type='ResNet', depth=18, base_channels=8, out_indices=(2, 3),
        norm_cfg=dict(type='BN'), init_cfg=dict(type='Pretrained', checkpoint='{checkpoint}'),
    ),
    neck=dict(type='FPN', in_channels=[32, 64], out_channels=16, num_outs=2),
    bbox_head=dict(
        type='RetinaHead', num_classes=2, in_channels=16, feat_channels=16, stacked_convs=1,
        anchor_generator=dict(
            type='AnchorGenerator', scales=[4], ratios=[1.0], strides=[16, 32]
        ),
    ),
    train_cfg=dict(
        assigner=dict(
            type='MaxIoUAssigner', pos_iou_thr=0.5, neg_iou_thr=0.4, min_pos_iou=0,
            ignore_iof_thr=-1,
        ),
        sampler=dict(type='PseudoSampler'), allowed_border=-1, pos_weight=-1,
    ),
    test_cfg=dict(nms_pre={nms_pre}, score_thr=0.0, nms=dict(type='nms', iou_threshold=0.5)),
)
"""


@MODELS.register_module()
class Sleeper(nn.Module):
    def __init__(self):
        super().__init__()
        time.sleep(60)


@MODELS.register_module()
class Suicide(nn.Module):
    def __init__(self):
        super().__init__()
        os.kill(os.getpid(), signal.SIGKILL)


@MODELS.register_module()
class Glutton(nn.Module):
    def __init__(self):
        super().__init__()
        self.weight = torch.zeros(2**32)


@pytest.fixture
def root(tmp_path):
    root = tmp_path / '.mim' / 'configs'
    texts = {
        'family/first.py': NARROW.format(checkpoint='one.pth', nms_pre=1000),
        'family/second.py': NARROW.format(checkpoint='other.pth', nms_pre=2000),
        '_base_/model.py': 'model = dict()',
        'broken/unknown.py': "model = dict(type='NoSuchDetector')",
        'broken/part.py': 'tta_model = dict()',
        'broken/sleeper.py': "model = dict(type='Sleeper')",
        'broken/suicide.py': "model = dict(type='Suicide')",
        'broken/glutton.py': "model = dict(type='Glutton')",
    }
    for name, text in texts.items():
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_text(text)
    return root


def test_every_config_gets_one_line(root, tmp_path):
    # Bug: a config that hangs, dies or eats the memory takes the others with it, or its line.
    out = tmp_path / 'out'
    path = check_zoo(out, root=root, workers=2, seconds=10, gigabytes=6)
    results = {result['config']: result for result in read_results(path)}
    assert sorted(results) == sorted(zoo_configs(root))
    assert results['family/second.py'] == {
        'config': 'family/second.py',
        'same_as': 'family/first.py',
    }
    first = results['family/first.py']
    assert first['stage'] == 'done', first
    assert (first['convs'], first['norms'], first['fold_equal']) == (20, 20, True)
    assert first['holds'] is True
    assert first['remake_equal'] is True
    assert first['kept_remade'] < first['kept']
    errors = {name: result.get('error', '') for name, result in results.items()}
    assert 'NoSuchDetector' in errors['broken/unknown.py']
    assert 'has no model' in errors['broken/part.py']
    assert errors['broken/sleeper.py'] == 'over the time limit of 10 s'
    assert errors['broken/suicide.py'] == 'the process ended with exit code -9'
    assert 'memory' in errors['broken/glutton.py']
    assert 'Traceback' in (out / 'failures' / 'broken__unknown.py.txt').read_text()

    # Bug: called again, it repeats what is done, or chokes on a line that was cut off.
    before = path.read_text()
    path.write_text(before + '{"config": "family/fir')
    check_zoo(out, root=root)
    assert path.read_text().startswith(before)
    assert read_results(path) == list(results.values())

    # Bug: the table counts a config that never ran as a failure of mmws, or as a success.
    text = write_report(out, tmp_path / 'docs' / 'zoo.md', 'the command', root=root)
    assert text == (tmp_path / 'docs' / 'zoo.md').read_text()
    assert '**2 of the 2 configs whose model runs here unconverted (100.0%)' in ' '.join(
        text.split()
    )
    assert '| family | 2 | 1 | 2 | 2 | 2 | 2 | 2 | 2 | 2 |' in text
    assert '| broken | 5 | 5 | 0 | 0 | 0 | 0 | 0 | 0 | 0 |' in text


def test_unequal_outputs_are_found(root, monkeypatch):
    # Bug: the comparison compares nothing, or a model with itself.
    def wrong(model, inplace):
        for parameter in model.bbox_head.parameters():
            parameter.data.add_(1)
        return model

    monkeypatch.setattr(mmws, 'fold', wrong, raising=False)
    results = {}
    for result in check_model(read_zoo_config(root, 'family/first.py')):
        results.update(result)
    assert results['compared'] > 0
    assert not results['fold_equal']


def test_report_names_what_failed():
    # Bug: a failure is lost among the configs that are left out, or raises the share.
    passed = dict(built=True, ran=True, converted=True, ran_converted=True, fold_equal=True)
    passed |= dict(holds=True, date='2026-01-02')
    results = [
        {'config': 'a/good.py', **passed},
        {'config': 'a/same.py', 'same_as': 'a/good.py'},
        {'config': 'a/later.py', 'same_as': 'b/not_yet.py'},
        {'config': 'b/unequal.py', **passed, 'fold_equal': False, 'difference': 0.5},
        {'config': 'b/clash.py', **passed, 'holds': False, 'check_difference': 0.25},
        {'config': 'b/odd.py', **passed, 'remake_equal': False},
        {'config': 'b/crash.py', 'built': True, 'ran': True, 'stage': 'convert', 'error': 'E: x|y'},
        {'config': 'c/out.py', 'stage': 'build', 'error': 'ImportError: no package'},
        {'config': 'c/gone.py', 'stage': 'read', 'error': f'E: no file {ZOO}/c/base.py'},
    ]
    text = report(json.loads(json.dumps(results)), 'the command', ['a/good.py', 'd/never.py'])
    words = ' '.join(text.split())
    assert '**2 of the 6 configs whose model runs here unconverted (33.3%)' in words
    assert '2 more configs are not checked yet' in words
    failed, left = text.split('## Failed')[1].split('## Left out')
    assert 'outputs differ by 5.0e-01 | `b/unequal.py`' in failed
    assert 'the check fails by 2.5e-01 | `b/clash.py`' in failed
    assert 'training with remaking differs | `b/odd.py`' in failed
    assert 'Run 2026-01-02. torch' in words
    assert '| 1 | convert | E: x\\|y | `b/crash.py` |' in failed
    assert '| 1 | build | ImportError: no package | `c/out.py` |' in left
    assert '| 1 | read | E: no file c/base.py | `c/gone.py` |' in left
