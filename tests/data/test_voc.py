import contextlib
import io
import json
import re
import shutil
from pathlib import Path
from xml.etree import ElementTree

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from PIL import Image
from pycocotools import mask as mask_utils
from pycocotools.coco import COCO

from mmws.data import voc
from mmws.data.coco_check import check_coco
from mmws.data.digits import CLASSES, generate_digits
from mmws.data.errors import DataError
from mmws.data.rle import encode_masks
from mmws.data.voc import VOC_CLASSES, VOID, conversion_hint, convert_voc
from mmws.data.voc.objects import objects_of_labels
from tests.helpers.processes import call_tool

TOOL = 'dataset_converters/voc_instances.py'  # below tools/
SPLITS = ('train', 'val')


def load(path):
    with contextlib.redirect_stdout(io.StringIO()):
        return COCO(path)


def save_labels(path, labels):
    path.parent.mkdir(parents=True, exist_ok=True)
    image = Image.fromarray(labels.astype(np.uint8))
    image.putpalette(voc.voc_palette().ravel().tolist())
    image.save(path)


def write_xml(path, size, objects):
    """Write ``objects``: (name, difficult, (xmin, ymin, xmax, ymax) from 1)."""
    parts = [
        f'<object><name>{name}</name><difficult>{int(difficult)}</difficult><part><name>head</name>'
        f'<bndbox><xmin>1</xmin><ymin>1</ymin><xmax>2</xmax><ymax>2</ymax></bndbox></part><bndbox>'
        f'<xmin>{box[0]}</xmin><ymin>{box[1]}</ymin><xmax>{box[2]}</xmax><ymax>{box[3]}</ymax>'
        '</bndbox></object>'
        for name, difficult, box in objects
    ]
    size = f'<size><width>{size[0]}</width><height>{size[1]}</height></size>'
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(f'<annotation>{size}{"".join(parts)}</annotation>')


def write_tree(root, objects, instances=None, categories=None):
    """Write a VOC tree of one image of 12x8 pixels, in train and val, for VOC's 20 classes."""
    (root / 'JPEGImages').mkdir(parents=True)
    Image.new('RGB', (12, 8)).save(root / 'JPEGImages' / 'one.jpg')
    write_xml(root / 'Annotations' / 'one.xml', (12, 8), objects)
    if instances is not None:
        save_labels(root / 'SegmentationObject' / 'one.png', instances)
        save_labels(root / 'SegmentationClass' / 'one.png', categories)
    for task in ('Main', 'Segmentation'):
        (root / 'ImageSets' / task).mkdir(parents=True)
        for split in SPLITS:
            (root / 'ImageSets' / task / f'{split}.txt').write_text('one\n')
    return root


def annotations(report):
    return json.loads(Path(report.path).read_text())['annotations']


@pytest.fixture(scope='module')
def digits(tmp_path_factory):
    pytest.importorskip('sklearn')
    return generate_digits(
        tmp_path_factory.mktemp('data') / 'digits',
        num_train=4, num_val=2, voc=True, mask_format='rle',
    )  # fmt: skip


@pytest.fixture
def tree(digits, tmp_path):
    """Return a copy of the VOC tree of the digits that a test may break."""
    return Path(shutil.copytree(digits / 'VOCdevkit' / 'VOC2012', tmp_path / 'VOC2012'))


def test_instances_are_those_of_the_coco_tree(digits, tmp_path):
    # Bugs: masks of the wrong image, transposed, or with the border in them; classes off by one.
    reports = convert_voc(
        digits / 'VOCdevkit' / 'VOC2012', classes=CLASSES, out_dir=tmp_path / 'out'
    )
    for split, report in zip(SPLITS, reports):
        one, other = load(digits / 'annotations' / f'instances_{split}.json'), load(report.path)
        assert len(other.anns) == len(one.anns)
        by_stem = {Path(i['file_name']).stem: i['id'] for i in other.dataset['images']}
        for image in one.dataset['images']:
            expected = one.imgToAnns[image['id']]
            found = other.imgToAnns[by_stem[Path(image['file_name']).stem]]
            # Digits are drawn in the order of their labels, which the converter keeps.
            for left, right in zip(expected, found):
                assert right['segmentation'] == left['segmentation']
                assert right['bbox'] == left['bbox']
                assert right['area'] == left['area']
                assert right['category_id'] == left['category_id']
                assert right['iscrowd'] == 0
        assert report.border_pixels > 0
        assert sum(report.counts) == len(one.anns)
        assert not report.warnings
        checked = check_coco(report.path, report.img_dir, split=split)
        assert not checked.problems
        assert checked.classes == CLASSES


