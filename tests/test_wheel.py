"""The wheel, installed away from the checkout, has all that a training needs."""

import shutil
import zipfile

import pytest

from mmws.compat import read_checkpoint
from tests.helpers.digits_config import small_digits
from tests.helpers.paths import ROOT
from tests.helpers.processes import run_code, run_python

pytestmark = pytest.mark.e2e

SOURCES = (
    'LICENSE', 'MANIFEST.in', 'README.md', 'configs', 'mmws', 'model-index.yml', 'pyproject.toml',
    'setup.cfg', 'tests', 'tools',
)  # fmt: skip
# `mask_rcnn_r50_gnws.py` for ten classes, narrow, on small images.
CONFIG = """
_base_ = 'mmws::mask_rcnn/mask_rcnn_r50_gnws_1img.py'

width = 32
model = dict(
    backbone=dict(base_channels=width, init_cfg=None),
    neck=dict(in_channels=[128, 256, 512, 1024], out_channels=width),
    rpn_head=dict(in_channels=width, feat_channels=width),
    roi_head=dict(
        bbox_roi_extractor=dict(out_channels=width),
        bbox_head=dict(in_channels=width, conv_out_channels=width, num_classes=10),
        mask_roi_extractor=dict(out_channels=width),
        mask_head=dict(in_channels=width, conv_out_channels=width, num_classes=10),
    ),
    train_cfg=dict(rpn_proposal=dict(max_per_img=20), rcnn=dict(sampler=dict(num=16))),
)
data = dict(
    data_root='digits/',
    metainfo=dict(classes=tuple('0123456789')),
)
train_dataloader = dict(
    num_workers=0,
    persistent_workers=False,
    dataset=dict(
        ann_file='annotations/instances_train.json', data_prefix=dict(img='train/'), **data
    ),
)
val_dataloader = val_evaluator = val_cfg = None
test_dataloader = test_evaluator = test_cfg = None
train_cfg = dict(max_epochs=1)
"""


@pytest.fixture(scope='module')
def wheel(tmp_path_factory):
    """Built from what a clean clone has, so that nothing is left in the checkout."""
    folder = tmp_path_factory.mktemp('wheel')
    clone = folder / 'clone'
    for name in SOURCES:
        source, target = ROOT / name, clone / name
        clone.mkdir(exist_ok=True)
        if source.is_dir():
            ignored = shutil.ignore_patterns('__pycache__', '*.egg-info')
            shutil.copytree(source, target, symlinks=True, ignore=ignored)
        else:
            shutil.copy(source, target)
    run_python(
        '-m', 'pip', 'wheel', '--quiet', '--no-deps', '--no-build-isolation', '--wheel-dir', folder,
        clone, cwd=folder, PYTHONPATH=None,
    )  # fmt: skip
    (path,) = folder.glob('*.whl')
    return path


def test_the_wheel_has_the_configs_and_the_tools_and_nothing_of_developers(wheel):
    names = set(zipfile.ZipFile(wheel).namelist())
    inside = {name.removeprefix('mmws/.mim/') for name in names if name.startswith('mmws/.mim/')}
    expected = {'model-index.yml'}
    for folder, suffixes in (('configs', ('.py', '.yml')), ('tools', ('.py', '.sh'))):
        found = (path.relative_to(ROOT) for path in (ROOT / folder).rglob('*'))
        expected |= {
            str(path) for path in found if path.suffix in suffixes and 'dev' not in path.parts
        }
    assert inside == expected
    assert {name.split('/')[0] for name in names} == {
        'mmws',
        f'{wheel.stem.split("-py3")[0]}.dist-info',
    }


def test_the_wheel_trains_a_step_from_its_own_config(wheel, tmp_path):
    # Bug: `mmws::` works in a checkout alone.
    site = tmp_path / 'site'
    run_python(
        '-m', 'pip', 'install', '--quiet', '--no-deps', '--target', site, wheel, PYTHONPATH=None
    )
    small_digits(tmp_path / 'digits', num_train=1, num_val=1)
    (tmp_path / 'mine.py').write_text(CONFIG)
    env = {'PYTHONPATH': str(site), 'OMP_NUM_THREADS': '1'}
    where = run_code('import mmws; print(mmws.__file__)', cwd=tmp_path, **env)
    assert where.strip().startswith(str(site))
    small = 'train_dataloader.dataset.pipeline.2.scale=(128,128)'
    run_python(
        site / 'mmws/.mim/tools/train.py', 'mine.py', '--work-dir', 'work', '--cfg-options', small,
        cwd=tmp_path, **env,
    )  # fmt: skip
    assert read_checkpoint(tmp_path / 'work' / 'epoch_1.pth')['meta']['iter'] == 1
