import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from mmengine.config import Config
from PIL import Image

from mmws.data.digits import CLASSES as CLASSES_OF_DIGITS
from mmws.data.digits import generate_digits
from mmws.data.errors import DataError
from mmws.data.new_config import BOX_BASE, epochs_for, new_config
from mmws.data.palette import make_palette
from tests.helpers.paths import ROOT
from tests.helpers.processes import call_tool

pytestmark = pytest.mark.slow

MASK_RCNN = 'mmdet::mask_rcnn/mask-rcnn_r50_fpn_2x_coco.py'
CASCADE = 'mmdet::cascade_rcnn/cascade-mask-rcnn_r50_fpn_1x_coco.py'
RETINANET = 'mmdet::retinanet/retinanet_r50_fpn_1x_coco.py'
VOC = 'mmdet::pascal_voc/faster-rcnn_r50_fpn_1x_voc0712.py'
CLASSES = ("cat's", 'dog', '鳥')


def write_coco(root, split, count, edit=None, side=64):
    """Write images and annotations of ``count`` images, one object in each."""
    (root / split).mkdir(parents=True, exist_ok=True)
    (root / 'annotations').mkdir(exist_ok=True)
    names = [f'{split}{i}.jpg' for i in range(count)]
    for name in names:
        Image.new('RGB', (64, side)).save(root / split / name)
    data = {
        'images': [
            {'id': i, 'file_name': n, 'height': side, 'width': 64} for i, n in enumerate(names)
        ],
        'categories': [{'id': 9 - i, 'name': name} for i, name in enumerate(CLASSES)],
        'annotations': [
            {
                'id': i,
                'image_id': i,
                'category_id': 9 - i % len(CLASSES),
                'bbox': [4, 4, 8, 8],
                'area': 64,
                'iscrowd': 0,
                'segmentation': [[4, 4, 12, 4, 12, 12, 4, 12]],
            }
            for i in range(count)
        ],
    }
    if edit:
        edit(data)
    path = root / 'annotations' / f'instances_{split}.json'
    path.write_text(json.dumps(data), encoding='utf-8')
    return path


@pytest.fixture(scope='session')
def mask_rcnn(tmp_path_factory):
    """Return MASK_RCNN as one file: reading it takes a tenth of the time."""
    path = tmp_path_factory.mktemp('base') / 'mask_rcnn.py'
    Config.fromstring(f'_base_ = {MASK_RCNN!r}', '.py').dump(path)
    return path


@pytest.fixture
def make(tmp_path, monkeypatch, mask_rcnn):
    """Return a function that makes data in the working directory and a config for them."""
    monkeypatch.chdir(tmp_path)

    def run(base=mask_rcnn, train=6, edit_train=None, edit_val=None, side=64, **kwargs):
        root = Path('data')
        files = (
            write_coco(root, 'train', train, edit_train, side),
            write_coco(root, 'val', 3, edit_val),
        )
        kwargs.setdefault('out', 'configs/mine.py')
        return new_config(*files, base=base, **kwargs)

    return run


def load(written):
    return Config.fromfile(written.path)


def num_classes_in(node):
    if isinstance(node, dict):
        own = [node['num_classes']] if 'num_classes' in node else []
        return own + [n for value in node.values() for n in num_classes_in(value)]
    if isinstance(node, list):
        return [n for value in node for n in num_classes_in(value)]
    return []


# A head left at 80 classes trains without a word and predicts classes that do not exist.
@pytest.mark.parametrize(
    ('base', 'heads'), [(MASK_RCNN, 2), (CASCADE, 4), (RETINANET, 1), (VOC, 1)]
)
def test_every_head_has_the_number_of_classes(make, base, heads):
    assert num_classes_in(load(make(base)).model.to_dict()) == [3] * heads


def test_heads_of_a_cascade_keep_the_rest(make):
    heads = load(make(CASCADE)).model.roi_head.bbox_head
    base = Config.fromstring(f'_base_ = {CASCADE!r}', '.py').model.roi_head.bbox_head
    for head, original in zip(heads, base):
        assert head.to_dict() == {**original.to_dict(), 'num_classes': 3}


