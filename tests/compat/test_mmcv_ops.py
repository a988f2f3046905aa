"""The ops behind MMCV's public functions against float64 references written from the definitions.

The references are loops over boxes, bins and taps; gradients come from autograd of the reference.
With compiled ops the same tests hold for those (float16 and CPU kernels that MMCV lacks aside).
"""

import itertools
import math
from importlib import import_module

import pytest
import torch
from torch import Tensor

import mmws  # noqa: F401  (provides mmcv._ext)
from tests.helpers.op_cases import (
    COMPILED,
    DEVICES,
    F64,
    HALF,
    ROIS,
    bilinear,
    compare,
    only_fallback,
)

ops = import_module('mmcv.ops')  # after mmws, whatever the order of the imports above


@pytest.fixture(params=DEVICES)
def device(request):
    return request.param


@pytest.fixture
def device_of_gpu_op(device):
    if COMPILED and device == 'cpu':
        pytest.skip('compiled MMCV has this op on GPUs only')
    return device


def random_boxes(n: int, size: float = 40.0) -> Tensor:
    """(n, 4) boxes that overlap a lot."""
    corner = torch.rand(n, 2) * size
    return torch.cat([corner, corner + 1 + torch.rand(n, 2) * size], dim=1)


def iou_reference(a: list, b: list, offset: int) -> float:
    width = min(a[2], b[2]) - max(a[0], b[0]) + offset
    height = min(a[3], b[3]) - max(a[1], b[1]) + offset
    overlap = max(width, 0) * max(height, 0)
    area_a, area_b = ((c[2] - c[0] + offset) * (c[3] - c[1] + offset) for c in (a, b))
    return overlap / (area_a + area_b - overlap)


# ------------------------------------------------------------------------------------------- NMS


def nms_reference(boxes: Tensor, scores: Tensor, threshold: float, offset: int) -> list:
    boxes, scores = boxes.double().tolist(), scores.tolist()
    kept = []
    for i in sorted(range(len(boxes)), key=lambda i: -scores[i]):  # stable
        if all(iou_reference(boxes[i], boxes[k], offset) <= threshold for k in kept):
            kept.append(i)
    return kept


@pytest.mark.parametrize('offset', [0, 1])
@pytest.mark.parametrize('n', [0, 1, 80])
def test_nms(device, n, offset):
    # Catches a wrong order of the result, and an offset that is ignored or added to one side.
    torch.manual_seed(n)
    boxes, scores = random_boxes(n, 10.0), torch.rand(n)
    dets, inds = ops.nms(boxes.to(device), scores.to(device), 0.4, offset=offset)
    assert inds.tolist() == nms_reference(boxes, scores, 0.4, offset)
    torch.testing.assert_close(dets.cpu(), torch.cat([boxes, scores[:, None]], 1)[inds.cpu()])


def test_nms_offset_matters():
    # Two unit-wide boxes that touch: IoU 0 between edges, 1/3 between pixels.
    boxes = torch.tensor([[0.0, 0.0, 1.0, 0.0], [1.0, 0.0, 2.0, 0.0]])
    assert len(ops.nms(boxes, torch.tensor([0.9, 0.8]), 0.3, offset=0)[1]) == 2
    assert len(ops.nms(boxes, torch.tensor([0.9, 0.8]), 0.3, offset=1)[1]) == 1


@pytest.mark.parametrize('tenths', range(1, 10))
def test_nms_keeps_box_at_the_threshold(device, tenths):
    # IoU is exactly tenths/10, and only IoU > threshold is suppressed. Comparing a float32 IoU
    # with a float64 threshold, as torchvision does, gets 0.1, 0.3, 0.4, ... wrong.
    boxes = torch.tensor([[0.0, 0.0, 10.0, 1.0], [0.0, 0.0, float(tenths), 1.0]], device=device)
    scores = torch.tensor([0.9, 0.8], device=device)
    assert len(ops.nms(boxes, scores, tenths / 10)[1]) == 2
    assert len(ops.nms(boxes, scores, tenths / 10 - 1e-3)[1]) == 1


def test_nms_ties_keep_input_order():
    # An unstable sort makes results differ from run to run where scores saturate.
    corner = torch.arange(200.0)[:, None] * 10
    boxes = torch.cat([corner, corner, corner + 5, corner + 5], 1)
    assert ops.nms(boxes, torch.ones(200), 0.5)[1].tolist() == list(range(200))


