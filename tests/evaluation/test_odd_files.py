"""Annotation files that pycocotools reads, but that break assumptions about ids and shapes."""

import copy

import numpy as np
import pytest

import mmws
from mmws.evaluation import coco_eval, evaluate_coco, ground_truth
from mmws.evaluation.ground_truth import countable
from tests.helpers.detection_cases import as_coco, build, compute, ids_of, random_case, write


@pytest.fixture(params=['faster', 'pycocotools'])
def library(request, monkeypatch):
    if request.param == 'faster':
        pytest.importorskip('faster_coco_eval')
    else:
        monkeypatch.setattr(coco_eval, 'has_faster_coco_eval', lambda: False)
    return request.param


def stats(data, predictions, iou_type, cat_ids=None):
    result = evaluate_coco(
        as_coco(data), copy.deepcopy(predictions), iou_type, cat_ids=cat_ids or ids_of(data)
    )
    return result.stats


def numbered_from_0(data):
    for annotation in data['annotations']:
        annotation['id'] -= 1


def merged_without_new_ids(data):
    half = len(data['annotations']) // 2
    for i, annotation in enumerate(data['annotations']):
        annotation['id'] = i % half + 1


def text_ids(data):
    for annotation in data['annotations']:
        annotation['id'] = f'annotation-{annotation["id"]}'


def null_ids(data):
    data['annotations'][0]['id'] = None


def of_images_that_are_not_listed(data):
    # Without a size and with shapes of every kind: nothing but their image id may be looked at.
    for n, shape in enumerate(({}, {'segmentation': []}, {'segmentation': [[0, 0, 9, 0, 9, 9]]})):
        other = {'id': 100 + n, 'image_id': 5000 + n, 'iscrowd': 0, 'area': 4, 'bbox': [0, 0, 2, 2]}
        data['annotations'].insert(n, {**other, 'category_id': ids_of(data)[0], **shape})


def of_another_class_without_shape(data):
    # A file of all classes, for a detector of some: boxes of persons without a mask, say.
    data['categories'].append({'id': 77, 'name': 'person'})
    image = data['images'][0]['id']
    for n, shape in enumerate(({}, {'segmentation': [], 'bbox': []}, {'bbox': None})):
        data['annotations'].append(
            {'id': 100 + n, 'image_id': image, 'category_id': 77, 'iscrowd': 0, 'area': 1, **shape}
        )


def images_listed_twice(data):
    data['images'] += copy.deepcopy(data['images'][:2])


@pytest.mark.parametrize('iou_type', ['bbox', 'segm'])
@pytest.mark.parametrize(
    'edit',
    [
        numbered_from_0,
        merged_without_new_ids,
        text_ids,
        null_ids,
        of_images_that_are_not_listed,
        of_another_class_without_shape,
        images_listed_twice,
    ],
)
def test_odd_files_count_like_the_same_file_without_the_oddity(edit, iou_type, library):
    # Bugs: KeyError or RuntimeError where pycocotools gives numbers; found objects counted as
    # missed (id 0); one annotation counted for several (ids twice).
    data, predictions = random_case(11, images=6)
    assert len(data['annotations']) > 8
    expected = stats(data, predictions, iou_type)
    assert 0 < expected[0] < 1
    odd = copy.deepcopy(data)
    edit(odd)
    np.testing.assert_allclose(stats(odd, predictions, iou_type, ids_of(data)), expected)


def test_masks_need_no_boxes(library):
    # Files of masks alone have no boxes, or empty ones.
    data, predictions = random_case(11, images=6)
    expected = stats(data, predictions, 'segm')
    for annotation, box in zip(data['annotations'], ([], None, [0, 0])):
        annotation['bbox'] = box
    del data['annotations'][3]['bbox']
    np.testing.assert_allclose(stats(data, predictions, 'segm'), expected)


@pytest.mark.parametrize('iou_type', ['bbox', 'segm'])
def test_a_file_without_annotations_has_no_numbers(iou_type, library):
    # Files of test images have no such list at all. COCO writes -1 for "no ground truth".
    data, predictions = random_case(11, images=6)
    del data['annotations']
    np.testing.assert_array_equal(stats(data, predictions, iou_type), -1)


def test_the_metric_changes_the_annotations_once_and_says_so(tmp_path):
    # Bug: the log repeats the warning for boxes and masks at each evaluation.
    data, predictions = random_case(11, images=6)
    expected = compute(build(mmws.CocoMetric, write(data, tmp_path), data), predictions)
    numbered_from_0(data)
    of_images_that_are_not_listed(data)
    messages = []
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(ground_truth, '_say', messages.append)
        metric = build(mmws.CocoMetric, write(data, tmp_path), data)
        for _ in range(2):
            assert compute(metric, predictions) == expected
    assert len(messages) == 2
    assert '3 annotations are of images' in messages[0]
    assert 'image 5000' in messages[0]
    assert 'id 0' in messages[1]


def test_ordinary_annotations_are_not_copied():
    # A copy at each evaluation would cost seconds for COCO.
    data, _ = random_case(11, images=6)
    coco = as_coco(data)
    assert countable(coco) is coco