@settings(max_examples=60, deadline=None)
@given(
    arrays(
        np.uint8,
        st.tuples(st.integers(1, 9), st.integers(1, 9)),
        elements=st.sampled_from([0, 1, 2, 7, 254, VOID]),
    )
)
def test_masks_are_exact(labels):
    # Bug: RLE of a C-ordered array is that of the transposed mask.
    ids = [int(i) for i in np.unique(labels) if i not in (0, VOID)]
    objects = objects_of_labels(labels, ids, [0] * len(ids))
    for index, item in zip(ids, objects):
        np.testing.assert_array_equal(mask_utils.decode(item.rle), labels == index)
        ys, xs = np.nonzero(labels == index)
        assert item.area == len(xs)
        assert item.box == (
            xs.min(), ys.min(), xs.max() - xs.min() + 1, ys.max() - ys.min() + 1
        )  # fmt: skip


def test_encoded_masks_survive_json():
    masks = np.random.default_rng(0).random((7, 5, 3)) < 0.5
    again = json.loads(json.dumps(encode_masks(masks)))
    np.testing.assert_array_equal(mask_utils.decode(again), masks)


def test_boxes_are_counted_from_zero(tmp_path):
    # Bug: VOC's inclusive 1-based boxes taken as they are, shifted and a pixel too small. The box
    # of a part (VOC's person layout) is not the object's.
    root = write_tree(tmp_path, [('dog', False, (1, 1, 12, 8)), ('cat', True, (2.0, 3.5, 4, 5))])
    report = convert_voc(root)[0]
    assert Path(report.path) == root / 'annotations' / 'boxes_train.json'
    dog, cat = annotations(report)
    assert (dog['bbox'], dog['area']) == ([0, 0, 12, 8], 96)
    assert (dog['iscrowd'], dog['difficult']) == (0, 0)
    assert cat['bbox'] == [1, 2.5, 3, 2.5]
    assert (cat['iscrowd'], cat['difficult']) == (1, 1)
    assert 'segmentation' not in dog
    assert cat['category_id'] == VOC_CLASSES.index('cat') + 1


def test_difficult_objects_are_those_whose_boxes_overlap_most(tmp_path):
    # Bugs: flags given by order, to a neighbour of another class, or twice; the difficult object
    # that VOC painted over as void lost, so that finding it would be a false alarm.
    instances = np.zeros((8, 12), int)
    instances[1:4, 1:4], instances[1:4, 6:9], instances[5:8, 1:5] = 1, 2, VOID
    categories = np.where(instances == VOID, VOID, np.where(instances > 0, 12, 0))  # 12: dog
    objects = [
        ('cat', True, (2, 2, 4, 4)),  # where instance 1, a dog, is
        ('dog', True, (7, 1, 10, 5)),
        ('dog', False, (1, 2, 5, 4)),
        ('sheep', True, (2, 6, 5, 8)),
        ('sheep', True, (10, 1, 12, 2)),  # nothing there: no mask to ignore by
    ]
    report = convert_voc(write_tree(tmp_path, objects, instances, categories))[0]
    first, second, hidden = annotations(report)
    assert (first['difficult'], second['difficult'], hidden['difficult']) == (0, 1, 1)
    assert second['iscrowd'] == 1
    mask = mask_utils.decode(hidden['segmentation'])
    expected = np.zeros((8, 12), bool)
    expected[5:8, 1:5] = True
    np.testing.assert_array_equal(mask, expected)
    assert hidden['bbox'] == [1, 5, 4, 3]
    assert (sum(report.counts), sum(report.difficult)) == (1, 2)
    assert 'border 12 pixels' in report.text()