def test_nms_score_threshold_and_max_num():
    # MMCV filters before the op; indices must refer to the boxes that were passed to it.
    torch.manual_seed(0)
    boxes, scores = random_boxes(50), torch.rand(50)
    inds = ops.nms(boxes, scores, 0.4, score_threshold=0.3, max_num=5)[1]
    expected = [i for i in nms_reference(boxes, scores, 0.4, 0) if scores[i] > 0.3]
    assert inds.tolist() == expected[:5]


@pytest.mark.parametrize('split_thr', [10, 10000])
def test_batched_nms(device, split_thr):
    # Boxes of different classes must not suppress each other, in one call or class by class.
    torch.manual_seed(1)
    boxes, scores, labels = random_boxes(90, 10.0), torch.rand(90), torch.randint(4, (90,))
    cfg = {'type': 'nms', 'iou_threshold': 0.5, 'split_thr': split_thr}
    args = (t.to(device) for t in (boxes, scores, labels))
    dets, inds = ops.batched_nms(*args, cfg)
    expected = []
    for label in range(4):
        of_label = (labels == label).nonzero()[:, 0]
        kept = nms_reference(boxes[of_label], scores[of_label], 0.5, 0)
        expected += of_label[kept].tolist()
    expected.sort(key=lambda i: -scores[i])
    assert inds.tolist() == expected
    torch.testing.assert_close(dets[:, :4].cpu(), boxes[expected])


# -------------------------------------------------------------------------------------- soft-NMS


def soft_nms_reference(boxes, scores, threshold, sigma, min_score, method, offset):
    """[(score, index)] by swapping in a list: picked boxes to the front, dropped ones out."""
    boxes = boxes.double().tolist()
    items = [[score, index] for index, score in enumerate(scores.double().tolist())]
    for done in itertools.count():
        if done == len(items):
            return items
        best = max(range(done, len(items)), key=lambda i: (items[i][0], -i))
        items[done], items[best] = items[best], items[done]
        i = done + 1
        while i < len(items):
            iou = iou_reference(boxes[items[done][1]], boxes[items[i][1]], offset)
            if method == 'gaussian':
                items[i][0] *= math.exp(-(iou**2) / sigma)
            elif iou >= threshold:
                items[i][0] *= 1 - iou if method == 'linear' else 0
            if items[i][0] < min_score:
                items[i] = items[-1]
                items.pop()
            else:
                i += 1


def test_nms_match():
    """Groups are by the box that is kept; one at the threshold belongs to it, as in MMCV."""
    dets = torch.tensor(
        [
            [0, 0, 10, 10, 0.6],
            [20, 0, 30, 10, 0.9],
            [0, 0, 10, 5, 0.5],  # IoU with the first is just 0.5
            [0, 0, 10, 4, 0.4],
            [21, 0, 30, 10, 0.1],
        ]
    )
    matched = ops.nms_match(dets, 0.5)
    assert [m.tolist() for m in matched] == [[1, 4], [0, 2], [3]]
    assert ops.nms_match(dets[:0], 0.5) == []


@pytest.mark.parametrize('offset', [0, 1])
@pytest.mark.parametrize('min_score', [1e-3, 0.3])
@pytest.mark.parametrize('method', ['naive', 'linear', 'gaussian'])
@pytest.mark.parametrize('n', [0, 1, 60])
def test_soft_nms(n, method, min_score, offset):
    # Catches decay with the wrong IoU or box, filtering of the picked box, and stale scores.
    torch.manual_seed(n)
    boxes, scores = random_boxes(n, 10.0), torch.rand(n)
    dets, inds = ops.soft_nms(boxes, scores, 0.3, 0.5, min_score, method, offset)
    expected = soft_nms_reference(boxes, scores, 0.3, 0.5, min_score, method, offset)
    assert inds.tolist() == [index for _, index in expected]
    assert dets.shape == (len(expected), 5)
    torch.testing.assert_close(dets[:, :4], boxes[inds])
    torch.testing.assert_close(dets[:, 4], torch.tensor([score for score, _ in expected]))


