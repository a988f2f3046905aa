import copy
from types import SimpleNamespace

import pytest
from hypothesis import given
from hypothesis import strategies as st
from mmengine.config import Config, ConfigDict
from torch.utils import _pytree as pytree

from mmws.config.tree import (
    DROP,
    datasets,
    dotted,
    init_cfgs,
    kind,
    rewrite,
    value_at,
    walk,
)

KEYS = st.sampled_from(['type', 'bbox_head', 'num_classes', 'init_cfg', 'x', 7])
LEAVES = st.one_of(st.integers(-3, 3), st.booleans(), st.none(), st.text(max_size=2))


def _nodes(children):
    return st.one_of(
        st.lists(children, max_size=3),
        st.lists(children, max_size=3).map(tuple),
        st.dictionaries(KEYS, children, max_size=3),
    )


TREES = st.recursive(LEAVES, _nodes, max_leaves=12)


def _is_leaf(value):
    return not isinstance(value, (dict, list, tuple))


def _classes(tree):
    return [(path, type(value)) for path, value in walk(tree)]


@given(TREES)
def test_walk_finds_the_leaves_that_pytorch_finds(tree):
    found = [(path, value) for path, value in walk(tree) if _is_leaf(value)]
    expected = [
        (tuple(getattr(key, 'key', getattr(key, 'idx', None)) for key in path), value)
        # None is an inner node without children to PyTorch.
        for path, value in pytree.tree_leaves_with_path(tree, is_leaf=lambda node: node is None)
    ]
    assert found == expected


@given(TREES)
def test_every_path_is_unique_and_leads_to_its_value_after_its_parent(tree):
    paths = [path for path, _ in walk(tree)]
    assert len({*paths}) == len(paths)
    assert all(value_at(tree, path) is value for path, value in walk(tree))
    position = {path: i for i, path in enumerate(paths)}
    assert all(position[path[:-1]] < position[path] for path in paths if path)


@given(TREES, KEYS)
def test_enter_skips_what_is_inside_and_nothing_else(tree, closed):
    asked = []

    def enter(path, value):
        asked.append(value)
        return path[-1:] != (closed,)

    seen = {path for path, _ in walk(tree, enter=enter)}
    assert seen == {path for path, _ in walk(tree) if closed not in path[:-1]}
    assert not any(map(_is_leaf, asked))


@given(TREES, st.tuples(KEYS, KEYS))
def test_the_path_of_the_root_precedes_all_others(tree, start):
    assert [p for p, _ in walk(tree, start)] == [(*start, *p) for p, _ in walk(tree)]
    changed = []
    rewrite(tree, lambda path, value: changed.append(path) or value, start)
    assert {*changed} == {path for path, _ in walk(tree, start)}


@given(TREES)
def test_rewriting_without_a_change_copies_every_container(tree):
    before = copy.deepcopy(tree)
    new = rewrite(tree, lambda _, value: value)
    assert new == tree == before
    assert _classes(new) == _classes(tree)
    # An empty tuple is one object in all of Python.
    mutable = [value for _, value in walk(tree) if isinstance(value, (dict, list))]
    copies = [value for _, value in walk(new) if isinstance(value, (dict, list))]
    assert not any(a is b for a, b in zip(mutable, copies))


@given(TREES)
def test_rewriting_leaves_is_what_pytorch_maps_over_them(tree):
    def change(path, value):
        return repr(value) if _is_leaf(value) else value

    assert rewrite(tree, change) == pytree.tree_map(repr, tree, is_leaf=lambda node: node is None)


@given(TREES, KEYS)
def test_dropped_entries_are_missing_and_all_others_stay(tree, dropped):
    new = rewrite(tree, lambda path, value: DROP if path[-1:] == (dropped,) else value, ('root',))
    kept = [path for path, _ in walk(tree) if dropped not in path]
    if isinstance(dropped, str):  # an index moves when an element before it is dropped
        assert [path for path, _ in walk(new)] == kept
    assert len(list(walk(new))) == len(kept)


@given(TREES)
def test_a_change_sees_what_has_already_been_changed_inside(tree):
    """Counting leaves from the inside out gives the number of all of them at the root."""

    def count(path, value):
        if _is_leaf(value):
            return 1
        return sum(value.values() if isinstance(value, dict) else value)

    assert rewrite(tree, count) == sum(_is_leaf(value) for _, value in walk(tree))


