"""What new_config chooses by itself, and what it writes for names of any kind."""

import json
import shlex
from pathlib import Path

import pytest
from mmengine.config import Config

from mmws.config.code import assign
from mmws.data.coco_check import CocoReport
from mmws.data.errors import DataError
from mmws.data.new_config import new_config
from mmws.data.new_config.fit import fit_to_data
from mmws.data.new_config.schedule import evaluations_for
from mmws.data.new_config.start import find_detector, find_start
from mmws.data.new_config.text import command_line
from mmws.data.preflight import find_problems
from tests.helpers.paths import ROOT

NARROW = ROOT / 'configs' / 'mask_rcnn_r18_gnws_narrow.py'
NARROW_BOXES = ROOT / 'configs' / 'faster_rcnn_r18_gnws_narrow.py'


@pytest.fixture
def coco(tmp_path):
    """Return a function that writes one COCO file of 8 images without a split."""
    from PIL import Image

    def write(name='cat', **changes):
        folder = tmp_path / 'data'
        (folder / 'images').mkdir(parents=True, exist_ok=True)
        images, annotations = [], []
        for i in range(8):
            Image.new('RGB', (64, 48)).save(folder / 'images' / f'{i}.png')
            images.append({'id': i, 'file_name': f'{i}.png', 'width': 64, 'height': 48})
            if i < 7:
                annotations.append(
                    {
                        'id': i + 1, 'image_id': i, 'category_id': 1, 'bbox': [4, 4, 20, 10],
                        'area': 200, 'iscrowd': 0,
                        'segmentation': [[4, 4, 24, 4, 24, 14, 4, 14]], **changes,
                    }
                )  # fmt: skip
        data = {
            'images': images,
            'annotations': annotations,
            'categories': [{'id': 1, 'name': name}],
        }
        (folder / 'all.json').write_text(json.dumps(data))
        return folder / 'all.json'

    return write


@pytest.mark.slow
@pytest.mark.parametrize('name', ['{{ fileDirname }}', '{{$HOME:x}}', "a'b", 'a"""b', 'a\\{{b}}'])
def test_class_names_stay_text(coco, tmp_path, name):
    # Bug: MMEngine puts the value of a template in the place of the class's name.
    written = new_config(data=coco(name), base=NARROW, out=tmp_path / 'c.py', start='none')
    cfg = Config.fromfile(written.path)
    assert cfg.train_dataloader.dataset.metainfo.classes == (name,)


@pytest.mark.parametrize(
    'text', ['a b', '"""+str(1/0)+r"""', '{{ fileDirname }}', 'new\nline', "it's", 'ü{{', '\\"""']
)
def test_a_command_line_cannot_leave_its_docstring(text, tmp_path):
    # Bug: a folder name with three quotes runs code when the config is read.
    command = command_line({'--out': text})
    path = tmp_path / 'c.py'
    path.write_text(f'r"""Made by\n\n    {command}\n"""\n\n{assign("a", text)}\n', 'utf-8')
    assert Config.fromfile(path).a == text
    import ast

    assert len(ast.parse(path.read_text('utf-8')).body) == 2
    if "$'" not in command:
        assert shlex.split(command.replace('\\\n', ''))[-1] == text


@pytest.mark.slow
def test_without_a_split_one_is_made_or_none_is_wanted(coco, tmp_path):
    path = coco()
    written = new_config(data=path, base=NARROW, out=tmp_path / 'a.py', val_fraction=0.25)
    assert (written.train.images, written.val.images) == (6, 2)
    written = new_config(data=path, base=NARROW, out=tmp_path / 'b.py', val_fraction=0)
    assert written.val is None
    cfg = Config.fromfile(written.path)
    assert cfg.val_dataloader is cfg.val_evaluator is cfg.val_cfg is cfg.test_dataloader is None
    assert 'save_best' not in cfg.default_hooks.checkpoint
    assert 'train: 8 images' in written.summary()


@pytest.mark.slow
def test_images_without_objects_are_kept_by_option(coco, tmp_path):
    path = coco()
    for keep in (False, True):
        written = new_config(
            data=path, base=NARROW, out=tmp_path / 'c.py', val_fraction=0, keep_empty=keep,
            force=True,
        )  # fmt: skip
        filter_cfg = Config.fromfile(written.path).train_dataloader.dataset.filter_cfg
        assert filter_cfg.filter_empty_gt is not keep


@pytest.mark.slow
def test_boxes_get_the_box_metric_and_a_base_without_masks(coco, tmp_path):
    # Bug: save_best of a mask metric, so that training dies at its first evaluation.
    path = coco(segmentation=None)
    for options in ({'narrow': True}, {'base': NARROW_BOXES}):
        written = new_config(data=path, out=tmp_path / 'c.py', force=True, **options)
        cfg = Config.fromfile(written.path)
        assert cfg.val_evaluator.metric == 'bbox'
        assert cfg.default_hooks.checkpoint.save_best == 'coco/bbox_mAP'
        assert cfg.model.roi_head.get('mask_head') is None
    with pytest.raises(ValueError, match='does not train boxes alone'):
        new_config(data=path, base=NARROW, masks=False, out=tmp_path / 'd.py')


