import json

import pytest
from mmengine.config import Config
from PIL import Image

from mmws.data.errors import DataError
from mmws.data.preflight import check_data, find_problems, head_classes

CLASSES = ('cat', 'dog')
ANNOTATION = {
    'id': 1, 'image_id': 1, 'category_id': 7, 'bbox': [2, 2, 6, 4], 'area': 24, 'iscrowd': 0,
}  # fmt: skip
CATEGORIES = [{'id': 7, 'name': 'cat'}, {'id': 3, 'name': 'dog'}]


@pytest.fixture
def root(tmp_path):
    (tmp_path / 'train').mkdir()
    content = {'images': images(40), 'annotations': [ANNOTATION], 'categories': CATEGORIES}
    for image in content['images']:
        Image.new('RGB', (16, 8)).save(tmp_path / 'train' / image['file_name'])
    (tmp_path / 'train.json').write_text(json.dumps(content))
    return tmp_path


def images(count):
    """Return entries of images, of which 40 files exist."""
    return [
        {'id': i, 'file_name': f'{i % 40:03d} "ü".jpg', 'width': 16, 'height': 8}
        for i in range(count)
    ]


def coco(root, **changes):
    return {
        'type': 'CocoDataset',
        'data_root': str(root),
        'ann_file': 'train.json',
        'data_prefix': {'img': 'train/'},
        'metainfo': {'classes': CLASSES},
        **changes,
    }


def config(dataset, **changes):
    return Config({'train_dataloader': {'dataset': dataset}, **changes})


def test_accepts_complete_data(root):
    evaluator = {'type': 'CocoMetric', 'ann_file': str(root / 'train.json')}
    loader = {'dataset': coco(root)}
    cfg = config(coco(root), val_dataloader=loader, val_evaluator=evaluator)
    check_data(cfg)


def test_skips_splits_the_config_lacks(root):
    check_data(
        config(coco(root), val_dataloader=None, val_evaluator=None), ('train', 'val', 'test')
    )


# Found in the first minute of training otherwise, after the model was built on each GPU.
@pytest.mark.parametrize(
    ('changes', 'path', 'fix'),
    [
        ({'ann_file': 'no.json'}, 'no.json', 'train_dataloader.dataset.data_root='),
        ({'data_prefix': {'img': 'no/'}}, 'no', 'train_dataloader.dataset.data_root='),
        ({'data_prefix': {'img': ''}}, '000 "ü".jpg', 'train_dataloader.dataset.data_root='),
    ],
)
def test_names_what_is_missing(root, changes, path, fix):
    with pytest.raises(DataError) as error:
        check_data(config(coco(root, **changes)))
    message = str(error.value)
    assert message.startswith('train: ')
    assert str(root / path) in message
    assert fix in message
    assert '\n' not in message