def test_soft_nms_order_of_ties():
    # Few distinct scores: which of two equal boxes is next depends on how dropped boxes are
    # replaced (by the last one) and not on the order of the input.
    torch.manual_seed(2)
    boxes = random_boxes(60, 10.0).round()
    scores = torch.randint(1, 5, (60,)) / 4.0
    inds = ops.soft_nms(boxes, scores, 0.3, min_score=0.1, method='naive')[1]
    expected = [i for _, i in soft_nms_reference(boxes, scores, 0.3, 0.5, 0.1, 'naive', 0)]
    assert inds.tolist() == expected
    assert expected != sorted(expected, key=lambda i: (-scores[i], i))  # the case in question


def test_soft_nms_keeps_first_box_below_min_score():
    # Only decayed boxes are filtered: a single box survives whatever its score.
    assert len(ops.soft_nms(torch.tensor([[0.0, 0.0, 1.0, 1.0]]), torch.tensor([1e-6]))[1]) == 1


@only_fallback
def test_soft_nms_boxes_without_area():
    # 0/0 must not reach the scores.
    boxes, scores = torch.zeros(3, 4), torch.tensor([0.9, 0.8, 0.7])
    for method in ('naive', 'linear', 'gaussian'):
        torch.testing.assert_close(ops.soft_nms(boxes, scores, method=method)[0][:, 4], scores)


# ----------------------------------------------------------------------------- RoIAlign, RoIPool


def clamped_weights(y: float, x: float, height: int, width: int) -> Tensor:
    """Weights (H, W) of the point (y, x) of RoIAlign: edges extend by one pixel, then zero."""
    weights = torch.zeros(height, width, **F64)
    if -1 <= y <= height and -1 <= x <= width:
        y, x = min(max(y, 0), height - 1), min(max(x, 0), width - 1)
        for i, j in itertools.product(range(height), range(width)):
            weights[i, j] = max(1 - abs(y - i), 0) * max(1 - abs(x - j), 0)
    return weights


def roi_align_reference(x, rois, size, scale, ratio, mode, aligned):
    ph, pw = size
    output = torch.zeros(len(rois), x.shape[1], ph, pw, **F64)
    for r, (image, *corners) in enumerate(rois.tolist()):
        x1, y1, x2, y2 = (c * scale - 0.5 * aligned for c in corners)
        side_y, side_x = y2 - y1, x2 - x1
        if not aligned:
            side_y, side_x = max(side_y, 1), max(side_x, 1)
        gh, gw = ratio or math.ceil(side_y / ph), ratio or math.ceil(side_x / pw)
        if gh * gw == 0:
            continue
        for p, q in itertools.product(range(ph), range(pw)):
            samples = [
                (x[int(image)] * clamped_weights(y, x_, *x.shape[2:])).sum((1, 2))
                for y in (y1 + side_y / ph * (p + (i + 0.5) / gh) for i in range(gh))
                for x_ in (x1 + side_x / pw * (q + (j + 0.5) / gw) for j in range(gw))
            ]
            samples = torch.stack(samples)
            output[r, :, p, q] = samples.mean(0) if mode == 'avg' else samples.max(0).values
    return output


def roi_pool_reference(x, rois, size, scale):
    (ph, pw), (height, width) = size, x.shape[2:]
    output = torch.zeros(len(rois), x.shape[1], ph, pw, **F64)
    for r, (image, x1, y1, x2, y2) in enumerate(rois.tolist()):
        x1, y1, x2, y2 = x1 * scale, y1 * scale, (x2 + 1) * scale, (y2 + 1) * scale
        if x2 <= x1 or y2 <= y1:
            continue
        for p, q in itertools.product(range(ph), range(pw)):
            top, bottom = (y1 + (y2 - y1) / ph * edge for edge in (p, p + 1))
            left, right = (x1 + (x2 - x1) / pw * edge for edge in (q, q + 1))
            rows = slice(max(math.floor(top), 0), max(min(math.ceil(bottom), height), 0))
            columns = slice(max(math.floor(left), 0), max(min(math.ceil(right), width), 0))
            window = x[int(image), :, rows, columns].flatten(1)
            if window.numel():
                output[r, :, p, q] = window.max(1).values
    return output