def test_the_root_cannot_be_dropped():
    with pytest.raises(ValueError, match=r"\('model',\)"):
        rewrite({}, lambda path, value: DROP, ('model',))


def test_configs_of_mmengine_stay_configs_of_mmengine():
    cfg = Config(dict(model=dict(type='A', heads=[dict(type='B', num_classes=80)], empty={})))
    new = rewrite(cfg.model, lambda path, value: 3 if path[-1:] == ('num_classes',) else value)
    assert new.heads[0].num_classes == 3
    assert cfg.model.heads[0].num_classes == 80
    assert all(type(value) is ConfigDict for _, value in walk(new) if isinstance(value, dict))


@given(TREES, st.lists(st.one_of(KEYS, st.integers(-2, 4)), max_size=4).map(tuple))
def test_a_path_that_walk_does_not_know_has_the_default(tree, path):
    known = dict(walk(tree))
    assert value_at(tree, path, default=known) is known.get(path, known)


def test_a_dotted_path_sets_the_value_that_it_leads_to():
    """As ``--cfg-options`` does: Config.merge_from_dict is the independent reader of the path."""
    cfg = Config(dict(model=dict(head=[dict(num_classes=80), dict(num_classes=80)])))
    for path, value in list(walk(cfg.model, ('model',))):
        if path[-1] == 'num_classes':
            cfg.merge_from_dict({dotted(path): value - path[-2]})
    assert [head.num_classes for head in cfg.model.head] == [80, 79]


class _Coco:
    pass


@pytest.mark.parametrize(
    ('component', 'expected'),
    [
        (dict(type='CocoDataset'), 'CocoDataset'),
        (dict(type='mmdet.CocoDataset'), 'CocoDataset'),
        (dict(type='mmdet.datasets.coco.CocoDataset'), 'CocoDataset'),
        (dict(type=_Coco), '_Coco'),
        (dict(type=None), ''),
        ({}, ''),
        ([dict(type='CocoDataset')], ''),
        ('CocoDataset', ''),
        (None, ''),
    ],
)
def test_kind_is_the_name_without_its_scope(component, expected):
    assert kind(component) == expected


@pytest.mark.parametrize('owner', [lambda **keys: keys, SimpleNamespace])
@pytest.mark.parametrize(
    'cfg', [dict(type='Normal'), [dict(type='A'), dict(type='B')], None, [], ()]
)
def test_init_cfgs_are_the_dicts_themselves(owner, cfg):
    found = init_cfgs(owner(init_cfg=cfg))
    expected = [cfg] if isinstance(cfg, dict) else list(cfg or [])
    assert all(a is b for a, b in zip(found, expected, strict=True))


def test_what_has_no_init_cfg_has_no_initializers():
    assert init_cfgs({}) == init_cfgs(SimpleNamespace()) == init_cfgs(None) == []


DATASETS = st.recursive(
    st.integers().map(lambda number: dict(type='CocoDataset', number=number)),
    lambda inner: st.one_of(
        inner.map(lambda d: dict(type='RepeatDataset', times=2, dataset=d)),
        st.lists(inner, min_size=1, max_size=3).map(lambda ds: dict(type='Concat', datasets=ds)),
        st.lists(inner, min_size=1, max_size=3),
    ),
    max_leaves=6,
)


@given(DATASETS)
def test_datasets_are_the_components_without_others_inside(tree):
    """walk finds the same ones: a data set is a component that has a number in these trees."""
    assert list(datasets(tree)) == [
        (path, node) for path, node in walk(tree) if isinstance(node, dict) and 'number' in node
    ]
    assert list(datasets(tree, wrappers=True)) == [
        (path, node) for path, node in walk(tree) if isinstance(node, dict)
    ]


def test_no_data_set_is_none():
    assert list(datasets(None, ('train_dataloader', 'dataset'))) == []


def test_other_parts_of_a_data_set_are_not_searched():
    """A pipeline may have keys called `dataset`, of transforms that are no data sets."""
    dataset = dict(type='CocoDataset', pipeline=[dict(type='CopyPaste', datasets=[dict(a=1)])])
    assert list(datasets(dataset, ('x',))) == [(('x',), dataset)]
