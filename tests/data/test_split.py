"""Splits share no image, keep groups together, and are always the same."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mmws.data.split import split_coco


def data_of(names):
    return {
        'images': [{'id': i, 'file_name': name} for i, name in enumerate(names)],
        'annotations': [{'id': i, 'image_id': i} for i in range(len(names))],
        'categories': [{'id': 1, 'name': 'a'}],
    }


def names_of(part):
    return [image['file_name'] for image in part['images']]


@given(
    st.lists(st.text('abc', min_size=1), min_size=2, max_size=40, unique=True),
    st.floats(0.01, 0.99),
    st.integers(0, 3),
)
def test_a_split_is_a_partition_of_images_and_annotations(names, fraction, seed):
    data = data_of(names)
    train, val = split_coco(data, fraction, seed)
    assert sorted(names_of(train) + names_of(val)) == sorted(names)
    assert names_of(train)
    assert names_of(val)
    assert abs(len(val['images']) - fraction * len(names)) <= 1
    for part in (train, val):
        ids = {image['id'] for image in part['images']}
        assert {a['image_id'] for a in part['annotations']} == ids
        assert part['categories'] == data['categories']


def test_the_order_of_the_file_does_not_matter_but_the_seed_does():
    # Bug: an export in another order validates on images that the last one trained on.
    names = [f'{i}.jpg' for i in range(40)]
    splits = [
        set(names_of(split_coco(data_of(order), 0.25, seed)[1]))
        for order, seed in ((names, 0), (names[::-1], 0), (names, 1))
    ]
    assert splits[0] == splits[1] != splits[2]


@pytest.mark.parametrize('group_by', ['folder', r'^(.*?)/', r'^film\d+'])
def test_groups_stay_together(group_by):
    # Bug: frames of one film on both sides, so that validation measures memory.
    names = [f'film{i}/{j}.jpg' for i in range(6) for j in range(i + 1)]
    train, val = split_coco(data_of(names), 0.3, 0, group_by)
    films = [{name.partition('/')[0] for name in names_of(part)} for part in (train, val)]
    assert not films[0] & films[1]
    assert films[0] | films[1] == {f'film{i}' for i in range(6)}


@pytest.mark.parametrize(
    ('fraction', 'group_by', 'message'),
    [
        (0, None, 'between 0 and 1'),
        (1.0, None, 'between 0 and 1'),
        (0.5, '(', 'is no regular expression'),
        (0.5, 'x', 'does not match a'),
        (0.5, 'folder', 'needs at least 2'),
    ],
)
def test_impossible_splits_are_told(fraction, group_by, message):
    with pytest.raises(ValueError, match=message):
        split_coco(data_of(['a', 'b']), fraction, 0, group_by)