def test_only_the_data_sets_classes_are_replaced(make, tmp_path, mask_rcnn):
    base = tmp_path / 'base.py'
    base.write_text(
        f'_base_ = {str(mask_rcnn)!r}\n'
        'model = dict(backbone=dict(num_classes=80), rpn_head=dict(num_classes=80),\n'
        '    roi_head=dict(semantic_head=dict(num_classes=183),\n'
        "        bbox_head=dict(loss_cls=dict(type='SeesawLoss', num_classes=80))))\n"
    )
    model = load(make(base)).model
    assert model.backbone.num_classes == 80
    assert model.rpn_head.num_classes == 80
    assert model.roi_head.semantic_head.num_classes == 183
    assert model.roi_head.bbox_head.loss_cls.num_classes == 3


@pytest.mark.parametrize('base', [MASK_RCNN, VOC])
def test_data(make, base):
    cfg = load(make(base))
    for split in ('train', 'val', 'test'):
        _check_split(cfg, split, ['bbox', 'segm'] if base == MASK_RCNN else ['bbox'])


def _check_split(cfg, split, metric):
    dataset = cfg[f'{split}_dataloader'].dataset
    dataset = dataset.get('dataset', dataset)
    of = 'train' if split == 'train' else 'val'
    assert dataset.type == 'CocoDataset'
    assert dataset.metainfo.classes == CLASSES
    assert len(dataset.metainfo.palette) == 3
    assert os.path.isfile(os.path.join(dataset.data_root, dataset.ann_file))
    assert os.path.isfile(os.path.join(dataset.data_root, dataset.data_prefix.img, f'{of}0.jpg'))
    # The base's augmentation, and no VOC settings that CocoDataset would take amiss.
    assert dataset.pipeline[0].type == 'LoadImageFromFile'
    assert 'sub_data_root' not in dataset.data_prefix
    assert dataset.get('test_mode', False) == (split != 'train')
    if split != 'train':
        evaluator = cfg[f'{split}_evaluator']
        assert evaluator.type == 'mmws.CocoMetric'
        assert evaluator.ann_file == os.path.join(dataset.data_root, dataset.ann_file)
        assert list(evaluator.metric) == metric


def test_data_under_the_working_directory_stay_relative(make, tmp_path):
    # The config can be committed and used on another machine.
    written = make(RETINANET)
    assert load(written).data_root == 'data/'
    assert str(tmp_path) not in Path(written.path).read_text(encoding='utf-8')


def test_data_elsewhere_are_absolute(tmp_path, tmp_path_factory, mask_rcnn):
    root = tmp_path_factory.mktemp('elsewhere')
    files = write_coco(root, 'train', 3), write_coco(root, 'val', 3)
    written = new_config(*files, base=mask_rcnn, out=tmp_path / 'b.py')
    assert load(written).data_root == f'{root}/'


def test_base_file_is_found_from_any_folder(
    make, tmp_path, tmp_path_factory, monkeypatch, mask_rcnn
):
    (tmp_path / 'bases').mkdir()
    shutil.copy(mask_rcnn, tmp_path / 'bases' / 'base.py')
    inside = make('bases/base.py', out='configs/deep/a.py')
    outside = make('bases/base.py', out=tmp_path_factory.mktemp('out') / 'b.py')
    assert "_base_ = '../../bases/base.py'" in Path(inside.path).read_text()
    path = os.path.abspath(inside.path)
    monkeypatch.chdir('/')
    assert Config.fromfile(path).model.type == 'MaskRCNN'
    assert Config.fromfile(outside.path).model.type == 'MaskRCNN'


def test_wrappers_are_kept(make, tmp_path, mask_rcnn):
    base = tmp_path / 'base.py'
    base.write_text(
        f'_base_ = {str(mask_rcnn)!r}\n'
        "train_dataloader = dict(dataset=dict(_delete_=True, type='RepeatDataset', times=5,\n"
        '    dataset=_base_.train_dataloader.dataset))\n'
    )
    written = make(base, train=1000)
    dataset = load(written).train_dataloader.dataset
    assert (dataset.type, dataset.times) == ('RepeatDataset', 5)
    assert dataset.dataset.ann_file == 'annotations/instances_train.json'
    # An epoch is 5,000 images.
    assert written.length == '24 epochs'


def test_small_images_are_not_filtered_out(make):
    # CocoDataset drops images with a side below min_size=32: all of these, without a word.
    filter_cfg = load(make(side=20)).train_dataloader.dataset.filter_cfg
    assert filter_cfg == {'filter_empty_gt': True, 'min_size': 20}
    assert load(make(force=True)).train_dataloader.dataset.filter_cfg.min_size == 32


