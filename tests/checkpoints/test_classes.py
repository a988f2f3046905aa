"""Checkpoints know their classes: another order is mapped by name, other names are refused."""

import pytest
import torch
from mmengine.structures import InstanceData
from torch import nn

from mmws.checkpoints import Checkpoint, CheckpointMismatchError
from mmws.checkpoints.classes import (
    class_order,
    classes_of,
    map_predictions,
    require_same_classes,
    require_weights,
)


def checkpoint(classes, weights=None, **meta):
    meta = {'dataset_meta': {'classes': classes}, **meta} if classes else meta
    return Checkpoint(weights or {}, meta, 'some.pth')


def test_names_of_both_versions_of_mmdetection_are_read():
    assert classes_of(checkpoint(['a', 'b'])) == ('a', 'b')
    assert classes_of(checkpoint(None, CLASSES=('a', 'b'))) == ('a', 'b')
    assert classes_of(checkpoint(None)) is None
    assert classes_of(checkpoint('ab')) is None  # a text is no list of names


def test_order_maps_each_label_to_the_label_of_its_name():
    trained, data = ('rbc', 'wbc', 'platelet'), ('wbc', 'rbc', 'platelet')
    order = class_order(checkpoint(trained), data)
    assert [data[i] for i in order] == list(trained)
    assert class_order(checkpoint(trained), trained) is None
    assert class_order(checkpoint(None), data) is None


@pytest.mark.parametrize('classes', [('rbc', 'ship'), ('rbc',), ('rbc', 'wbc', 'x')])
def test_other_names_are_refused(classes):
    # Bug: a ring is called a square, and the exit code is 0.
    with pytest.raises(CheckpointMismatchError, match=r'some\.pth was trained on other classes'):
        class_order(checkpoint(('rbc', 'wbc')), classes)


def test_a_training_goes_on_in_the_same_order_alone():
    require_same_classes(checkpoint(('a', 'b')), ['a', 'b'])
    with pytest.raises(CheckpointMismatchError, match='in the order a, b'):
        require_same_classes(checkpoint(('a', 'b')), ('b', 'a'))


class _Sample:
    def __init__(self, labels):
        self.pred_instances = InstanceData(labels=torch.tensor(labels))


class _Detector(nn.Module):
    def __init__(self):
        super().__init__()
        self.head = nn.Linear(2, 3)

    def forward(self, labels, mode='predict'):
        return [_Sample(labels)] if mode == 'predict' else {'loss': torch.zeros(())}


def test_predictions_get_the_labels_of_the_data():
    detector = _Detector()
    map_predictions(detector, checkpoint(('a', 'b', 'c')), ('c', 'a', 'b'))
    (sample,) = detector([0, 2, 1, 0])
    assert sample.pred_instances.labels.tolist() == [1, 0, 2, 1]
    assert detector([], mode='loss') == {'loss': torch.zeros(())}


@pytest.mark.parametrize('name', ['pred_sem_seg', 'pred_panoptic_seg', 'pred_label'])
def test_predictions_that_are_not_mapped_are_refused(name):
    # Bug: the log said that predictions are mapped, but maps and labels of images kept the numbers
    # of the checkpoint's classes.
    class Segmenter(_Detector):
        def forward(self, labels):
            (sample,) = super().forward(labels)
            setattr(sample, name, torch.tensor(labels))
            return [sample]

    segmenter = Segmenter()
    map_predictions(segmenter, checkpoint(('a', 'b')), ('b', 'a'))
    with pytest.raises(CheckpointMismatchError, match=f'order a, b, but .* {name} of its'):
        segmenter([0, 1])
    same = Segmenter()
    map_predictions(same, checkpoint(('a', 'b')), ('a', 'b'))
    assert getattr(same([0, 1])[0], name).tolist() == [0, 1]


def test_a_parameter_that_would_stay_at_random_is_told():
    # Bug: a checkpoint of a box detector leaves the mask head at random, exit code 0.
    detector = _Detector()
    own = {k: v + 1 for k, v in detector.state_dict().items()}
    require_weights(detector, checkpoint(None, {**own, 'mask_head.weight': torch.zeros(1)}))
    assert torch.equal(detector.head.weight, own['head.weight'])
    for weights in ({'head.weight': own['head.weight']}, {**own, 'head.bias': torch.zeros(7)}):
        with pytest.raises(CheckpointMismatchError, match=r'some\.pth is of another model.*head'):
            require_weights(detector, checkpoint(None, weights))
