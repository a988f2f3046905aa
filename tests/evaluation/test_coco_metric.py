import contextlib
import copy
import io
import json
import math
import sys

import numpy as np
import pytest
import torch
from mmdet.evaluation import CocoMetric as MMDetCocoMetric
from mmengine.evaluator import Evaluator
from mmengine.registry import METRICS
from pycocotools import mask as mask_utils

import mmws
from mmws.evaluation import coco_eval, coco_metric, evaluate_coco
from tests.helpers.detection_cases import as_coco, build, compute, ids_of, random_case, write

ALL = ['bbox', 'segm']
ITEMS = [
    'mAP', 'mAP_50', 'mAP_75', 'mAP_s', 'mAP_m', 'mAP_l',
    'AR@100', 'AR@300', 'AR@1000', 'AR_s@1000', 'AR_m@1000', 'AR_l@1000',
]  # fmt: skip


@contextlib.contextmanager
def only_pycocotools(monkeypatch):
    with monkeypatch.context() as patch:
        patch.setattr(coco_eval, 'has_faster_coco_eval', lambda: False)
        yield


@pytest.fixture
def faster(monkeypatch):
    """Let the faster path count how often it was taken."""
    pytest.importorskip('faster_coco_eval')
    calls = []
    evaluate = coco_eval._evaluate_faster

    def count(evaluation, detections):
        calls.append(evaluation)
        evaluate(evaluation, detections)

    monkeypatch.setattr(coco_eval, '_evaluate_faster', count)
    return calls


def assert_same_numbers(data, predictions, monkeypatch, **options):
    for iou_type in ALL:
        results = []
        for context in (contextlib.nullcontext(), only_pycocotools(monkeypatch)):
            with context:
                results.append(
                    evaluate_coco(
                        as_coco(data), predictions, iou_type, cat_ids=ids_of(data), **options
                    )
                )
        one, other = results
        np.testing.assert_allclose(one.stats, other.stats, rtol=0, atol=1e-9)
        np.testing.assert_allclose(one.precision, other.precision, rtol=0, atol=1e-9)
        np.testing.assert_allclose(one.recall, other.recall, rtol=0, atol=1e-9)
        assert one.cat_ids == other.cat_ids


@pytest.mark.parametrize('seed', range(40))
def test_both_libraries_count_alike(seed, faster, monkeypatch):
    # Bugs: unstable sorting of tied scores, crowds matched once only, area ranges or limits of
    # detections applied in another order.
    data, predictions = random_case(seed)
    max_dets = [(1, 10, 100), (100, 300, 1000), (1, 2, 3)][seed % 3]
    assert_same_numbers(data, predictions, monkeypatch, max_dets=max_dets)
    assert len(faster) == 2


def no_detections(data, predictions):
    for prediction in predictions:
        for key in ('bboxes', 'scores', 'labels', 'masks'):
            prediction[key] = prediction[key][:0]


def no_ground_truth(data, predictions):
    data['annotations'] = []


def one_class_without_ground_truth(data, predictions):
    gone = data['categories'][0]['id']
    data['annotations'] = [a for a in data['annotations'] if a['category_id'] != gone]


def only_crowds(data, predictions):
    for annotation in data['annotations']:
        annotation['iscrowd'] = 1


def tied_scores(data, predictions):
    for prediction in predictions:
        prediction['scores'][:] = 0.5


def zero_area_boxes(data, predictions):
    for prediction in predictions:
        prediction['bboxes'][::2, 2:] = prediction['bboxes'][::2, :2]


def inverted_boxes(data, predictions):
    for prediction in predictions:
        prediction['bboxes'][::2] = prediction['bboxes'][::2, [2, 3, 0, 1]]


def an_image_not_predicted(data, predictions):
    del predictions[0]


def polygons(data, predictions):
    for annotation in data['annotations']:
        x, y, w, h = annotation['bbox']
        annotation['segmentation'] = [[x, y, x + w, y, x + w, y + h], [x, y, x + w, y, x, y + h]]


def annotation_id_zero(data, predictions):
    # Which pycocotools takes for no match.
    data['annotations'][0]['id'] = 0


def scores_of_masks(data, predictions):
    for prediction in predictions:
        prediction['mask_scores'] = prediction['scores'][::-1].copy()


