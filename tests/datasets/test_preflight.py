import json

import pytest
from mmengine.config import Config

from mmws.datasets.preflight import check_data


@pytest.fixture
def root(tmp_path):
    (tmp_path / 'train').mkdir()
    images = [{'id': i, 'file_name': f'{i:03d} "ü".jpg'} for i in range(40)]
    for image in images:
        (tmp_path / 'train' / image['file_name']).touch()
    content = {'images': images, 'annotations': [], 'categories': []}
    (tmp_path / 'train.json').write_text(json.dumps(content))
    return tmp_path


def coco(root, **changes):
    return {
        'type': 'CocoDataset',
        'data_root': str(root),
        'ann_file': 'train.json',
        'data_prefix': {'img': 'train/'},
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
    with pytest.raises(FileNotFoundError) as error:
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
    with pytest.raises(ValueError, match=r'train\.json is incomplete'):
        check_data(config(coco(root)))


def test_relative_paths_are_told_absolute(root, monkeypatch):
    monkeypatch.chdir(root)
    with pytest.raises(FileNotFoundError, match=str(root / 'data' / 'train.json')):
        check_data(config(coco('data')))


def test_absolute_path_does_not_follow_data_root(root):
    # MMEngine leaves absolute paths alone, so the fix is not data_root.
    gone = str(root / 'gone.json')
    with pytest.raises(FileNotFoundError, match=r'train_dataloader\.dataset\.ann_file='):
        check_data(config(coco('/elsewhere', ann_file=gone)))


def test_finds_an_image_missing_far_into_the_file(root):
    # Half of the data copied: the sample must not be taken from the beginning only.
    images = [{'id': i, 'file_name': f'{i % 40:03d} "ü".jpg'} for i in range(20_000)]
    for image in images[10_000:]:
        image['file_name'] = 'gone.jpg'
    (root / 'train.json').write_text(json.dumps({'images': images}))
    with pytest.raises(FileNotFoundError, match='gone'):
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
    with pytest.raises(FileNotFoundError, match=f'train_dataloader.{key}.data_root='):
        check_data(config(wrap(coco(root / 'no'))))


def test_evaluator_has_its_own_annotation_file(root):
    # Found after the first epoch otherwise.
    cfg = config(coco(root), val_evaluator=[{'type': 'CocoMetric', 'ann_file': 'no/val.json'}])
    with pytest.raises(FileNotFoundError, match=r'^val: .*val_evaluator\.0\.ann_file='):
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
    with pytest.raises(FileNotFoundError, match=str(voc / 'JPEGImages' / '000001.jpg')):
        check_data(config(dataset))
    (voc / 'JPEGImages' / '000001.jpg').touch()
    check_data(config(dataset))


def test_other_data_sets_make_no_claim_about_images(root):
    # Panoptic annotations name segmentation maps, LVIS derives names from URLs.
    check_data(config(coco(root, type='CocoPanopticDataset', data_prefix={'img': ''})))


def test_path_of_wrong_type(root):
    with pytest.raises(ValueError, match=r'ann_file must be a path'):
        check_data(config(coco(root, ann_file=['train.json'])))