def test_training_ignores_difficult_objects(tmp_path):
    # Bug: difficult objects learned as objects, or lost, so that they are learned as background.
    datasets = pytest.importorskip('mmdet.datasets')
    instances = np.zeros((8, 12), int)
    instances[1:4, 1:4], instances[1:4, 6:9] = 1, 2
    objects = [('dog', False, (2, 2, 4, 4)), ('dog', True, (7, 2, 9, 4))]
    root = write_tree(tmp_path, objects, instances, np.where(instances > 0, 12, 0))
    report = convert_voc(root)[0]
    with contextlib.redirect_stdout(io.StringIO()):
        (sample,) = datasets.CocoDataset(
            ann_file=report.path,
            data_prefix={'img': report.img_dir},
            metainfo={'classes': VOC_CLASSES},
            pipeline=[
                {'type': 'LoadImageFromFile'},
                {'type': 'mmdet.LoadAnnotations', 'with_bbox': True, 'with_mask': True},
                {'type': 'mmdet.PackDetInputs'},
            ],
        )
    learned, ignored = sample['data_samples'].gt_instances, sample['data_samples'].ignored_instances
    assert learned.labels.tolist() == ignored.labels.tolist() == [VOC_CLASSES.index('dog')]
    np.testing.assert_array_equal(learned.masks.masks[0], instances == 1)
    np.testing.assert_array_equal(ignored.masks.masks[0], instances == 2)


def test_odd_objects_are_warned_of(tmp_path):
    instances = np.zeros((8, 12), int)
    instances[1:4, 1:4] = 1
    categories = np.where(instances > 0, 12, 0)
    categories[1, 1] = 8
    objects = [('dog', False, (6, 6, 9, 8)), ('dog', False, (9, 9, 2, 2))]
    report = convert_voc(write_tree(tmp_path, objects, instances, categories))[0]
    (dog,) = annotations(report)
    assert dog['category_id'] == 12
    text = report.text()
    for warning in (
        '1 instances of several classes',
        '1 objects without a mask',
        '1 objects without a sound box',
        '1 masks of no object in Annotations',
    ):
        assert warning in text


def test_sbd(tmp_path):
    scipy_io = pytest.importorskip('scipy.io')
    for folder in ('img', 'inst'):
        (tmp_path / folder).mkdir()
    labels = np.zeros((8, 12), np.uint8)
    labels[2:5, 3:9], labels[6, 1] = 1, 2
    Image.new('RGB', (12, 8)).save(tmp_path / 'img' / 'one.jpg')
    contents = {'Segmentation': labels, 'Categories': np.array([[15], [20]], np.uint8)}
    scipy_io.savemat(tmp_path / 'inst' / 'one.mat', {'GTinst': contents})
    (tmp_path / 'train.txt').write_text('one\n')
    report = convert_voc(tmp_path, ['train'])[0]
    person, monitor = annotations(report)
    assert VOC_CLASSES[person['category_id'] - 1] == 'person'
    assert VOC_CLASSES[monitor['category_id'] - 1] == 'tvmonitor'
    np.testing.assert_array_equal(mask_utils.decode(person['segmentation']), labels == 1)
    # Images beside the file are found by those who read it.
    assert check_coco(report.path).img_dir == report.img_dir

    data = (tmp_path / 'inst' / 'one.mat').read_bytes()
    (tmp_path / 'inst' / 'one.mat').write_bytes(data[: len(data) // 2])
    with pytest.raises(DataError, match=r'one\.mat: no GTinst can be read'):
        convert_voc(tmp_path, ['train'])


def cut(path):
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])


def resize(path):
    with Image.open(path) as image:
        resized = image.resize((20, 30), Image.Resampling.NEAREST)
    resized.save(path)


def rename_class(path):
    path.write_text(path.read_text().replace('<name>', '<name>un', 1))