@pytest.mark.parametrize('aligned', [False, True])
@pytest.mark.parametrize('ratio', [0, 2])
@pytest.mark.parametrize('mode', ['avg', 'max'])
def test_roi_align(device, mode, ratio, aligned):
    # Catches swapped axes, a half-pixel shift, the wrong grid of samples or weights of the edges.
    torch.manual_seed(0)
    rois = torch.tensor(ROIS, **F64)
    if mode == 'max' and ratio == 0 and aligned:
        rois = rois[[0, 1, 2, 3, 5]]  # MMCV's maximum over no samples is −FLT_MAX
    args = ((3, 2), 0.3, ratio, mode, aligned)
    compare(
        lambda x: ops.roi_align(x, rois.to(device), *args),
        lambda x: roi_align_reference(x, rois, *args),
        [torch.randn(2, 3, 7, 9, **F64)],
        device,
    )


@only_fallback
def test_roi_align_max_without_samples():
    # The maximum over nothing must neither be −inf nor send a gradient anywhere.
    x = torch.randn(1, 2, 4, 4, requires_grad=True)
    y = ops.roi_align(x, torch.tensor([[0, 2.0, 2.0, 2.0, 2.0]]), (2, 2), 1.0, 0, 'max', True)
    y.sum().backward()
    assert not y.any()
    assert not x.grad.any()


@pytest.mark.parametrize('scale', [0.3, 1.0])
def test_roi_pool(device_of_gpu_op, scale):
    # torchvision rounds corners and shares edges differently: it fails here.
    torch.manual_seed(0)
    without_area = [] if COMPILED else [[0, 9.2, 3.0, 5.1, 8.0]]  # x2 + 1 < x1; MMCV: gradient at 0
    rois = torch.tensor(ROIS + without_area, **F64)
    compare(
        lambda x: ops.RoIPool((3, 2), scale)(x, rois.to(x.device)),
        lambda x: roi_pool_reference(x, rois, (3, 2), scale),
        [torch.randn(2, 3, 7, 9, **F64)],
        device_of_gpu_op,
    )


def test_roi_pool_covers_inclusive_corners(device_of_gpu_op):
    # Roi (0, 0)-(3, 3) is 4 × 4 pixels; half of that is [0, 2), where torchvision has [0, 3).
    x = torch.arange(16.0, device=device_of_gpu_op).view(1, 1, 4, 4)
    rois = torch.tensor([[0, 0.0, 0.0, 3.0, 3.0]], device=device_of_gpu_op)
    assert ops.roi_pool(x, rois, (2, 2), 1.0).flatten().tolist() == [5, 7, 13, 15]
    assert ops.roi_pool(x, rois, (2, 2), 0.5).flatten().tolist() == [0, 1, 4, 5]


@pytest.mark.parametrize('layer', ['RoIAlign', 'RoIPool'])
def test_no_rois(layer):
    # An image without proposals is ordinary at 1-2 images per GPU.
    if COMPILED and layer == 'RoIPool':
        pytest.skip('compiled MMCV has this op on GPUs only')
    x = torch.randn(2, 3, 7, 9, requires_grad=True)
    y = getattr(ops, layer)((3, 2), 0.25)(x, torch.zeros(0, 5))
    y.sum().backward()
    assert y.shape == (0, 3, 3, 2)
    assert not x.grad.any()


# ------------------------------------------------------------------------ deformable convolution


def deform_conv_reference(x, offset, mask, weight, bias, stride, padding, dilation, groups):
    """Eq. 1 of DCNv2 as loops over output pixels, deformable groups and taps."""
    batch, channels = x.shape[:2]
    kh, kw = weight.shape[2:]
    height, width = offset.shape[2:]
    deform_groups = offset.shape[1] // (2 * kh * kw)
    offset = offset.reshape(batch, deform_groups, kh, kw, 2, height, width)
    mask = mask.reshape(batch, deform_groups, kh, kw, height, width)
    taps = torch.zeros(batch, channels, kh, kw, height, width, **F64)
    per_group = channels // deform_groups
    for b, g, i, j, p, q in itertools.product(
        *map(range, (batch, deform_groups, kh, kw, height, width))
    ):
        y = p * stride[0] - padding[0] + i * dilation[0] + offset[b, g, i, j, 0, p, q]
        x_ = q * stride[1] - padding[1] + j * dilation[1] + offset[b, g, i, j, 1, p, q]
        part = slice(g * per_group, (g + 1) * per_group)
        taps[b, part, i, j, p, q] = bilinear(x[b, part], y, x_) * mask[b, g, i, j, p, q]
    taps = taps.unflatten(1, (groups, -1))
    weight = weight.unflatten(0, (groups, -1))
    output = torch.einsum('bgcijpq,gocij->bgopq', taps, weight).flatten(1, 2)
    return output + bias[:, None, None]