@pytest.mark.parametrize(
    ('images', 'epochs'),
    [(1, 300), (80, 300), (200, 120), (201, 120), (1000, 24), (117_266, 24)],
)
def test_epochs_for(images, epochs):
    assert epochs_for(images, base_epochs=24) == epochs


def test_epochs_for_never_shortens_the_base():
    assert epochs_for(10, base_epochs=500) == 500


def test_schedule(make):
    cfg = load(make(train=200))
    warmup, steps = cfg.param_scheduler
    assert cfg.train_cfg.max_epochs == 120
    assert (steps.end, steps.milestones) == (120, [80, 110])
    assert warmup.end == 500
    assert cfg.train_cfg.val_interval == 10
    hook = cfg.default_hooks.checkpoint
    assert (hook.interval, hook.max_keep_ckpts, hook.save_best) == (10, 3, 'coco/segm_mAP')
    assert cfg.auto_scale_lr == {'enable': True, 'base_batch_size': 16}
    assert cfg.train_dataloader.batch_size == 1


def test_images_without_objects_do_not_count(make):
    # filter_empty_gt drops them: 100 of 200 images make 240 epochs, not 120.
    def edit(data):
        del data['annotations'][100:]

    assert make(train=200, edit_train=edit).length == '240 epochs'


def test_short_training_is_not_all_warm_up(make):
    cfg = load(make(train=40, epochs=2, images_per_gpu=2))
    warmup, steps = cfg.param_scheduler
    assert cfg.train_cfg.max_epochs == 2
    assert warmup.end == 4  # a tenth of 2 x 20 iterations
    assert steps.milestones == [1, 2]


def test_warm_up_is_never_stuck(make):
    # LinearLR from 0 to 1 stays at its start factor, 0.001 of the learning rate, for good.
    warmup, _ = load(make(train=3, epochs=1)).param_scheduler
    assert warmup.end == 2


@pytest.fixture
def iter_base(tmp_path, mask_rcnn):
    base = tmp_path / 'base.py'
    base.write_text(
        f'_base_ = {str(mask_rcnn)!r}\n'
        "train_cfg = dict(_delete_=True, type='IterBasedTrainLoop', max_iters=400,\n"
        '    val_interval=200)\n'
        "param_scheduler = [dict(type='LinearLR', start_factor=0.01, by_epoch=False, begin=0,\n"
        "    end=40), dict(type='MultiStepLR', begin=0, end=400, by_epoch=False,\n"
        '    milestones=[300, 360])]\n'
    )
    return base


def test_iterations_are_kept(make, iter_base):
    written = make(iter_base)
    cfg = load(written)
    assert written.length == '400 iters'
    assert (cfg.train_cfg.max_iters, cfg.train_cfg.val_interval) == (400, 200)
    assert cfg.param_scheduler == Config.fromfile(iter_base).param_scheduler


def test_iterations_are_enough_for_the_data(make, iter_base):
    # Bug: the narrow base's 400 iterations are 2 epochs of 200 images, which ended at half the mAP.
    written = make(iter_base, train=100)
    cfg = load(written)
    assert written.length == '500 iters'
    assert (cfg.train_cfg.max_iters, cfg.param_scheduler[1].milestones) == (500, [375, 450])
    assert '5 epochs of 100 images' in Path(written.path).read_text()


@pytest.mark.parametrize('length', [{'iters': 1200}, {'epochs': 200}])
def test_iterations_given(make, iter_base, length):
    cfg = load(make(iter_base, **length))
    warmup, steps = cfg.param_scheduler
    assert cfg.train_cfg.max_iters == 1200  # 200 epochs of 6 images
    assert cfg.train_cfg.val_interval == 100
    assert (warmup.end, steps.end, steps.milestones) == (120, 1200, [900, 1080])


def test_warnings_do_not_stop(make):
    def edit_train(data):
        data['annotations'][0]['bbox'][2] = 0
        del data['annotations'][1]['iscrowd']

    def edit_val(data):
        data['annotations'] = [a for a in data['annotations'] if a['category_id'] != 9]

    written = make(edit_train=edit_train, edit_val=edit_val)
    warned = ' | '.join(written.warnings)
    for words in ('width or height <= 0', "without 'iscrowd'", "in train only: cat's"):
        assert words in warned
    assert 'warning: ' in written.summary()