def set_width(path):
    tree = ElementTree.parse(path)
    tree.find('size/width').text = '7'
    tree.write(path)


def declare_encoding(path):
    path.write_text(f'<?xml version="1.0" encoding="utf-99"?>{path.read_text()}')


def colour(path):
    with Image.open(path) as image:
        rgb = image.convert('RGB')
    rgb.save(path)


BREAKS = {
    'SegmentationObject/train_000001.png': (Path.unlink, 'missing'),
    'SegmentationObject/train_000002.png': (cut, 'cannot be read'),
    'SegmentationObject/train_000003.png': (resize, 'size 20x30, while the image has 192x192'),
    'SegmentationClass/train_000004.png': (colour, r'colours \(RGB\) instead of labels'),
    'Annotations/val_000001.xml': (cut, 'cannot be read as XML'),
    'Annotations/val_000002.xml': (rename_class, "unknown class 'un"),
    'ImageSets/Segmentation/empty.txt': (Path.touch, 'empty split'),
}


def test_all_broken_files_are_named_and_nothing_is_written(tree):
    # Bug: one run for each broken file; a new training file beside an old validation file.
    convert_voc(tree, ['train'], CLASSES)
    before = {path: path.read_bytes() for path in (tree / 'annotations').iterdir()}
    for name, (spoil, _) in BREAKS.items():
        spoil(tree / name)
    with pytest.raises(DataError) as caught:
        convert_voc(tree, ['train', 'val', 'empty', 'gone'], CLASSES)
    lines = caught.value.lines
    assert len(lines) == len(BREAKS) + 1
    for name, (_, what) in BREAKS.items():
        (line,) = [line for line in lines if line.startswith(f'{tree / name}: ')]
        assert re.search(what, line), line
    assert any('gone.txt: cannot be read' in line and 'empty, train' in line for line in lines)
    assert {path: path.read_bytes() for path in (tree / 'annotations').iterdir()} == before


@pytest.mark.parametrize(
    ('name', 'spoil', 'what'),
    [
        ('Annotations/train_000001.xml', set_width, 'size 7x192'),
        ('JPEGImages/train_000001.jpg', Path.unlink, 'missing'),
        ('JPEGImages/train_000001.jpg', lambda path: path.write_bytes(b''), 'cannot be read'),
        ('Annotations/train_000001.xml', Path.unlink, 'missing'),
        ('Annotations/train_000001.xml', declare_encoding, 'cannot be read as XML'),
    ],
)
def test_broken_files_of_boxes(tree, name, spoil, what):
    spoil(tree / name)
    with pytest.raises(DataError, match=what) as caught:
        convert_voc(tree, ['train'], CLASSES, boxes=True)
    assert len(caught.value.lines) == 1
    assert caught.value.lines[0].startswith(str(tree / name))
    assert not (tree / 'annotations').exists()


@pytest.mark.parametrize(
    'text',
    [
        'my photo 1\nläufer\n',
        '\ufeffmy photo 1\r\nläufer\r\n',
        'my photo 1  1\r\nläufer -1\r\nläufer 0',
    ],
)
def test_lists_of_any_editor(tmp_path, text):
    # Bug: names cut at their first space, with a number taken for the column of a list of one
    # class, or with the mark that Windows' editors put before UTF-8.
    root = write_tree(tmp_path, [])
    for name in ('my photo 1', 'läufer'):
        for folder, suffix in (('JPEGImages', 'jpg'), ('Annotations', 'xml')):
            shutil.copy(root / folder / f'one.{suffix}', root / folder / f'{name}.{suffix}')
    (root / 'ImageSets' / 'Main' / 'train.txt').write_bytes(text.encode())
    coco = load(convert_voc(root, ['train'])[0].path)
    assert [image['file_name'] for image in coco.imgs.values()] == ['my photo 1.jpg', 'läufer.jpg']


