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


def large_annotation_ids(data):
    for annotation in data['annotations']:
        annotation['id'] += 2**63


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
        large_annotation_ids,
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


@pytest.mark.parametrize(('key', 'offset'), [('image_id', 2**53 + 1), ('category_id', 2**62)])
def test_ids_that_are_no_64_bit_floats_change_no_number(key, offset, library):
    # Bug: a crash of faster-coco-eval, where ids go through 64-bit floats.
    data, predictions = random_case(11, images=6)
    expected = stats(data, predictions, 'bbox')
    listed = data['images' if key == 'image_id' else 'categories']
    for entry in listed:
        entry['id'] += offset
    for annotation in data['annotations']:
        annotation[key] += offset
    for prediction in predictions if key == 'image_id' else ():
        prediction['img_id'] += offset
    np.testing.assert_allclose(stats(data, predictions, 'bbox'), expected)


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


@pytest.mark.parametrize('kind', [mmws.CocoMetric, mmws.VOCMetric])
@pytest.mark.parametrize('annotations', [[], None])
def test_the_metrics_of_a_file_without_annotations_are_no_error(tmp_path, kind, annotations):
    # Bug: KeyError 'annotations'.
    data, predictions = random_case(11, images=6)
    data['annotations'] = annotations
    if annotations is None:
        del data['annotations']
    metric = build(kind, write(data, tmp_path), data, classwise=True)
    assert compute(metric, predictions)['bbox_mAP'] == -1
    assert [score.objects for score in metric.by_class] == [0, 0, 0]


@pytest.mark.parametrize('limits', [(1, 10, 300), (100,), (1, 10, 50, 100)])
def test_limits_for_which_map_is_not_defined_are_refused(tmp_path, limits):
    # Bug: mAP is -1 for a detector that finds everything.
    data, _ = random_case(11)
    with pytest.raises(ValueError, match=r'proposal_nums .* three limits .* with 100 among them'):
        build(mmws.CocoMetric, write(data, tmp_path), data, proposal_nums=limits)
    # Recalls of proposals are given at every limit.
    mmws.CocoMetric(ann_file=write(data, tmp_path), metric='proposal_fast', proposal_nums=limits)


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
