"""A study trains on data of the user's by ``--data``."""

from __future__ import annotations

import re

import numpy as np
import pytest
from PIL import Image

from mmws.config import load_config
from mmws.study import read_spec, with_data
from tests.helpers.digits_config import small_digits
from tests.helpers.paths import CONFIGS


def write_classes(folder, names):
    for number, name in enumerate(names):
        (folder / name).mkdir(parents=True)
        pixels = np.full((8, 8, 3), 40 * number, np.uint8)
        Image.fromarray(pixels).save(folder / name / 'a.png')


def test_a_task_of_classification_takes_a_folder_for_each_class(tmp_path):
    # Bug: the classifier keeps ten outputs, or the test images are those of training.
    for split in ('train', 'test'):
        write_classes(tmp_path / 'data' / split, ('cat', 'dog', 'owl'))
    spec = with_data(
        read_spec(CONFIGS / 'study' / 'cifar10.py'), tmp_path / 'data', tmp_path / 'out'
    )
    cfg = load_config(spec.tasks['photographs'].config)
    assert cfg.model.num_classes == 3
    assert cfg.train_dataloader.dataset.data_root == str(tmp_path / 'data' / 'train')
    assert cfg.val_dataloader.dataset.data_root == str(tmp_path / 'data' / 'test')
    assert spec.data == tmp_path / 'data'


def test_a_task_of_detection_takes_what_new_config_recognizes(tmp_path):
    # Bug: the study trains on the data set of the config instead, or with its number of classes.
    small_digits(tmp_path / 'data', 2, 1)
    spec = with_data(
        read_spec(CONFIGS / 'study' / 'nuclei.py'), tmp_path / 'data', tmp_path / 'out'
    )
    cfg = load_config(spec.tasks['nuclei'].config)
    assert cfg.model.roi_head.bbox_head.num_classes == len(cfg.metainfo.classes)
    assert cfg.model.backbone.norm_cfg.type == 'BN'
    assert str(tmp_path / 'data') in cfg.train_dataloader.dataset.data_root


@pytest.mark.parametrize(
    ('splits', 'error', 'message'),
    [
        ({'train': ['cat', 'dog'], 'test': ['cat', 'owl']}, ValueError, 'other classes: dog, owl'),
        ({'test': ['cat']}, FileNotFoundError, 'has no folder train'),
        ({'train': ['cat', 'dog']}, FileNotFoundError, 'test'),
    ],
)
def test_folders_that_do_not_suit_are_refused(tmp_path, splits, error, message):
    # Bug: labels of training and test are numbered differently, and accuracy is chance.
    for split, names in splits.items():
        write_classes(tmp_path / 'data' / split, names)
    spec = read_spec(CONFIGS / 'study' / 'cifar10.py')
    with pytest.raises(error, match=re.escape(message)):
        with_data(spec, tmp_path / 'data', tmp_path / 'out')


def test_a_form_with_data_of_its_own_is_refused(tmp_path):
    # Bug: one form trains on other data than its rivals.
    small_digits(tmp_path / 'data', 2, 1)
    spec = read_spec(CONFIGS / 'study' / 'pretrained.py')
    with pytest.raises(ValueError, match='has a config'):
        with_data(spec, tmp_path / 'data', tmp_path / 'out')
