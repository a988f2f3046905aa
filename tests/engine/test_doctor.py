from __future__ import annotations

import sys
from types import SimpleNamespace

import pytest
import torch
from mmengine.config import Config

from mmws.engine import doctor
from mmws.engine.doctor import diagnose
from tests.helpers.paths import R50_CONFIG
from tests.helpers.processes import call_tool


def about(subject: str, cfg=None) -> list[doctor.Finding]:
    return [finding for finding in diagnose(cfg) if finding.subject == subject]


@pytest.mark.slow
def test_a_sound_installation_has_no_problem():
    # These tests run in one; and each of the packages is of a distribution with a version.
    findings = diagnose()
    assert [str(finding) for finding in findings if not finding.ok] == []
    (mmdet,) = about('mmdet')
    assert mmdet.text.split()[0] in ('mmdet', 'onedl-mmdetection')


def test_both_distributions_of_a_package_are_told(monkeypatch):
    # Bug: the second `pip install` overwrites half of the first, and nothing says so.
    both = {'mmcv': ['onedl-mmcv', 'mmcv-lite', 'mmcv-lite']}
    monkeypatch.setattr(doctor, 'packages_distributions', lambda: both)
    monkeypatch.setattr(doctor, 'version', lambda name: '1.0')
    (mmcv,) = about('mmcv')
    assert not mmcv.ok
    assert 'mmcv-lite 1.0, onedl-mmcv 1.0 have overwritten each other' in mmcv.text


@pytest.mark.slow
def test_a_package_that_cannot_be_imported_is_told(monkeypatch):
    # Bug: "MMCV==2.2.0 is used but incompatible", an assertion in the middle of a traceback.
    def broken(name):
        if name in ('mmdet', 'torchvision.ops'):
            raise AssertionError('MMCV is used\nbut incompatible')
        return SimpleNamespace(__version__='1', __path__=['/x'], nms=lambda *args: None)

    monkeypatch.setattr(doctor, 'import_module', broken)
    for subject in ('mmdet', 'torchvision'):
        (finding,) = about(subject)
        assert not finding.ok
        assert 'AssertionError: MMCV is used but incompatible' in finding.text
        assert '\n' not in finding.text


@pytest.mark.parametrize('needed', [True, False])
def test_a_setuptools_without_pkg_resources_is_told_where_it_is_needed(monkeypatch, needed):
    def version(name):
        if not needed:
            raise doctor.PackageNotFoundError
        return '1.0'

    monkeypatch.delitem(sys.modules, 'pkg_resources', raising=False)
    monkeypatch.setattr(doctor, 'find_spec', lambda name: None)
    monkeypatch.setattr(doctor, 'version', version)
    findings = list(doctor._pkg_resources())
    assert [finding.ok for finding in findings] == [False] * needed
    assert all("pip install 'setuptools<82'" in finding.text for finding in findings)


@pytest.mark.slow
def test_gpus_are_listed_with_their_memory(monkeypatch):
    monkeypatch.setattr(torch.cuda, 'is_available', lambda: True)
    monkeypatch.setattr(torch.cuda, 'device_count', lambda: 2)
    monkeypatch.setattr(torch.cuda, 'get_device_name', lambda index: 'Some GPU')
    monkeypatch.setattr(torch.cuda, 'mem_get_info', lambda index: (2**30, 2**34))
    assert [f.text for f in about('GPU 1')] == ['Some GPU, 1.0 of 16.0 GiB free']


@pytest.mark.slow
def test_the_ops_say_where_they_come_from(monkeypatch):
    assert about('mmcv ops')[0].text in ('from torchvision', 'compiled')
    monkeypatch.setattr(doctor, 'ops_are_compiled', lambda: True)
    assert about('mmcv ops')[0].text == 'compiled'


@pytest.mark.slow
def test_the_data_of_a_config_are_examined_in_every_split(tmp_path, monkeypatch):
    # Bug: the test data are first looked for when the training is over.
    monkeypatch.chdir(tmp_path)
    dataset = {
        'type': 'CocoDataset',
        'data_root': 'data/coco/',
        'ann_file': 'annotations/instances_val2017.json',
        'metainfo': {'classes': ('cat',)},
    }
    cfg = Config({'test_dataloader': {'dataset': dataset}})
    (finding,) = about('data', cfg)
    assert not finding.ok
    assert finding.text.startswith(f'test: folder {tmp_path}/data/coco does not exist: run `python')
    assert [finding.ok for finding in about('data', Config({}))] == [True]
    assert about('data') == []


@pytest.mark.slow
def test_tool(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    call_tool('doctor.py')
    assert f'ok       torch: {torch.__version__}' in capsys.readouterr().out
    with pytest.raises(SystemExit, match=r'^error: \d problems? found$'):
        call_tool('doctor.py', R50_CONFIG)
    lines = [x for x in capsys.readouterr().out.splitlines() if x.startswith('PROBLEM  data: ')]
    assert all('tools/download_dataset.py coco2017 --root data' in line for line in lines)
    assert [line.split()[2] for line in lines][:2] == ['train:', 'val:']
    with pytest.raises(SystemExit, match=r'^error: config gone\.py does not exist$'):
        call_tool('doctor.py', 'gone.py')