@pytest.mark.slow
def test_fix_writes_new_files_and_says_what_it_changed(coco, tmp_path):
    path = coco(iscrowd='0')
    before = path.read_bytes()
    with pytest.raises(ValueError, match=r'iscrowd.*\(`fix` does it\)'):
        new_config(data=path, base=NARROW, out=tmp_path / 'c.py')
    written = new_config(data=path, base=NARROW, out=tmp_path / 'c.py', fix=True)
    assert path.read_bytes() == before
    assert any('iscrowd set to 0' in note for note in written.notes)
    assert Path(written.train.path).parent == tmp_path / 'c_data'
    assert written.train.crowds == 0


@pytest.mark.parametrize(
    ('seen', 'val_images', 'count'), [(24_000, 50, 12), (800, 50, 3), (10, 50, 1), (800, 0, 12)]
)
def test_evaluations_take_a_tenth_of_the_time(seen, val_images, count):
    # Bug: 12 evaluations in a short training, 45 % of its time.
    found = evaluations_for(seen, val_images)
    assert found == count
    evaluating = found * val_images * 0.5
    assert found == 1 or evaluating <= 0.1 * (evaluating + seen)


def report(side, sides, count=20):
    return CocoReport(
        'a.json', file_names=('a',) * count, sizes=((side, side),) * count, object_sides=sides
    )


@pytest.mark.slow
def test_input_and_anchors_follow_the_sizes():
    base = Config.fromfile(NARROW).to_dict()
    # Objects that a crop of 192 would cut get a larger one, in images that are larger.
    fit = fit_to_data(base, report(900, (60, 80, 100, 120, 160)), new_anchors=True)
    crop = next(s for s in fit.pipelines['train'] if s['type'] == 'RandomCrop')['crop_size']
    assert crop == (480, 480)
    assert fit.model['rpn_head']['anchor_generator']['scales'] == [16]
    # Small objects in small images: the base as it is, and anchors that small.
    fit = fit_to_data(base, report(128, (6, 8, 10, 12, 16)), new_anchors=True)
    assert not fit.pipelines
    assert fit.model['rpn_head']['anchor_generator']['scales'] == [2]
    assert len(fit.notes) == 1

    standard = Config.fromfile(ROOT / 'configs/faster_rcnn/faster_rcnn_r50_gnws.py').to_dict()
    fit = fit_to_data(standard, report(256, (10, 16, 20, 24, 40)), new_anchors=False)
    scales = {s['scale'] for split in fit.pipelines.values() for s in split if 'scale' in s}
    assert scales == {(512, 512)}
    assert not fit.model
    assert not fit_to_data(standard, report(2000, (60,) * 5), new_anchors=False).pipelines


@pytest.mark.slow
def test_the_published_detector_is_found_by_architecture_and_layers():
    gnws = Config.fromfile(ROOT / 'configs/mask_rcnn/mask_rcnn_r50_gnws.py').to_dict()
    found = find_detector(gnws['model'])
    assert 'mask_rcnn_r50_fpn_gn_ws-all' in found.checkpoint
    start = find_start(gnws, None, 3)
    assert start.load_from == found.checkpoint
    assert 'roi_head.bbox_head.fc_cls' in start.comment[1]
    assert find_start(gnws, 'none', 3).load_from is None
    for other in ('mask_rcnn/mask_rcnn_r50_bn.py', 'mask_rcnn_r18_gnws_narrow.py'):
        assert find_detector(Config.fromfile(ROOT / 'configs' / other).to_dict()['model']) is None
    with pytest.raises(FileNotFoundError, match='there is no such file'):
        find_start(gnws, 'gone.pth', 3)


@pytest.mark.parametrize('key', ['id', 'file_name'])
def test_a_file_that_cannot_be_split_is_named(tmp_path, key):
    # Bug: the message names neither the file nor, for a list of ids, anything: it is a traceback.
    from PIL import Image

    images = [{'id': i, 'file_name': f'{i}.png', 'width': 8, 'height': 8} for i in range(3)]
    for image in images:
        Image.new('RGB', (8, 8)).save(tmp_path / image['file_name'])
    del images[1][key]
    content = {'images': images, 'annotations': [], 'categories': [{'id': 1, 'name': 'a'}]}
    (tmp_path / 'all.json').write_text(json.dumps(content))
    with pytest.raises(DataError, match=r'all\.json: an image has no id or file_name'):
        new_config(data=tmp_path, out=tmp_path / 'c.py')