def test_images_in_both_splits(make, mask_rcnn):
    make()
    train = 'data/annotations/instances_train.json'
    written = new_config(train, train, base=mask_rcnn, out='configs/b.py')
    assert any('both in train and val' in warning for warning in written.warnings)


def _swap_categories(data):
    data['categories'].reverse()


def _without_masks(data):
    for annotation in data['annotations']:
        del annotation['segmentation']


def _missing_image(data):
    data['images'][1]['file_name'] = 'gone.jpg'


def _unknown_category(data):
    data['annotations'][0]['category_id'] = 77


def _no_annotations(data):
    data['annotations'].clear()


def _other_category(data):
    data['categories'][0]['name'] = 'fox'


def _no_iscrowd(data):
    del data['annotations'][0]['iscrowd']


@pytest.mark.parametrize(
    ('edit_val', 'words'),
    [
        # Same names and ids, other order: MMDetection gives them other labels than in training.
        (_swap_categories, 'the order differs'),
        (_other_category, "only one has cat's, fox"),
        (_without_masks, '3 annotations without a mask'),
        (_missing_image, 'gone.jpg'),
        (_unknown_category, 'category ids 77'),
        (_no_annotations, 'no annotation that can be'),
        # Training goes well, the first evaluation ends in a KeyError.
        (_no_iscrowd, 'COCO evaluation fails'),
    ],
)
def test_errors_stop_and_nothing_is_written(make, edit_val, words):
    with pytest.raises(ValueError, match=words) as error:
        make(edit_val=edit_val)
    assert 'instances_val.json' in str(error.value)
    assert not Path('configs').exists()


def test_all_errors_are_told_at_once(make):
    with pytest.raises(ValueError, match='gone') as error:
        make(edit_train=_missing_image, edit_val=_unknown_category)
    lines = str(error.value).splitlines()
    assert len(lines) == 2
    assert 'instances_train.json' in lines[0]
    assert 'instances_val.json' in lines[1]


def test_boxes_suffice_for_a_detector(make):
    written = make(RETINANET, edit_train=_without_masks, edit_val=_without_masks)
    assert load(written).default_hooks.checkpoint.save_best == 'coco/bbox_mAP'


def test_rle_that_the_base_ignores(make):
    def edit(data):
        data['annotations'][0]['segmentation'] = {
            'size': [64, 64],
            'counts': [260, 8, 3828],
        }

    make(edit_train=edit)
    with pytest.raises(ValueError, match='1 masks are RLE'):
        make('mmdet::mask_rcnn/mask-rcnn_r50_fpn_ms-poly-3x_coco.py', edit_train=edit, force=True)


@pytest.mark.parametrize(
    ('base', 'words'),
    [
        ('mmdet::htc/htc_r50_fpn_1x_coco.py', 'data_prefix.seg'),
        ('mmdet::mask2former/mask2former_r50_8xb2-lsj-50e_coco.py', 'things and stuff'),
        ('mmdet::mask_rcnn/none.py', 'does not exist'),
        ('mmdet::_base_/models/mask-rcnn_r50_fpn.py', 'has no train_dataloader'),
    ],
)
def test_unfit_bases_are_refused(make, base, words):
    with pytest.raises((ValueError, FileNotFoundError), match=words):
        make(base)


@pytest.mark.parametrize(
    'arguments',
    [
        {'images_per_gpu': 0},
        {'epochs': 0},
        {'epochs': 2, 'iters': 2},
        {'iters': 100},  # the base counts epochs
        {'img_dirs': ['a', 'b', 'c']},
        {'out': 'mine.yaml'},
    ],
)
def test_bad_arguments(make, arguments):
    with pytest.raises(ValueError, match=r'`(images_per_gpu|epochs|iters|img_dirs|out)`'):
        make(**arguments)


def test_missing_base(make):
    with pytest.raises(FileNotFoundError, match=r'nowhere\.py'):
        make('nowhere.py')


def test_existing_file_is_kept_unless_forced(make):
    Path('configs').mkdir()
    Path('configs/mine.py').write_text('precious')
    with pytest.raises(FileExistsError, match='`force=True`'):
        make()
    assert Path('configs/mine.py').read_text() == 'precious'
    make(force=True)
    assert Path('configs/mine.py').read_text(encoding='utf-8').startswith('r"""')