def test_classes_must_cover_the_labels(tree):
    with pytest.raises(DataError, match='unknown class') as caught:
        convert_voc(tree, classes=CLASSES[:3])
    assert all(line.startswith(str(tree)) for line in caught.value.lines)
    with pytest.raises(ValueError, match="'0' is named twice"):
        convert_voc(tree, classes=['0', '1', '0'])


def test_files_of_others_are_not_overwritten(tree):
    path = tree / 'annotations' / 'instances_train.json'
    path.parent.mkdir()
    path.write_text('{"info": {"description": "made by hand"}}')
    with pytest.raises(FileExistsError, match='not of this converter'):
        convert_voc(tree, classes=CLASSES)
    assert 'by hand' in path.read_text()


def test_a_folder_too_high_is_told(digits):
    with pytest.raises(FileNotFoundError, match=r'did you mean .*VOCdevkit/VOC2012\?'):
        convert_voc(digits)


@pytest.mark.parametrize('kind', ['instances', 'boxes'])
def test_a_missing_annotation_file_leads_to_the_command_that_writes_it(kind, tree, capsys):
    # Bug: who has the data is told to download them, which finds nothing to do.
    path = tree / 'annotations' / f'{kind}_val.json'
    python, script, *arguments = conversion_hint(path).split()
    assert (python, script) == ('python', f'tools/{TOOL}')
    call_tool(TOOL, *arguments, '--classes', *CLASSES)
    assert path.is_file()
    # No file of the converter, or not of a tree that is there.
    assert conversion_hint(tree / 'annotations' / 'other.json') is None
    assert conversion_hint(tree / 'JPEGImages' / 'instances_val.json') is None
    assert conversion_hint(tree / 'gone' / 'annotations' / 'instances_val.json') is None


def test_the_tool_prints_the_report(tree, capsys):
    names = tree / 'names.txt'
    # Bug: the mark that Windows' editors put before UTF-8 as a part of the first name.
    names.write_text('\ufeff' + '\r\n'.join(CLASSES) + '\r\n\r\n', encoding='utf-8')
    call_tool(TOOL, tree, '--classes', names, '--splits', 'train', '--out', tree / 'new')
    out = capsys.readouterr().out
    assert 'train: 4 images (0 empty)' in out
    assert out.count('\n') == len(CLASSES) + 3
    assert (tree / 'new' / 'instances_train.json').is_file()


def test_the_tool_exits_with_one_line_for_each_problem(tree):
    for name in ('train_000001', 'val_000002'):
        (tree / 'SegmentationObject' / f'{name}.png').unlink()
    with pytest.raises(SystemExit) as stop:
        call_tool(TOOL, tree, '--classes', *CLASSES)
    lines = stop.value.code.splitlines()
    assert len(lines) == 2
    assert all(line.startswith('error: ') and '.png: missing: ' in line for line in lines)
    assert not (tree / 'annotations').exists()


@pytest.mark.parametrize('suffix', ['.tif', '.TIFF', '.webp', '.bmp'])
def test_images_of_any_format_are_converted(tmp_path, suffix):
    # Bug: XML files whose images are TIFF or WebP were left out, all of them without an error.
    root = write_tree(tmp_path / 'v', [('cat', False, (2, 2, 6, 6))])
    (root / 'JPEGImages' / 'one.jpg').unlink()
    Image.new('RGB', (12, 8)).save(root / 'JPEGImages' / f'one{suffix}')
    (report,) = convert_voc(root, ['all'], boxes=True)
    assert (report.images, sum(report.counts)) == (1, 1)


def test_annotations_without_an_image_are_told(tmp_path):
    # Bug: they were left out without a word; a tree without images gave a file without any.
    root = write_tree(tmp_path / 'v', [('cat', False, (2, 2, 6, 6))])
    write_xml(root / 'Annotations' / 'two.xml', (12, 8), [])
    (report,) = convert_voc(root, ['all'], boxes=True)
    assert '1 annotation files without an image, which are left out: two' in report.warnings
    (root / 'JPEGImages' / 'one.jpg').unlink()
    with pytest.raises(DataError, match='Annotations: no annotation file here has an image'):
        convert_voc(root, ['all'], boxes=True)