def test_an_annotation_file_that_ends_too_early_is_named(root):
    # Bug: a download broke off, and every process prints json's traceback minutes later.
    text = (root / 'train.json').read_text()
    (root / 'train.json').write_text(text[: len(text) // 2])
    with pytest.raises(DataError, match=r'train\.json is incomplete'):
        check_data(config(coco(root)))


def test_relative_paths_are_told_absolute(root, monkeypatch):
    monkeypatch.chdir(root)
    with pytest.raises(DataError, match=str(root / 'train' / 'gone.json')):
        check_data(config(coco('train', ann_file='gone.json', data_prefix={})))


def test_absolute_path_does_not_follow_data_root(root):
    # MMEngine leaves absolute paths alone, so the fix is not data_root.
    gone = str(root / 'gone.json')
    with pytest.raises(DataError, match=r'train_dataloader\.dataset\.ann_file='):
        check_data(config(coco('/elsewhere', ann_file=gone)))


def test_finds_an_image_missing_far_into_the_file(root):
    # Half of the data copied: the sample must not be taken from the beginning only.
    entries = images(20_000)
    for image in entries[10_000:]:
        image['file_name'] = 'gone.jpg'
    (root / 'train.json').write_text(json.dumps({'images': entries}))
    with pytest.raises(DataError, match=r'image that a file_name in .*train\.json names, .*gone'):
        check_data(config(coco(root)))


@pytest.mark.parametrize(
    ('wrap', 'key'),
    [
        (lambda d: {'type': 'RepeatDataset', 'times': 2, 'dataset': d}, 'dataset.dataset'),
        (lambda d: {'type': 'ConcatDataset', 'datasets': [d]}, 'dataset.datasets.0'),
    ],
)
def test_descends_into_wrappers(root, wrap, key):
    check_data(config(wrap(coco(root))))
    with pytest.raises(DataError, match=f'train_dataloader.{key}.data_root='):
        check_data(config(wrap(coco(root / 'no'))))


def test_evaluator_has_its_own_annotation_file(root):
    # Found after the first epoch otherwise.
    cfg = config(coco(root), val_evaluator=[{'type': 'CocoMetric', 'ann_file': 'no/val.json'}])
    with pytest.raises(DataError, match=r'^val: .*val_evaluator\.0\.ann_file='):
        check_data(cfg)


@pytest.mark.parametrize(
    'dataset',
    [
        {'type': 'CocoDataset', 'data_root': 's3://bucket/', 'ann_file': 'a.json'},
        coco('/no', backend_args={'backend': 'petrel'}),
    ],
)
def test_leaves_remote_data_alone(dataset):
    check_data(config(dataset))


def test_voc(tmp_path):
    voc = tmp_path / 'VOC2007'
    (voc / 'JPEGImages').mkdir(parents=True)
    (voc / 'list.txt').write_text('000001\n')
    dataset = {
        'type': 'VOCDataset',
        'data_root': str(tmp_path),
        'ann_file': 'VOC2007/list.txt',
        'data_prefix': {'sub_data_root': 'VOC2007/'},
    }
    with pytest.raises(DataError, match=str(voc / 'JPEGImages' / '000001.jpg')):
        check_data(config(dataset))
    (voc / 'JPEGImages' / '000001.jpg').touch()
    check_data(config(dataset))


def test_voc_names_with_spaces_stay_whole(tmp_path):
    # Bug: a name with a space was torn into two, of which neither is an image.
    (tmp_path / 'VOC' / 'JPEGImages').mkdir(parents=True)
    (tmp_path / 'VOC' / 'JPEGImages' / 'my cat.jpg').touch()
    (tmp_path / 'list.txt').write_text('my cat\n')
    dataset = dict(
        type='VOCDataset', data_root=str(tmp_path), ann_file='list.txt',
        data_prefix=dict(sub_data_root='VOC/'),
    )  # fmt: skip
    assert find_problems(config(dataset)) == []


def test_other_data_sets_make_no_claim_about_images(root):
    # Panoptic annotations name segmentation maps, LVIS derives names from URLs.
    check_data(config(coco(root, type='CocoPanopticDataset', data_prefix={'img': ''})))


def test_path_of_wrong_type(root):
    with pytest.raises(DataError, match=r'ann_file must be a path'):
        check_data(config(coco(root, ann_file=['train.json'])))


def test_all_problems_are_told_at_once_and_each_once(root, monkeypatch):
    # Bug: the user mends one path a run, and trains into the next missing one hours later.
    monkeypatch.chdir(root)
    dataset = coco(root, ann_file='no.json', data_prefix={'img': 'no/'})
    cfg = config(
        dataset,
        val_dataloader={'dataset': coco('gone')},
        val_evaluator={'ann_file': 'gone/train.json'},
        test_dataloader={'dataset': coco('gone')},
        model={'bbox_head': {'num_classes': 3}},
    )
    problems = find_problems(cfg, ('train', 'val', 'test'))
    # Without its root, a data set is one line, in whatever split; heads are told once.
    found = [(line.split(':')[0], line.split(' does')[0].split()[-1]) for line in problems]
    assert found[:2] == [('train', f'{root}/no.json'), ('train', f'{root}/no')]
    assert 'model.bbox_head.num_classes is 3' in problems[2]
    assert [(split, path) for split, path in found[3:5]] == [
        ('val', f'{root}/gone'),
        ('val', f'{root}/gone/train.json'),
    ]
    assert [line.split(':')[0] for line in problems[5:]] == ['test']  # its own option to set


def test_the_command_that_downloads_is_named(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    dataset = coco('data/coco/', ann_file='annotations/instances_train2017.json')
    (problem,) = find_problems(config(dataset), ['train'])
    assert 'run `python tools/download_dataset.py coco2017 --root data`, or pass' in problem


def with_categories(root, names, ids=None, first=False):
    content = json.loads((root / 'train.json').read_text())
    categories = [
        {'id': i, 'name': name, 'extra': [{}]} for i, name in zip(ids or range(1, 99), names)
    ]
    # A word, a key of other things, and a list of something else come before and after.
    noise = {'info': {'description': 'its "categories": []', 'categories': [1]}, 'categories': None}
    content = {**noise, **content, 'categories': categories, 'more': {'categories': ['x']}}
    content['annotations'] = [{**ANNOTATION, 'category_id': categories[0]['id']}]
    if first:
        content = {'categories': categories, **content}
    (root / 'train.json').write_text(json.dumps(content, indent=1))


@pytest.mark.parametrize('first', [True, False])
def test_classes_that_the_annotation_file_lacks_are_named(root, first):
    # Bug: MMDetection drops their annotations, and numbers all classes after them anew.
    with_categories(root, ['dog', 'Cat', 'bird'], first=first)
    with pytest.raises(DataError, match=r'1 of 2 classes are not among the 3 categories of') as e:
        check_data(config(coco(root)))
    assert '(cat; it has dog, Cat, bird): set train_dataloader.dataset.metainfo' in str(e.value)
    with_categories(root, ['bird', 'cat', 'fish', 'dog'], first=first)
    check_data(config(coco(root)))  # some of the categories


def test_classes_in_another_order_than_the_categories_are_told(root):
    # Bug: the per-class table and the drawn names are those of other classes.
    with_categories(root, ['dog', 'cat'], ids=[2, 1])
    with pytest.raises(DataError, match='in another order than the categories'):
        check_data(config(coco(root)))
    check_data(config(coco(root, type='Objects365V1Dataset')))  # it sorts by id


def test_without_classes_of_its_own_a_data_set_has_its_types(root):
    # Bug: own data train with COCO's 80 names, of which they have two.
    pytest.importorskip('mmdet.datasets', exc_type=ImportError)
    with pytest.raises(DataError, match='78 of 80 classes are not among the 2 categories'):
        check_data(config(coco(root, metainfo=None)))


def test_heads_with_another_number_of_classes_are_named(root):
    # Bug: an index error on the GPU, or a head with 77 classes too many.
    model = {
        'backbone': {'num_classes': 1000},
        'rpn_head': {'num_classes': 1},
        'roi_head': {
            'bbox_head': [{'num_classes': 2}, {'num_classes': 80}],
            'mask_head': {'num_classes': 2},
            'semantic_head': {'num_classes': 183},
        },
    }
    keys = ['bbox_head.0', 'bbox_head.1', 'mask_head']
    assert [key for key, _ in head_classes(model)] == [
        f'model.roi_head.{key}.num_classes' for key in keys
    ]
    (problem,) = find_problems(config(coco(root), model=model), ['train'])
    assert 'bbox_head.1.num_classes is 80 while the data have 2 classes (cat, dog)' in problem
    assert 'pass `cfg_options` model.roi_head.bbox_head.1.num_classes=2' in problem