def test_failed_writing_leaves_no_trace(make, monkeypatch):
    Path('configs').mkdir()
    Path('configs/mine.py').write_text('precious')

    def fail(*_):
        raise OSError('disk full')

    monkeypatch.setattr('mmws.files.os.replace', fail)
    with pytest.raises(OSError, match='disk full'):
        make(force=True)
    assert [path.name for path in Path('configs').iterdir()] == ['mine.py']
    assert Path('configs/mine.py').read_text() == 'precious'


@pytest.mark.parametrize('base', [MASK_RCNN, CASCADE, VOC])
def test_text_is_formatted(make, base):
    ruff = shutil.which('ruff') or Path(sys.executable).with_name('ruff')
    if not Path(ruff).exists():
        pytest.skip('ruff is not installed')
    written = make(base, train=200)
    config = str(ROOT / 'pyproject.toml')
    for command in (['format', '--diff'], ['check']):
        run = subprocess.run(
            [ruff, *command, '--config', config, written.path], capture_output=True, text=True
        )
        assert run.returncode == 0, run.stdout + run.stderr


def test_header_has_the_command_that_made_it(make):
    written = make(img_dirs=['data/train', 'data/val'], epochs=7, out='configs/a b.py')
    header = Path(written.path).read_text(encoding='utf-8').partition('_base_')[0]
    for option in ('--img-dirs data/train data/val', '--epochs 7', "--out 'configs/a b.py'"):
        assert option in header
    assert '--iters' not in header


def test_palette_of_many_classes_is_distinct():
    # The visualizer needs a colour for each; MMDetection's own palette ends at 80.
    palette = make_palette(120)
    assert len(set(palette)) == 120
    assert all(0 <= value <= 255 for colour in palette for value in colour)


