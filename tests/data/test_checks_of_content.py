"""Annotations and images of any content are named, never a crash; what is accepted can be used."""

import json
import random

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image
from pycocotools import mask as mask_utils

from mmws.data.coco_check import check_coco
from mmws.data.coco_check.cache import cached_check
from mmws.data.coco_check.masks import check_mask, decode_counts
from mmws.data.coco_check.pixels import decode_image
from mmws.data.coco_check.reader import entries_of

HEIGHT, WIDTH = 24, 32


@settings(max_examples=50, deadline=None)
@given(st.integers(0, 2**32 - 1))
def test_run_lengths_are_those_of_pycocotools(seed):
    rng = np.random.default_rng(seed)
    mask = rng.random((HEIGHT, WIDTH)) < rng.random()
    rle = mask_utils.encode(np.asfortranarray(mask, np.uint8))
    runs = decode_counts(rle['counts'].decode())
    values = np.repeat(np.arange(len(runs)) % 2, runs).reshape(WIDTH, HEIGHT).T
    np.testing.assert_array_equal(values, mask)


# Any JSON, and what is nearly a mask.
NUMBERS = st.one_of(
    st.floats(-100, 100), st.integers(-9, 99), st.sampled_from([float('nan'), float('inf'), 1e9])
)
JSON = st.recursive(
    st.one_of(st.none(), st.booleans(), NUMBERS, st.text(max_size=8)),
    lambda inner: st.one_of(
        st.lists(inner, max_size=8), st.dictionaries(st.text(max_size=4), inner, max_size=3)
    ),
    max_leaves=12,
)
MASKS = st.one_of(
    JSON,
    st.lists(st.lists(NUMBERS, max_size=9), max_size=3),
    st.fixed_dictionaries(
        {
            'size': st.one_of(st.just([HEIGHT, WIDTH]), JSON),
            'counts': st.one_of(
                st.text('0123456789:;<=>?@ABCXYZ_abcno~', max_size=12),
                st.lists(st.integers(-5, 800), max_size=5),
                JSON,
            ),
        }
    ),
)


@settings(max_examples=300, deadline=None)
@given(MASKS)
def test_a_mask_that_passes_can_be_drawn(mask):
    # Bugs: pycocotools takes all memory for a far point, and ends the process at bad runs.
    state = check_mask(mask)
    if state.kind:
        return
    if isinstance(mask, list):
        rle = mask_utils.merge(mask_utils.frPyObjects(mask, HEIGHT, WIDTH))
    elif isinstance(mask['counts'], list):
        rle = mask_utils.frPyObjects(mask, *mask['size'])
    else:
        rle = {'size': mask['size'], 'counts': mask['counts'].encode()}
    assert mask_utils.decode(rle).ndim == 2


@pytest.mark.slow
@settings(max_examples=150, deadline=None)
@given(entry=st.dictionaries(
    st.sampled_from(['id', 'image_id', 'category_id', 'bbox', 'area', 'iscrowd', 'segmentation']),
    JSON,
), which=st.sampled_from(['images', 'annotations', 'categories']), value=JSON)  # fmt: skip
def test_any_content_is_reported_not_raised(tmp_path_factory, entry, which, value):
    data = sound()
    data['annotations'][0].update(entry)
    data[which][-1:] = [value]
    path = tmp_path_factory.mktemp('fuzz') / 'a.json'
    path.write_text(json.dumps(data))
    report = check_coco(path)
    assert all('\n' not in p.text for p in report.problems)


def sound():
    return {
        'images': [
            {'id': i, 'file_name': f'{i}.png', 'width': WIDTH, 'height': HEIGHT} for i in (1, 2)
        ],
        'categories': [{'id': 1, 'name': 'a'}],
        'annotations': [
            {
                'id': i, 'image_id': i, 'category_id': 1, 'bbox': [2, 2, 9, 9], 'area': 81,
                'iscrowd': 0, 'segmentation': [[2, 2, 11, 2, 11, 11]],
            }
            for i in (1, 2)
        ],
    }  # fmt: skip


@given(JSON)
def test_a_file_is_read_entry_by_entry_as_json_reads_it(content):
    data = {'images': [content, 1], 'noise': {'annotations': [content]}, 'annotations': []}
    for indent in (None, 1):
        found = list(entries_of(json.dumps(data, indent=indent)))
        names = [name for name, _ in found]
        assert names == ['images'] * 3 + ['annotations']
        # repr, as NaN is not equal to itself.
        assert repr(found[1][1]) == repr(json.loads(json.dumps(content)))


@pytest.mark.parametrize('text', ['{"images": [1', '{"images": [1 2]}', '{"images"', '{} x', ''])
def test_a_file_that_is_no_json_is_told(text):
    with pytest.raises(ValueError, match=r'\w'):
        list(entries_of(text))


def one(kind, report):
    (found,) = [p for p in report.problems if p.kind == kind]
    return found


@pytest.fixture
def folder(tmp_path):
    for i in (1, 2):
        Image.new('RGB', (WIDTH, HEIGHT), (90, 90, 90)).save(tmp_path / f'{i}.png')
    (tmp_path / 'a.json').write_text(json.dumps(sound()))
    return tmp_path


