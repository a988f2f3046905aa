"""CLRNet's suppression of lines against its definition, written as loops."""

import pytest
import torch

import mmws  # noqa: F401  (provides mmcv._ext)
from tests.helpers.op_cases import COMPILED, DEVICES

pytestmark = pytest.mark.skipif(COMPILED, reason='compiled MMCV takes 72 rows on GPUs only')

ROWS = 12


def line_nms(lines, scores, threshold, top_k):
    import mmcv._ext

    return mmcv._ext.line_nms_forward(lines, scores, threshold, top_k)


def distance(a, b):
    """Mean distance in the rows that both lines cover; None if there are none."""
    start_a, start_b = (int(line[2] * (ROWS - 1) + 0.5) for line in (a, b))
    end_a, end_b = (start + int(line[4]) - 1 for start, line in ((start_a, a), (start_b, b)))
    rows = range(max(start_a, start_b), min(end_a, end_b, ROWS - 1) + 1)
    if not rows or rows[0] < 0:
        return None
    return sum(abs(a[5 + row] - b[5 + row]) for row in rows) / len(rows)


def reference(lines, scores, threshold, top_k):
    lines, scores = lines.tolist(), scores.tolist()
    kept, parent = [], [0] * len(lines)
    removed = set()
    order = sorted(range(len(lines)), key=lambda i: -scores[i])
    for place, i in enumerate(order):
        if i in removed or len(kept) == top_k:
            continue
        kept.append(i)
        parent[i] = len(kept)
        for j in order[place + 1 :]:
            gap = distance(lines[i], lines[j])
            if gap is not None and gap < threshold:
                removed.add(j)
                parent[j] = len(kept)
    return kept, parent


def random_lines(seed, count=60):
    generator = torch.Generator().manual_seed(seed)
    lines = torch.rand(count, 5 + ROWS, generator=generator, dtype=torch.float64) * 9
    lines[:, 5:] += torch.randint(0, 4, (count, 1), generator=generator) * 9
    lines[:, 2] = torch.rand(count, generator=generator, dtype=torch.float64) - 0.1
    lines[:, 4] = torch.randint(0, ROWS + 3, (count,), generator=generator)
    return lines, torch.rand(count, generator=generator, dtype=torch.float64)


@pytest.mark.parametrize('device', DEVICES)
@pytest.mark.parametrize('top_k', [4, 1000])
@pytest.mark.parametrize('seed', range(5))
def test_line_nms(seed, top_k, device):
    # Catches lines in the order of the input instead of the scores, a last row that is left out,
    # and lines that share no row but suppress each other.
    lines, scores = random_lines(seed)
    kept, parent = reference(lines, scores, 4.0, top_k)
    assert 2 < len(kept) < 60
    keep, count, found_parent = line_nms(lines.to(device), scores.to(device), 4.0, top_k)
    assert count.shape == ()
    assert keep.shape == (60,)
    assert keep[: int(count)].tolist() == kept
    assert not keep[int(count) :].any()
    assert found_parent.tolist() == parent
    assert keep.device == lines.to(device).device


def test_no_lines():
    keep, count, parent = line_nms(torch.zeros(0, 5 + ROWS), torch.zeros(0), 4.0, 10)
    assert (len(keep), int(count), len(parent)) == (0, 0, 0)