@pytest.mark.parametrize(
    'edit',
    [
        no_detections, no_ground_truth, one_class_without_ground_truth, only_crowds, tied_scores,
        zero_area_boxes, inverted_boxes, an_image_not_predicted, polygons, annotation_id_zero,
        scores_of_masks,
    ],
)  # fmt: skip
def test_both_libraries_count_degenerate_data_alike(edit, faster, monkeypatch):
    data, predictions = random_case(7, images=5)
    edit(data, predictions)
    assert_same_numbers(data, predictions, monkeypatch, max_dets=(1, 2, 5))
    assert len(faster) == 2


@pytest.mark.parametrize('iou_thrs', [0.5, [0.3, 0.75], [1.0]])
def test_both_libraries_take_other_thresholds(iou_thrs, faster, monkeypatch):
    data, predictions = random_case(1)
    assert_same_numbers(data, predictions, monkeypatch, iou_thrs=iou_thrs)


def negative_ids(data, predictions):
    for annotation in data['annotations']:
        annotation['id'] *= -1


def text_ids(data, predictions):
    for entry in (*data['annotations'], *predictions):
        key = 'image_id' if 'image_id' in entry else 'img_id'
        entry[key] = str(entry[key])
    for image in data['images']:
        image['id'] = str(image['id'])


def nan_score(data, predictions):
    predictions[0]['scores'][0] = math.nan


def nan_box(data, predictions):
    predictions[0]['bboxes'][0, 2] = math.nan


@pytest.mark.parametrize('edit', [negative_ids, text_ids, nan_score, nan_box])
def test_what_the_libraries_count_differently_goes_to_pycocotools(edit, faster, monkeypatch):
    # Bugs: a crash of the faster library, or other numbers than pycocotools'.
    data, predictions = random_case(7, images=5)
    assert all(len(prediction['scores']) for prediction in predictions[:1])
    edit(data, predictions)
    evaluate_coco(as_coco(data), predictions, 'bbox', cat_ids=ids_of(data))
    assert not faster


def test_a_prediction_of_an_unknown_image_is_refused():
    data, predictions = random_case(0)
    predictions[0]['img_id'] = 5000
    with pytest.raises(ValueError, match='image 5000, which is not annotated'):
        evaluate_coco(as_coco(data), predictions, 'bbox', cat_ids=ids_of(data))


# ---- the metric


def sorted_categories(data):
    """Return ``data`` with ids of the categories in the order of the file."""
    data['categories'].sort(key=lambda category: category['id'])
    return data


@pytest.mark.parametrize('options', [{}, {'classwise': True}, {'metric_items': ITEMS}])
def test_metrics_are_those_of_mmdet(options, tmp_path):
    data, predictions = random_case(11, images=6)
    path = write(sorted_categories(data), tmp_path)
    expected = compute(build(MMDetCocoMetric, path, data, **options), predictions)
    found = compute(build(mmws.CocoMetric, path, data, **options), predictions)
    assert list(found) == list(expected)
    np.testing.assert_array_equal(list(found.values()), list(expected.values()))


def test_classes_are_named_right_when_their_ids_are_in_no_order(tmp_path):
    # Bug of MMDetection: precisions are ordered by category id, names by the file.
    data, predictions = random_case(11, images=6)
    sorted_data = sorted_categories(copy.deepcopy(data))
    assert ids_of(sorted_data) != ids_of(data)
    label_in_sorted = [ids_of(sorted_data).index(i) for i in ids_of(data)]
    of_sorted = copy.deepcopy(predictions)
    for prediction in of_sorted:
        prediction['labels'] = np.array([label_in_sorted[i] for i in prediction['labels']], int)
    found = compute(
        build(mmws.CocoMetric, write(data, tmp_path), data, classwise=True), predictions
    )
    path = write(sorted_data, tmp_path)
    expected = compute(build(mmws.CocoMetric, path, sorted_data, classwise=True), of_sorted)
    assert found == pytest.approx(expected, nan_ok=True)


def test_nothing_detected_is_zero_not_missing(tmp_path):
    # Bug: MMDetection returns no metric, and whatever waits for one, such as save_best, fails.
    data, predictions = random_case(7, images=5)
    no_detections(data, predictions)
    found = compute(build(mmws.CocoMetric, write(data, tmp_path), data), predictions)
    assert found['bbox_mAP'] == found['segm_mAP'] == 0