def test_command_line(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    train, val = write_coco(tmp_path, 'train', 6), write_coco(tmp_path, 'val', 3, _missing_image)
    options = ['--train-json', train, '--val-json', val, '--base', RETINANET, '--out', 'c.py']
    with pytest.raises(SystemExit) as stop:
        call_tool('new_config.py', *options)
    assert stop.value.code.startswith(f'error: {val}: 1 image files are missing')
    assert not Path('c.py').exists()

    write_coco(tmp_path, 'val', 3)
    call_tool('new_config.py', *options)
    printed = capsys.readouterr().out
    assert 'train: 6 images, 6 instances' in printed
    assert 'python tools/train.py c.py' in printed
    assert Path('c.py').exists()


def test_real_data(tmp_path):
    root = os.environ.get('MMWS_TEST_NUCLEI')
    if not root:
        pytest.skip('MMWS_TEST_NUCLEI does not name the nuclei data set')
    annotations = Path(root) / 'annotations'
    written = new_config(
        annotations / 'instances_train.json',
        annotations / 'instances_val.json',
        base=MASK_RCNN,
        out=tmp_path / 'nuclei.py',
    )
    assert written.train.classes == ('nucleus',)
    assert written.warnings == []
    assert written.length == '120 epochs'


def test_a_config_is_not_its_own_base(tmp_path):
    # Bug: --base X --out X --force leaves a file that inherits from itself, and the base is lost.
    path = tmp_path / 'mine.py'
    path.write_text('model = None\n')
    with pytest.raises(ValueError, match='`base` and `out` are both'):
        new_config('train.json', 'val.json', base=path, out=path, force=True)
    assert path.read_text() == 'model = None\n'


# ---- Data in VOC's layout


@pytest.fixture(scope='module')
def voc_tree(tmp_path_factory):
    pytest.importorskip('sklearn')
    return generate_digits(
        tmp_path_factory.mktemp('voc') / 'digits',
        num_train=4, num_val=2, voc=True, image_size=(96, 96), digit_size=(28, 48),
    ) / 'VOCdevkit' / 'VOC2012'  # fmt: skip


@pytest.fixture
def tree(voc_tree, tmp_path, monkeypatch):
    """Return a copy of the tree, relative to the working directory."""
    monkeypatch.chdir(tmp_path)
    return Path(shutil.copytree(voc_tree, 'VOC2012'))


def drop_masks(tree):
    for folder in ('SegmentationObject', 'SegmentationClass', 'ImageSets/Segmentation'):
        shutil.rmtree(tree / folder)


def test_voc_masks(tree, mask_rcnn):
    written = new_config(voc=tree, classes=CLASSES_OF_DIGITS, base=mask_rcnn, out='c.py')
    cfg = load(written)
    dataset = cfg.train_dataloader.dataset
    assert dataset.data_root == 'VOC2012/'
    assert dataset.ann_file == 'annotations/instances_train.json'
    assert cfg.val_evaluator.ann_file == 'VOC2012/annotations/instances_val.json'
    assert dataset.data_prefix.img == 'JPEGImages'
    assert cfg.model.roi_head.mask_head.num_classes == 10
    header = Path('c.py').read_text().partition('_base_')[0]
    assert '--voc VOC2012' in header
    assert '--classes 0 1 2' in header
    assert written.train.instances > 4


def test_metrics_of_voc_are_kept(tree):
    # Bugs: VOC's metrics dropped, or the best checkpoint chosen by a name that no metric has.
    base = 'mmws::mask_rcnn/mask_rcnn_r50_gnws_voc.py'
    cfg = load(new_config(voc=tree, classes=CLASSES_OF_DIGITS, base=base, out='c.py'))
    assert cfg.val_evaluator.type == 'mmws.VOCMetric'
    assert cfg.val_evaluator.ann_file == 'VOC2012/annotations/instances_val.json'
    assert cfg.default_hooks.checkpoint.save_best == 'voc/segm_mAP'


def test_voc_boxes_alone_train_faster_rcnn(tree):
    # Bug: a mask head that waits for masks which the data do not have.
    drop_masks(tree)
    written = new_config(voc=tree, classes=CLASSES_OF_DIGITS, out='c.py')
    cfg = load(written)
    assert 'mask_head' not in cfg.model.roi_head
    assert cfg.train_dataloader.dataset.ann_file == 'annotations/boxes_train.json'
    assert cfg.val_evaluator.metric in ('bbox', ['bbox'])
    assert f'_base_ = {BOX_BASE!r}' in Path('c.py').read_text()


def test_voc_boxes_for_a_base_without_masks(tree):
    # Bug: the fewer images with masks, though the base needs boxes only.
    written = new_config(voc=tree, classes=CLASSES_OF_DIGITS, base=RETINANET, out='c.py')
    assert Path(written.train.path).name == 'boxes_train.json'


def test_voc_without_masks_does_not_suit_a_mask_head(tree, mask_rcnn):
    drop_masks(tree)
    with pytest.raises(FileNotFoundError, match=r'no SegmentationObject.* without a mask head'):
        new_config(voc=tree, classes=CLASSES_OF_DIGITS, base=mask_rcnn, out='c.py')
    assert not Path('c.py').exists()


def test_one_voc_list_for_both_splits(tree):
    # Bug: an unpacking error of Python instead of a config with a warning.
    written = new_config(
        voc=tree, splits=['train', 'train'], classes=CLASSES_OF_DIGITS, base=RETINANET, out='c.py'
    )
    assert any('both in train and val' in warning for warning in written.warnings)


def test_a_broken_voc_tree_is_told_by_file(tree, mask_rcnn):
    for name in ('train_000001', 'val_000001'):
        (tree / 'SegmentationObject' / f'{name}.png').write_bytes(b'')
    with pytest.raises(DataError) as caught:
        new_config(voc=tree, classes=CLASSES_OF_DIGITS, base=mask_rcnn, out='c.py')
    assert len(caught.value.lines) == 2
    assert not Path('c.py').exists()
    assert not (tree / 'annotations').exists()


@pytest.mark.parametrize(
    ('arguments', 'message'),
    [
        ({}, 'give `train_json` and `val_json`, or `voc`'),
        ({'train_json': 'a.json'}, 'give `train_json` and `val_json`, or `voc`'),
        ({'voc': '.', 'val_json': 'a.json'}, 'give `train_json` and `val_json`, or `voc`'),
        ({'voc': '.', 'img_dirs': ['a']}, '`img_dirs` goes with `train_json`'),
        ({'voc': '.'}, 'has neither JPEGImages'),
    ],
)
def test_one_kind_of_data_is_wanted(tmp_path, monkeypatch, arguments, message):
    monkeypatch.chdir(tmp_path)
    with pytest.raises((ValueError, FileNotFoundError), match=message):
        new_config(**arguments, out='c.py')