@pytest.mark.parametrize('fraction', [0.0, 0.3, 0.6, 0.95])
def test_a_truncated_image_is_named(folder, fraction):
    # Bug: the header is sound, and training ends at that image hours later.
    rng = np.random.default_rng(0)
    pixels = rng.integers(0, 255, (HEIGHT, WIDTH, 3), np.uint8)
    for name in ('1.jpg', '1.png'):
        Image.fromarray(pixels).save(folder / name)
        content = (folder / name).read_bytes()
        (folder / name).write_bytes(content[: int(len(content) * fraction)])
        assert decode_image(folder / name).error
    assert one('bad_images', check_coco(folder / 'a.json')).examples[0].startswith('1.png')


def test_pixels_that_training_reads_otherwise_are_named(folder):
    # 12 bits in 16 train black; a turn by 180 degrees leaves the size as it is.
    deep = np.full((HEIGHT, WIDTH), 4000, np.uint16)
    Image.fromarray(deep).save(folder / '1.png')
    exif = Image.Exif()
    exif[274] = 3
    Image.new('RGB', (WIDTH, HEIGHT)).save(folder / '2.png', exif=exif)
    report = check_coco(folder / 'a.json')
    assert '1.png, values to 4000' in one('deep_images', report).text
    assert '2.png, orientation 3' in one('turned_images', report).text
    Image.fromarray(np.zeros((HEIGHT, WIDTH), np.float32)).save(folder / '1.tiff')
    assert 'floating-point' in decode_image(folder / '1.tiff').error


def test_what_was_found_is_remembered_by_content(folder, monkeypatch):
    # Bugs: a check of minutes before every start; or an old answer for a new file.
    first = cached_check(folder / 'a.json')
    monkeypatch.setattr('mmws.data.coco_check.cache.check_entries', None)
    monkeypatch.setattr('mmws.data.coco_check.pixels.decode_image', None)
    (folder / 'b.json').write_bytes((folder / 'a.json').read_bytes())
    again = cached_check(folder / 'b.json')
    assert again.path == str(folder / 'b.json')
    assert {**vars(again), 'path': 0} == {**vars(first), 'path': 0}
    monkeypatch.undo()
    (folder / '1.png').write_bytes(b'')
    assert one('bad_images', cached_check(folder / 'b.json')).count == 1
    (folder / '2.png').unlink()
    assert one('missing_images', cached_check(folder / 'b.json')).count == 1
    data = sound()
    data['annotations'][0]['category_id'] = 5
    (folder / 'b.json').write_text(json.dumps(data))
    assert one('unknown_categories', cached_check(folder / 'b.json')).text.startswith(
        str(folder / 'b.json')
    )


@pytest.mark.parametrize(
    ('change', 'cause'),
    [
        (lambda a: a.update(iscrowd=1), '2 are crowds'),
        (lambda a: a.update(bbox=[2, 2, 0, 0]), '2 have a box that training drops'),
        (lambda a: a.update(segmentation=[[]]), '2 have no mask that can be drawn'),
        (lambda a: a.update(image_id='1'), '2 name no known image'),
    ],
)
def test_nothing_to_train_on_has_its_true_cause(folder, change, cause):
    # Bug: crowds and ids of another type were told that their boxes are wrong.
    data = sound()
    for annotation in data['annotations']:
        change(annotation)
    (folder / 'a.json').write_text(json.dumps(data))
    problem = one('no_annotations', check_coco(folder / 'a.json'))
    assert problem.severity == 'error'
    assert cause in problem.text
    assert ('boxes must be' in problem.text) == ('box' in cause)


def test_boxes_given_by_corners_are_told_from_boxes_over_the_edge(folder):
    data = sound()
    rng = random.Random(0)
    for number in range(20):
        x, y = rng.randrange(20), rng.randrange(14)
        entry = {**data['annotations'][0], 'id': 10 + number, 'bbox': [x, y, x + 10, y + 9]}
        data['annotations'].append(entry)
    data['annotations'] = data['annotations'][2:]
    (folder / 'a.json').write_text(json.dumps(data))
    report = check_coco(folder / 'a.json')
    assert one('corner_boxes', report).severity == 'error'
    for entry in data['annotations']:
        x, y, right, bottom = entry['bbox']
        entry['bbox'] = [x, y, right - x, bottom - y]
    (folder / 'a.json').write_text(json.dumps(data))
    assert not {'corner_boxes', 'partly_outside_boxes'} & {
        p.kind for p in check_coco(folder / 'a.json').problems
    }


@pytest.mark.parametrize(
    ('which', 'field', 'value'),
    [
        ('annotations', 'bbox', [2, 2, 900, 900]),
        ('annotations', 'bbox', [15, 15, 20, 20]),
        ('annotations', 'bbox', [2, 2, 0, 0]),
        ('annotations', 'area', 0),
        ('annotations', 'image_id', 99),
        ('annotations', 'category_id', 99),
        ('annotations', 'segmentation', [[2, 2, 9, 9]]),
        ('images', 'file_name', 'gone.png'),
        ('images', 'file_name', 'a.json'),
        ('images', 'width', 7),
        ('categories', 'name', None),
    ],
)
def test_a_refusal_names_the_field(folder, which, field, value):
    # Bug: "image files are missing" does not say which entry of the file to correct.
    data = sound()
    for number, entry in enumerate(data[which]):
        entry[field] = value if field != 'file_name' or number == 0 else entry[field]
    (folder / 'a.json').write_text(json.dumps(data))
    errors = [p.text for p in check_coco(folder / 'a.json').problems if p.severity == 'error']
    assert any(field in text for text in errors), errors