def test_configs_name_the_metric_by_scope(tmp_path):
    data, predictions = random_case(2)
    config = {
        'type': 'mmws.CocoMetric',
        'ann_file': write(data, tmp_path),
        'metric': ALL,
        'outfile_prefix': str(tmp_path / 'out'),
    }
    evaluator = Evaluator(METRICS.build(config))
    evaluator.dataset_meta = {'classes': [c['name'] for c in data['categories']]}
    samples = [
        {
            'img_id': p['img_id'],
            'ori_shape': (1, 1),
            'pred_instances': {
                **{key: torch.as_tensor(p[key]) for key in ('bboxes', 'scores', 'labels')},
                'masks': p['masks'],
            },
        }
        for p in predictions
    ]
    evaluator.process(samples)
    with contextlib.redirect_stdout(io.StringIO()):
        metrics = evaluator.evaluate(len(samples))
    assert {'coco/bbox_mAP', 'coco/segm_mAP_75'} <= metrics.keys()
    # The detections are kept where they are asked for, as MMDetection does.
    assert len(json.loads((tmp_path / 'out.segm.json').read_text())) == sum(
        len(p['scores']) for p in predictions
    )


def test_annotations_may_come_from_the_data_set():
    data, predictions = random_case(4, crowds=0, ties=0)
    label = {category: i for i, category in enumerate(ids_of(data))}
    results = []
    for p in predictions:
        annotations = [a for a in data['annotations'] if a['image_id'] == p['img_id']]
        instances = []
        for a in annotations:
            x, y, w, h = a['bbox']
            box = [x, y, x + w, y + h]
            instances.append({'bbox': box, 'bbox_label': label[a['category_id']], 'ignore_flag': 0})
        sizes = {'width': 1, 'height': 1, 'img_id': p['img_id']}
        results.append(({**sizes, 'anns': instances}, p))
    metric = mmws.CocoMetric(metric='bbox')
    metric.dataset_meta = {'classes': [c['name'] for c in data['categories']]}
    expected = evaluate_coco(
        as_coco(data), predictions, 'bbox', cat_ids=ids_of(data), max_dets=(100, 300, 1000)
    )
    assert metric.compute_metrics(results)['bbox_mAP'] == round(expected.stats[0], 3)


def test_a_class_that_the_file_lacks_is_named(tmp_path):
    # Bug: an IndexError, or another class's name on a label.
    data, predictions = random_case(2)
    metric = build(mmws.CocoMetric, write(data, tmp_path), data)
    metric.dataset_meta = {'classes': ['unicorn']}
    with pytest.raises(ValueError, match="lacks the class 'unicorn'"):
        compute(metric, predictions)


def test_masks_that_the_model_does_not_predict_are_told(tmp_path):
    data, predictions = random_case(2)
    for prediction in predictions:
        del prediction['masks']
    with pytest.raises(ValueError, match='predicts no masks'):
        compute(build(mmws.CocoMetric, write(data, tmp_path), data), predictions)


def test_curves_and_table(tmp_path, monkeypatch):
    pytest.importorskip('matplotlib')
    lines = []
    monkeypatch.setattr(coco_metric, 'print_log', lambda text, **_: lines.append(text))
    data, predictions = random_case(2)
    path = tmp_path / 'new' / 'pr.png'
    metric = build(
        mmws.CocoMetric, write(data, tmp_path), data, classwise=True, pr_curves=str(path)
    )
    compute(metric, predictions)
    assert path.read_bytes().startswith(b'\x89PNG')
    assert [p.name for p in path.parent.iterdir()] == ['pr.png']
    tables = '\n'.join(lines)
    assert 'bbox by class' in tables
    for category in data['categories']:
        assert tables.count(f'| {category["name"]} ') == 2


def test_curves_without_matplotlib_are_refused_before_training(tmp_path, monkeypatch):
    # Bug: hours of training end in an ImportError at the first evaluation.
    monkeypatch.setitem(sys.modules, 'matplotlib.figure', None)
    data, _ = random_case(2)
    with pytest.raises(ImportError, match='mmws\\[eval\\]'):
        build(mmws.CocoMetric, write(data, tmp_path), data, pr_curves='pr.png')


@pytest.mark.parametrize('name', ['pr', 'pr.txt'])
def test_curves_of_no_picture_format_are_refused_before_training(tmp_path, name):
    # Bug: training ends at its first evaluation, and a draft is left behind.
    pytest.importorskip('matplotlib')
    data, _ = random_case(2)
    with pytest.raises(ValueError, match=f"'{name}': the name must end in that of a picture"):
        build(mmws.CocoMetric, write(data, tmp_path), data, pr_curves=name)


def test_areas_of_more_masks_than_pycocotools_counts():
    """It counts the masks of one call in 8 bits; an image may have more."""
    masks = mask_utils.encode(np.ones((4, 6, 300), np.uint8, order='F'))
    assert coco_eval._areas(masks) == [24.0] * 300