def test_sizes_that_are_wrong_in_every_image_are_not_told_as_images_not_found(coco, tmp_path):
    # Bug: "its images are not found near it", although they lie there.
    path = coco()
    data = json.loads(path.read_text())
    for image in data['images']:
        image['width'] = '64'
    path.write_text(json.dumps(data))
    with pytest.raises(DataError, match=r"all\.json: 8 entries of 'images' whose 'width' is no"):
        new_config(data=path, out=tmp_path / 'c.py')


def as_own_folder(path, tmp_path, *names):
    """Put a COCO file, under the names given, into the folder that ``cells.py`` writes to."""
    folder = tmp_path / 'cells_data'
    folder.mkdir()
    (path.parent / 'images').rename(folder / 'images')
    for name in names:
        (folder / name).write_bytes(path.read_bytes())
    return folder


@pytest.mark.parametrize('options', [{}, {'fix': True}])
def test_files_of_the_data_set_are_never_replaced(coco, tmp_path, options):
    # Bug: `cells_data/train.json` was replaced by its training part, or by its mended copy.
    names = ['train.json', 'val.json'] if options else ['train.json']
    folder = as_own_folder(coco(iscrowd='0'), tmp_path, *names)
    before = [(folder / name).read_bytes() for name in names]
    data = folder if options else folder / 'train.json'
    with pytest.raises(FileExistsError, match=r'train\.json is a file of the data set itself'):
        new_config(data=data, base=NARROW, out=tmp_path / 'cells.py', **options)
    assert [(folder / name).read_bytes() for name in names] == before
    assert sorted(path.name for path in folder.iterdir()) == ['images', *names]


def test_a_file_of_another_origin_is_never_replaced(coco, tmp_path):
    # Bug: an annotation file that happens to have the name of a part was replaced.
    path = coco()
    (tmp_path / 'c_data').mkdir()
    (tmp_path / 'c_data' / 'val.json').write_text('precious')
    with pytest.raises(FileExistsError, match=r'val\.json exists and was not written by mmws'):
        new_config(data=path, base=NARROW, out=tmp_path / 'c.py')
    assert (tmp_path / 'c_data' / 'val.json').read_text() == 'precious'


@pytest.mark.slow
def test_data_that_are_refused_leave_an_old_config_with_its_files(coco, tmp_path):
    # Bug: with `force` the files of the old config were replaced before the data were refused.
    path, folder = coco(), tmp_path / 'c_data'
    new_config(data=path, base=NARROW, out=tmp_path / 'c.py', start='none')
    before = {file.name: file.read_bytes() for file in folder.iterdir()}
    again = {'base': NARROW, 'out': tmp_path / 'c.py', 'start': 'none', 'force': True}
    with pytest.raises(DataError, match=r'c_data/train_draft\.json'):
        new_config(data=coco(bbox=[4, 4, 1e9, 10]), **again)
    assert {name: (folder / name).read_bytes() for name in before} == before
    # Sound data then replace the files together with the config.
    written = new_config(data=coco(name='dog'), **again)
    assert Path(written.train.path) == folder / 'train.json'
    assert json.loads((folder / 'train.json').read_text())['categories'][0]['name'] == 'dog'
    assert sorted(file.name for file in folder.iterdir()) == ['train.json', 'val.json']
    assert not any('draft' in text for text in [*written.notes, *written.warnings])
    assert 'draft' not in (tmp_path / 'c.py').read_text()


@pytest.mark.slow
@pytest.mark.parametrize('fraction', [None, 0])
def test_absolute_file_names_give_a_config_that_finds_them(coco, tmp_path, fraction):
    # Bug: the folder of the images was one that does not exist, which the next start refused.
    path = coco()
    data = json.loads(path.read_text())
    for image in data['images']:
        image['file_name'] = str(path.parent / 'images' / image['file_name'])
    path.write_text(json.dumps(data))
    written = new_config(
        data=path, base=NARROW, out=tmp_path / 'c.py', start='none', val_fraction=fraction
    )
    assert written.train.img_dir == str(path.parent)
    assert find_problems(Config.fromfile(written.path)) == []


@pytest.mark.slow
def test_a_file_without_any_size_is_mended_and_split(coco, tmp_path):
    # Bug: "its images are not found", because entries without a size tell no file name.
    path = coco()
    data = json.loads(path.read_text())
    for image in data['images']:
        del image['width']
    path.write_text(json.dumps(data))
    for options in ({'data': path}, {'train_json': path, 'val_json': path}):
        written = new_config(
            base=NARROW, out=tmp_path / 'c.py', start='none', fix=True, force=True, **options
        )
        sizes = {size for report in (written.train, written.val) for size in report.sizes}
        assert sizes == {(64, 48)}