# Kernel, stride, padding, dilation, groups, deformable groups; x and y differ wherever they may.
DEFORM_CASES = [
    ((3, 3), (1, 1), (1, 1), (1, 1), 1, 1),
    ((3, 2), (1, 2), (2, 1), (1, 1), 1, 2),
    ((2, 3), (2, 1), (1, 2), (2, 1), 2, 1),
    ((3, 3), (2, 2), (2, 2), (1, 2), 2, 4),
]


def deform_inputs(case, zero_offset=False):
    torch.manual_seed(0)
    kernel, stride, padding, dilation, groups, deform_groups = case
    size = [
        (n + 2 * p - d * (k - 1) - 1) // s + 1
        for n, k, s, p, d in zip((6, 5), kernel, stride, padding, dilation)
    ]
    taps = deform_groups * kernel[0] * kernel[1]
    return [
        torch.randn(2, 4, 6, 5, **F64),
        torch.randn(2, 2 * taps, *size, **F64) * (0 if zero_offset else 1.5),
        torch.rand(2, taps, *size, **F64),
        torch.randn(6, 4 // groups, *kernel, **F64),
        torch.randn(6, **F64),
    ]


@pytest.mark.parametrize('case', DEFORM_CASES)
def test_deform_conv(device, case):
    # Catches (x, y) for (y, x), height for width, and groups mixed up with deformable groups.
    x, offset, mask, weight, bias = deform_inputs(case)
    compare(
        lambda x, offset, weight: ops.deform_conv2d(x, offset, weight, *case[1:]),
        lambda x, offset, weight: deform_conv_reference(
            x, offset, torch.ones_like(mask), weight, torch.zeros_like(bias), *case[1:5]
        ),
        [x, offset, weight],
        device,
    )


@pytest.mark.parametrize('with_bias', [False, True])
@pytest.mark.parametrize('case', DEFORM_CASES)
def test_modulated_deform_conv(device, case, with_bias):
    # As above; also a mask or bias that is left out, or gradients in the wrong buffers.
    x, offset, mask, weight, bias = deform_inputs(case)
    no_bias = torch.zeros_like(bias)
    compare(
        lambda x, o, m, w, *b: ops.modulated_deform_conv2d(x, o, m, w, *(b or [None]), *case[1:]),
        lambda x, o, m, w, *b: deform_conv_reference(x, o, m, w, *(b or [no_bias]), *case[1:5]),
        [x, offset, mask, weight] + [bias] * with_bias,
        device,
    )


def test_deform_conv_of_offsets_that_are_no_numbers(device):
    # torchvision reads whatever memory such an offset points to, and the process dies. For MMCV the
    # place is outside of the image.
    x, offset, mask, weight, bias = (t.to(device) for t in deform_inputs(DEFORM_CASES[0]))
    offset[:, 4], offset[:, 7, 0] = math.nan, math.inf
    mask_of_these = mask.clone()
    mask_of_these[:, 2], mask_of_these[:, 3, 0] = 0, 0
    outside = ops.modulated_deform_conv2d(x, offset, mask, weight, bias, 1, 1)
    offset = offset.nan_to_num(0, 0)
    masked = ops.modulated_deform_conv2d(x, offset, mask_of_these, weight, bias, 1, 1)
    torch.testing.assert_close(outside, masked)


def test_deform_conv_gradient_at_zero_offset(device):
    # DCNv2 starts with zero offsets: with padding 1 the border is at −1 exactly, where MMCV's
    # gradient is 0 (outside the image) and torchvision's is not.
    x, offset, mask, weight, bias = deform_inputs(DEFORM_CASES[0], zero_offset=True)
    compare(
        lambda x, o: ops.modulated_deform_conv2d(
            x, o, mask.to(device), weight.to(device), bias.to(device), 1, 1
        ),
        lambda x, o: deform_conv_reference(x, o, mask, weight, bias, (1, 1), (1, 1), (1, 1), 1),
        [x, offset],
        device,
    )


def test_deform_conv_gradients_accumulate():
    # `scale` multiplies the gradient and the buffer keeps what it held.
    import mmcv._ext

    x, offset, _, weight, _ = deform_inputs(DEFORM_CASES[0])
    grad = torch.randn(2, 6, 6, 5, **F64)
    names = ('kW', 'kH', 'dW', 'dH', 'padW', 'padH', 'dilationW', 'dilationH')
    numbers = dict(zip(names, (3, 3, 1, 1, 1, 1, 1, 1)), group=1, deformable_group=1, im2col_step=2)

    def grad_weight(start: float, scale: float) -> Tensor:
        buffer, empty = torch.full_like(weight, start), weight.new_empty(0)
        mmcv._ext.deform_conv_backward_parameters(
            x, offset, grad, buffer, empty, empty, scale=scale, **numbers
        )
        return buffer

    torch.testing.assert_close(grad_weight(5.0, 0.5), 5 + 0.5 * grad_weight(0.0, 1.0))
    assert grad_weight(0.0, 1.0).abs().sum() > 0


def test_deform_conv_layers():
    # The layers as detectors use them: both kinds with zero offsets are the plain convolution.
    torch.manual_seed(0)
    x = torch.randn(2, 4, 6, 5)
    layer = ops.DeformConv2d(4, 6, 3, padding=1)
    expected = torch.nn.functional.conv2d(x, layer.weight, padding=1)
    torch.testing.assert_close(layer(x, torch.zeros(2, 18, 6, 5)), expected)
    layer = ops.ModulatedDeformConv2d(4, 6, 3, padding=1)
    actual = layer(x, torch.zeros(2, 18, 6, 5), torch.full((2, 9, 6, 5), 0.5))
    expected = torch.nn.functional.conv2d(x, layer.weight / 2, layer.bias, padding=1)
    torch.testing.assert_close(actual, expected)


# ------------------------------------------------------------------------------------ focal loss


def sigmoid_focal_loss_reference(x, target, gamma, alpha, weight):
    loss = torch.zeros(x.shape, **F64)
    for n, k in itertools.product(*map(range, x.shape)):
        p = 1 / (1 + torch.exp(-x[n, k]))
        if target[n] == k:
            loss[n, k] = -alpha * (1 - p) ** gamma * torch.log(p)
        else:
            loss[n, k] = -(1 - alpha) * p**gamma * torch.log(1 - p)
        if weight is not None:
            loss[n, k] *= weight[target[n]]
    return loss


@pytest.mark.parametrize(('gamma', 'alpha'), [(2.0, 0.25), (0.5, 0.6), (0.0, 0.5)])
@pytest.mark.parametrize('with_weight', [False, True])
@pytest.mark.parametrize('reduction', ['none', 'mean', 'sum'])
def test_sigmoid_focal_loss(device_of_gpu_op, reduction, with_weight, gamma, alpha):
    # Catches background (target = number of classes) counted as a class, alpha on the wrong side
    # and a gradient that is not that of the loss.
    torch.manual_seed(0)
    device = device_of_gpu_op
    target = torch.randint(4 if with_weight else 5, (12,))  # weights are for classes only
    target[0] = 3 if with_weight else 4
    weight = torch.rand(4, **F64) if with_weight else None

    def reference(x):
        loss = sigmoid_focal_loss_reference(x, target, gamma, alpha, weight)
        return {'none': loss, 'mean': loss.sum() / len(loss), 'sum': loss.sum()}[reduction]

    def run(x):
        weight_ = None if weight is None else weight.to(device)
        return ops.sigmoid_focal_loss(x, target.to(device), gamma, alpha, weight_, reduction)

    compare(run, reference, [3 * torch.randn(12, 4, **F64)], device)


@only_fallback
def test_sigmoid_focal_loss_weight_of_background():
    # Compiled MMCV reads past the end of the weights here.
    x, target = torch.randn(3, 4), torch.tensor([4, 4, 4])
    loss = [ops.sigmoid_focal_loss(x, target, 2.0, 0.25, w) for w in (None, torch.full((4,), 9.0))]
    torch.testing.assert_close(*loss)


@pytest.mark.parametrize('dtype', [torch.float32, *HALF])
def test_sigmoid_focal_loss_saturates(device_of_gpu_op, dtype):
    # log(0) must become log(FLT_MIN), in half precision too, and the gradient its limit.
    if COMPILED and dtype != torch.float32:
        pytest.skip('compiled MMCV lacks these dtypes')
    x = torch.tensor([[-200.0, 200.0]], device=device_of_gpu_op, dtype=dtype, requires_grad=True)
    target = torch.tensor([0], device=device_of_gpu_op)
    loss = ops.sigmoid_focal_loss(x, target, 2.0, 0.25, None, 'none')
    loss.sum().backward()
    log_min = math.log(torch.finfo(torch.float32).tiny)
    tolerance = {'rtol': 1e-2, 'atol': 1e-5}
    expected = torch.tensor([[-0.25 * log_min, -0.75 * log_min]], dtype=dtype)
    torch.testing.assert_close(loss.cpu(), expected, **tolerance)
    torch.testing.assert_close(
        x.grad.cpu(), torch.tensor([[-0.25, 0.75]], dtype=dtype), **tolerance
    )


@pytest.mark.parametrize('gamma', [2.0, 0.5])
@pytest.mark.parametrize('with_weight', [False, True])
@pytest.mark.parametrize('reduction', ['mean', 'sum'])
def test_softmax_focal_loss(device_of_gpu_op, reduction, with_weight, gamma):
    # Catches a gradient with respect to probabilities instead of logits, and wrong class weights.
    torch.manual_seed(0)
    device = device_of_gpu_op
    target = torch.randint(5, (12,))
    weight = torch.rand(5, **F64) if with_weight else torch.ones(5, **F64)

    def reference(x):
        p = torch.exp(x) / torch.exp(x).sum(1, keepdim=True)
        p = torch.stack([p[n, k] for n, k in enumerate(target)])
        loss = -0.25 * weight[target] * (1 - p) ** gamma * torch.log(p)
        return loss.sum() / (len(loss) if reduction == 'mean' else 1)

    def run(x):
        weight_ = weight.to(device) if with_weight else None
        return ops.softmax_focal_loss(x, target.to(device), gamma, 0.25, weight_, reduction)

    compare(run, reference, [torch.randn(12, 5, **F64)], device)


@only_fallback
def test_softmax_focal_loss_ignores_rows_without_class():
    # −1 must not pick the last class, nor give a gradient; gamma < 1 must stay finite at p = 1.
    x = torch.tensor([[1.0, 2.0], [0.0, 500.0]], requires_grad=True)
    loss = ops.softmax_focal_loss(x, torch.tensor([-1, 1]), 0.5, 0.25, None, 'sum')
    loss.backward()
    assert loss.item() == 0
    assert not x.grad.any()


# --------------------------------------------------------------- multi-scale deformable attention


def test_multi_scale_deformable_attention(device_of_gpu_op):
    # MMCV takes the op on GPUs only, so nothing else would notice a gradient in the wrong buffer.
    from mmcv.ops.multi_scale_deform_attn import MultiScaleDeformableAttnFunction

    torch.manual_seed(0)
    shapes = [(4, 3), (2, 5)]
    starts = torch.tensor([0, 12], device=device_of_gpu_op)
    batch, queries, heads, points, dim = 2, 3, 2, 2, 4
    value = torch.randn(batch, 22, heads, dim, **F64)
    locations = torch.rand(batch, queries, heads, 2, points, 2, **F64) * 1.4 - 0.2
    weights = torch.rand(batch, queries, heads, 2, points, **F64)

    def reference(value, locations, weights):
        output = torch.zeros(batch, queries, heads, dim, **F64)
        for b, q, m, level, p in itertools.product(
            *map(range, (batch, queries, heads, len(shapes), points))
        ):
            height, width = shapes[level]
            start = int(starts[level])
            image = value[b, start : start + height * width, m].T.reshape(dim, height, width)
            x, y = locations[b, q, m, level, p]
            sample = bilinear(image, y * height - 0.5, x * width - 0.5)
            output[b, q, m] = output[b, q, m] + weights[b, q, m, level, p] * sample
        return output.flatten(2)

    def run(value, locations, weights):
        shapes_ = torch.tensor(shapes, device=device_of_gpu_op)
        return MultiScaleDeformableAttnFunction.apply(value, shapes_, starts, locations, weights, 2)

    compare(run, reference, [value, locations, weights], device_of_gpu_op)


# -------------------------------------------------------------------------------- half precision

_ROIS = torch.tensor(ROIS, dtype=torch.bfloat16)  # exact in the other dtypes too
_TARGET = torch.tensor([0, 3, 4, 1])
_DEFORM = [t.float() for t in deform_inputs(DEFORM_CASES[1])]
HALF_CASES = {
    'roi_align': (lambda x: ops.roi_align(x, _ROIS.to(x), (3, 2), 0.25), [(2, 3, 7, 9)]),
    'roi_align_max': (
        lambda x: ops.roi_align(x, _ROIS.to(x), (3, 2), 0.25, 20, 'max'),  # 400 samples
        [(2, 3, 7, 9)],
    ),
    'roi_pool': (lambda x: ops.roi_pool(x, _ROIS.to(x), (3, 2), 0.25), [(2, 3, 7, 9)]),
    'deform_conv': (
        lambda x, o, w: ops.deform_conv2d(x, o, w, *DEFORM_CASES[1][1:]),
        [_DEFORM[i].shape for i in (0, 1, 3)],
    ),
    'modulated_deform_conv': (
        lambda *args: ops.modulated_deform_conv2d(*args, *DEFORM_CASES[1][1:]),
        [t.shape for t in _DEFORM],
    ),
    'sigmoid_focal_loss': (
        lambda x: ops.sigmoid_focal_loss(x, _TARGET, 2.0, 0.25, None, 'none'),
        [(4, 4)],
    ),
    'softmax_focal_loss': (
        lambda x: ops.softmax_focal_loss(x, _TARGET, 2.0, 0.25, None, 'sum'),
        [(4, 5)],
    ),
}


@only_fallback
@pytest.mark.parametrize('dtype', HALF)
@pytest.mark.parametrize('name', HALF_CASES)
def test_half_precision(name, dtype):
    # Rounding belongs at the end: coordinates computed in half precision are off by whole pixels,
    # and CPU kernels of torchvision lack bfloat16.
    torch.manual_seed(0)
    run, shapes = HALF_CASES[name]
    half = [torch.randn(shape).to(dtype).requires_grad_() for shape in shapes]
    full = [t.detach().float().requires_grad_() for t in half]
    actual, expected = run(*half), run(*full)
    assert actual.dtype == dtype
    # MMCV computes in half precision outside the op: the softmax, and the product of gradients.
    ulps = {'softmax_focal_loss': 8, 'sigmoid_focal_loss': 1}.get(name, 0)
    tolerance = {'rtol': ulps * torch.finfo(dtype).eps, 'atol': ulps * torch.finfo(dtype).eps}
    torch.testing.assert_close(actual, expected.to(dtype), **tolerance)
    grad = torch.randn_like(actual)
    grads = torch.autograd.grad(actual, half, grad)
    for half_grad, full_grad in zip(grads, torch.autograd.grad(expected, full, grad.float())):
        torch.testing.assert_close(half_grad, full_grad.to(dtype), **tolerance)


@only_fallback
@pytest.mark.parametrize('dtype', HALF)
def test_half_precision_nms(dtype):
    # Sides, areas and IoU of half-precision boxes must be those of the same boxes in float32.
    torch.manual_seed(3)
    boxes, scores = random_boxes(60, 10.0).to(dtype), torch.rand(60).to(dtype)
    dets, inds = ops.nms(boxes, scores, 0.4, offset=1)
    assert dets.dtype == dtype
    assert inds.tolist() == nms_reference(boxes, scores, 0.4, 1)
    dets, inds = ops.soft_nms(boxes, scores, method='gaussian')
    assert dets.dtype == dtype
    full_dets, full_inds = ops.soft_nms(boxes.float(), scores.float(), method='gaussian')
    assert inds.tolist() == full_inds.tolist()
    torch.testing.assert_close(dets, full_dets.to(dtype), rtol=0, atol=0)
