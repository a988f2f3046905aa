"""The compiled ops of MMCV that MMDetection needs, written with torchvision and PyTorch.

Executed under the name ``mmcv._ext`` where MMCV has no compiled ops. Names, argument names and
argument order are those of MMCV's Python bindings. As there, the caller allocates the results:
an op fills the tensors ``output``, ``dets``, ``argmax*`` and ``grad_*`` in place. Every op runs on
any device and on float16, bfloat16, float32 and float64; half-precision inputs are computed in
float32 and rounded once at the end.

Shapes: B images, C channels, H × W pixels, R regions of interest (rois), N boxes, K classes,
O output channels, G deformable groups, kh × kw kernel taps, ph × pw pooled bins. Boxes are
(x1, y1, x2, y2) and rois (image index, x1, y1, x2, y2), in pixels of the input image;
``spatial_scale`` is the size of the feature map over that of the input image.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from importlib import metadata

import torch
from torch import Tensor
from torchvision.ops import box_iou  # and registers torch.ops.torchvision

from mmws.compat.deform import DeformGeometry, deform_conv2d, deform_conv2d_backward

_tv = torch.ops.torchvision
_FLT_MIN = torch.finfo(torch.float32).tiny


def __getattr__(name: str) -> Callable:
    # MMCV asks for every op when mmcv.ops is imported, so a missing one may raise only when called.
    if name.startswith('_'):
        raise AttributeError(f'module {__name__!r} has no attribute {name!r}')

    def missing_op(*args, **kwargs):
        raise NotImplementedError(
            f'mmcv op {name!r} needs an MMCV with compiled ops, built for the installed PyTorch '
            f'by {_build_command()}'
        )

    return missing_op


def _build_command() -> str:
    try:
        metadata.version('onedl-mmcv')
    except metadata.PackageNotFoundError:
        return (
            '`pip uninstall mmcv-lite; MMCV_WITH_OPS=1 pip install --no-build-isolation '
            'mmcv==2.1.0` (https://mmcv.readthedocs.io/en/latest/get_started/build.html)'
        )
    return (
        '`pip install --force-reinstall --no-deps --no-build-isolation --no-cache-dir '
        '--no-binary onedl-mmcv onedl-mmcv` '
        '(https://onedl-mmcv.readthedocs.io/en/latest/get_started/build.html)'
    )


def get_compiler_version() -> str:
    """What MMCV reports as the C++ compiler of its ops."""
    return 'not compiled (mmws fallback)'


def get_compiling_cuda_version() -> str:
    """What MMCV reports as the CUDA version of its ops."""
    return 'not compiled (mmws fallback)'


def _upcast(x: Tensor) -> Tensor:
    """float16 and bfloat16 to float32, which every kernel below has; the others as they are."""
    return x.float() if x.dtype in (torch.float16, torch.bfloat16) else x


# --------------------------------------------------------------------------- suppression of boxes


def nms(boxes: Tensor, scores: Tensor, iou_threshold: float, offset: int) -> Tensor:
    """Greedy non-maximum suppression of boxes with IoU > ``iou_threshold``.

    Args:
        boxes: (N, 4), computed in float32 whatever the dtype, as MMCV does.
        scores: (N,); equal scores keep the order of the input.
        iou_threshold: in [0, 1].
        offset: 0 or 1; the width of a box is x2 − x1 + offset.

    Returns:
        Indices of the kept boxes by falling score, (≤ N,) int64.
    """
    # Adding the offset to the far corner adds it to the sides of boxes and of intersections alike.
    boxes = boxes.float() + boxes.new_tensor([0, 0, offset, offset], dtype=torch.float32)
    # MMCV compares two float32. Against a float64 threshold of 0.3, torchvision would suppress a
    # box whose IoU is 3/10, because float32(0.3) > 0.3.
    threshold = torch.tensor(iou_threshold, dtype=torch.float32).item()
    return _tv.nms(boxes, scores.float(), threshold)


def nms_match(dets: Tensor, iou_threshold: float) -> list[list[int]]:
    """Group boxes by the kept one that suppresses them, at IoU ≥ ``iou_threshold``.

    Args:
        dets: (N, 5), x1, y1, x2, y2 and score.
        iou_threshold: in [0, 1].

    Returns:
        For every kept box, by falling score, its index and those of the boxes that it suppresses.
    """
    order = dets[:, 4].argsort(descending=True, stable=True)
    boxes = dets[order, :4].float()
    threshold = torch.tensor(iou_threshold, dtype=torch.float32).item()
    overlaps = box_iou(boxes, boxes) >= threshold
    free = torch.ones_like(order, dtype=torch.bool)
    groups = []
    for kept in range(len(order)):
        if free[kept]:
            free[kept] = False
            suppressed = free & overlaps[kept]
            free &= ~suppressed
            groups.append([order[kept].item(), *order[suppressed].tolist()])
    return groups


def softnms(
    boxes: Tensor,
    scores: Tensor,
    dets: Tensor,
    iou_threshold: float,
    sigma: float,
    min_score: float,
    method: int,
    offset: int,
) -> Tensor:
    """Soft-NMS (Bodla et al., 2017, https://arxiv.org/abs/1704.04503, section 3).

    The first box is kept whatever its score; the others are dropped once their score is below
    ``min_score``. Among equal scores the box that comes first *in the current order* is next;
    that order is MMCV's: the next box changes places with the first remaining one, and a dropped
    box is replaced by the last remaining one.

    Args:
        boxes: (N, 4).
        scores: (N,).
        dets: (N, 5), filled with the kept boxes and their new scores; the rest is left alone.
        iou_threshold: least IoU that lowers a score (naive and linear).
        sigma: width of the Gaussian penalty, in IoU².
        min_score: least score of a kept box.
        method: 0 naive (hard NMS), 1 linear (1 − IoU), 2 Gaussian (exp(−IoU² / sigma), eq. 3).
        offset: 0 or 1; the width of a box is x2 − x1 + offset.

    Returns:
        Indices of the kept boxes in the order of ``dets``, (≤ N,) int64.
    """
    boxes, scores = _upcast(boxes), _upcast(scores).clone()
    low, high = boxes[:, :2], boxes[:, 2:] + offset
    areas = (high - low).prod(1)
    order = torch.arange(len(boxes), device=boxes.device)
    done = 0
    while done < len(order):
        best = done + int(scores[order[done:]].argmax())
        order[[done, best]] = order[[best, done]]
        top, rest = order[done], order[done + 1 :]

        sides = torch.minimum(high[top], high[rest]) - torch.maximum(low[top], low[rest])
        overlap = sides.clamp(min=0).prod(1)
        iou = overlap / (areas[top] + areas[rest] - overlap)
        if method == 2:
            # Two boxes without area have IoU 0/0. They do not overlap, but MMCV makes a score NaN.
            scores[rest] *= torch.exp(-(iou**2) / sigma).nan_to_num(1)
        else:
            scores[rest] *= torch.where(iou >= iou_threshold, 1 - iou if method == 1 else 0.0, 1.0)

        done += 1
        order = torch.cat([order[:done], _fill_from_the_end(rest, scores[rest] >= min_score)])
    dets[: len(order)] = torch.cat([boxes[order], scores[order, None]], dim=1).to(dets.dtype)
    return order


def _fill_from_the_end(items: Tensor, keep: Tensor) -> Tensor:
    """The kept items, where the last ones stand in for the dropped ones, first hole first."""
    n = int(keep.sum())
    return items[:n].masked_scatter(~keep[:n], items[n:][keep[n:]].flip(0))


# ---------------------------------------------------------------------------------------- RoIAlign


def roi_align_forward(
    input: Tensor,
    rois: Tensor,
    output: Tensor,
    argmax_y: Tensor,
    argmax_x: Tensor,
    aligned_height: int,
    aligned_width: int,
    spatial_scale: float,
    sampling_ratio: int,
    pool_mode: int,
    aligned: bool,
) -> None:
    """RoIAlign (He et al., 2017, https://arxiv.org/abs/1703.06870, section 3).

    Args:
        input: feature map, (B, C, H, W).
        rois: (R, 5).
        output: (R, C, ph, pw), filled.
        argmax_y: max mode: (R, C, ph, pw), filled with the row, within its bin, of the sample that
            was taken (not its coordinate, which half precision could not hold). A bin without
            samples (a roi without area, adaptive sampling) gives 0 and has no gradient.
        argmax_x: likewise, the column.
        aligned_height: ph.
        aligned_width: pw.
        spatial_scale: feature pixels per image pixel.
        sampling_ratio: samples per side of a bin; ≤ 0 takes ⌈roi side / bins⌉.
        pool_mode: 0 max, 1 average.
        aligned: shift by half a pixel; otherwise rois are at least one feature pixel wide and high.
    """
    x = _upcast(input)
    rois = rois.to(x.dtype)
    ph, pw = aligned_height, aligned_width
    if pool_mode == 1:
        output.copy_(_tv.roi_align(x, rois, spatial_scale, ph, pw, sampling_ratio, aligned))
        return
    for index, gh, gw in _sample_grids(rois, ph, pw, spatial_scale, sampling_ratio, aligned):
        # Pooling to gh × gw times as many bins, of one sample each, gives the samples themselves.
        samples = _tv.roi_align(x, rois[index], spatial_scale, ph * gh, pw * gw, 1, aligned)
        samples = samples.unflatten(3, (pw, gw)).unflatten(2, (ph, gh)).transpose(3, 4)
        value, k = samples.flatten(4).max(4)
        output[index] = value.to(output.dtype)
        argmax_y[index] = (k // gw).to(argmax_y.dtype)
        argmax_x[index] = (k % gw).to(argmax_x.dtype)


def roi_align_backward(
    grad_output: Tensor,
    rois: Tensor,
    argmax_y: Tensor,
    argmax_x: Tensor,
    grad_input: Tensor,
    aligned_height: int,
    aligned_width: int,
    spatial_scale: float,
    sampling_ratio: int,
    pool_mode: int,
    aligned: bool,
) -> None:
    """Adds the gradient of :func:`roi_align_forward` to ``grad_input``, (B, C, H, W).

    Takes the arguments of the forward op and the gradient of its output, (R, C, ph, pw).
    """
    grad = _upcast(grad_output)
    rois = rois.to(grad.dtype)
    ph, pw = aligned_height, aligned_width
    if pool_mode == 1:
        grad_input += _tv._roi_align_backward(
            grad, rois, spatial_scale, ph, pw, *grad_input.shape, sampling_ratio, aligned
        )
        return
    for index, gh, gw in _sample_grids(rois, ph, pw, spatial_scale, sampling_ratio, aligned):
        k = argmax_y[index].long() * gw + argmax_x[index].long()
        samples = grad.new_zeros(*k.shape, gh * gw).scatter_(
            4, k[..., None], grad[index, ..., None]
        )
        samples = samples.unflatten(4, (gh, gw)).transpose(3, 4).flatten(4).flatten(2, 3)
        grad_input += _tv._roi_align_backward(
            samples, rois[index], spatial_scale, ph * gh, pw * gw, *grad_input.shape, 1, aligned
        )


def _sample_grids(
    rois: Tensor, ph: int, pw: int, spatial_scale: float, sampling_ratio: int, aligned: bool
) -> Iterator[tuple[Tensor, int, int]]:
    """Yields (indices of rois, gh, gw): the rois that have gh × gw samples in each bin."""
    shift = 0.5 if aligned else 0.0
    corners = rois[:, 1:] * spatial_scale - shift
    sides = (corners[:, 2:] - corners[:, :2]).flip(1)  # (R, 2): height, width
    if not aligned:
        sides = sides.clamp(min=1)
    grids = torch.ceil(sides / sides.new_tensor([ph, pw])).long()
    if sampling_ratio > 0:
        grids.fill_(sampling_ratio)
    for gh, gw in grids.unique(dim=0).tolist():
        if gh > 0 and gw > 0:
            yield (grids == grids.new_tensor([gh, gw])).all(1).nonzero()[:, 0], gh, gw


# ----------------------------------------------------------------------------------------- RoIPool


def roi_pool_forward(
    input: Tensor,
    rois: Tensor,
    output: Tensor,
    argmax: Tensor,
    pooled_height: int,
    pooled_width: int,
    spatial_scale: float,
) -> None:
    """RoI max pooling (Girshick, 2015, https://arxiv.org/abs/1504.08083, section 2.1).

    MMCV's definition, which is not torchvision's: corners include their pixel, so a roi spans
    [x1, x2 + 1) · spatial_scale, and are not rounded; each bin covers the pixels from the floor of
    its start to the ceiling of its end. Bins without pixels, and all bins of a roi without area,
    give 0 and have no gradient.

    Args:
        input: feature map, (B, C, H, W).
        rois: (R, 5).
        output: (R, C, ph, pw), filled.
        argmax: (R, C, ph, pw) int32, filled with the index y · W + x of the maximum, or −1.
        pooled_height: ph.
        pooled_width: pw.
        spatial_scale: feature pixels per image pixel.
    """
    x = _upcast(input)
    rois = rois.to(x.dtype)
    height, width = x.shape[2:]
    low, high = rois[:, 1:3] * spatial_scale, (rois[:, 3:] + 1) * spatial_scale
    has_area = (high > low).all(1)
    x_low, x_high = _pool_bins(low[:, 0], high[:, 0], pooled_width, width)
    y_low, y_high = _pool_bins(low[:, 1], high[:, 1], pooled_height, height)
    # The largest bin of each roi, read back once for all of them.
    bin_sizes = torch.stack([(y_high - y_low).amax(1), (x_high - x_low).amax(1)], 1)
    bin_sizes = (bin_sizes * has_area[:, None]).tolist()

    output.zero_()
    argmax.fill_(-1)
    for r, (image, (bin_h, bin_w)) in enumerate(zip(rois[:, 0].long().tolist(), bin_sizes)):
        if bin_h <= 0 or bin_w <= 0:
            continue
        ys = y_low[r, :, None] + torch.arange(bin_h, device=x.device)  # (ph, bin_h)
        xs = x_low[r, :, None] + torch.arange(bin_w, device=x.device)  # (pw, bin_w)
        inside = (ys < y_high[r, :, None])[:, None, :, None] & (xs < x_high[r, :, None])[:, None]
        inside = inside.flatten(2)  # (ph, pw, bin_h · bin_w), as are the pixels
        pixels = ys.clamp(max=height - 1)[:, None, :, None] * width
        pixels = (pixels + xs.clamp(max=width - 1)[:, None]).flatten(2)

        values = x[image].flatten(1)[:, pixels].masked_fill(~inside, -math.inf)
        value, k = values.max(3)  # (C, ph, pw)
        pixel = pixels.expand(len(k), -1, -1, -1).gather(3, k[..., None])[..., 0]
        filled = inside.any(2)
        output[r] = value.masked_fill(~filled, 0).to(output.dtype)
        argmax[r] = pixel.masked_fill(~filled, -1).to(argmax.dtype)


def _pool_bins(low: Tensor, high: Tensor, bins: int, limit: int) -> tuple[Tensor, Tensor]:
    """First pixel and last pixel + 1 of each bin, cut to [0, limit): twice (R, bins) int64."""
    size = ((high - low) / bins)[:, None]
    k = torch.arange(bins, device=low.device)
    first = torch.floor(k * size + low[:, None]).clamp(0, limit)
    last = torch.ceil((k + 1) * size + low[:, None]).clamp(0, limit)
    return first.long(), last.long()


def roi_pool_backward(
    grad_output: Tensor,
    rois: Tensor,
    argmax: Tensor,
    grad_input: Tensor,
    pooled_height: int,
    pooled_width: int,
    spatial_scale: float,
) -> None:
    """Adds the gradient of :func:`roi_pool_forward` to ``grad_input``, (B, C, H, W).

    Takes the arguments of the forward op and the gradient of its output, (R, C, ph, pw).
    """
    _, channels, height, width = grad_input.shape
    grad = _upcast(grad_output).masked_fill(argmax < 0, 0)
    channel = torch.arange(channels, device=grad.device)
    plane = (rois[:, :1].long() * channels + channel)[:, :, None, None]  # (R, C, 1, 1)
    pixel = plane * (height * width) + argmax.clamp(min=0)
    total = grad.new_zeros(grad_input.numel())
    total.index_add_(0, pixel.flatten(), grad.flatten())
    grad_input += total.view_as(grad_input)


# -------------------------------------------------------------------------- deformable convolution


def _add_grads(
    buffers: Sequence[Tensor | None],
    grad_output: Tensor,
    input: Tensor,
    weight: Tensor,
    offset: Tensor,
    mask: Tensor | None,
    geometry: DeformGeometry,
) -> None:
    """Put the gradients into MMCV's buffers, of which None stands for one that is not wanted.

    MMCV adds to the gradients of the input, weight and bias, and overwrites those of the offset
    and mask.
    """
    grads = deform_conv2d_backward(grad_output, input, weight, offset, mask, geometry)
    added = (True, True, False, False, True)
    for buffer, grad, add in zip(buffers, grads, added):
        if buffer is not None and grad is not None:
            buffer.add_(grad) if add else buffer.copy_(grad)


def deform_conv_forward(
    input: Tensor,
    weight: Tensor,
    offset: Tensor,
    output: Tensor,
    columns: Tensor,
    ones: Tensor,
    kW: int,
    kH: int,
    dW: int,
    dH: int,
    padW: int,
    padH: int,
    dilationW: int,
    dilationH: int,
    group: int,
    deformable_group: int,
    im2col_step: int,
) -> None:
    """Deformable convolution.

    Args:
        input: (B, C, H, W).
        weight: (O, C / group, kh, kw).
        offset: (B, G · kh · kw · 2, Ho, Wo), in feature pixels.
        output: (B, O, Ho, Wo), filled.
        columns: scratch space of MMCV, unused, as are ``ones`` and ``im2col_step``.
        ones: unused.
        kW: kw; as in the rest, W is along x and H along y.
        kH: kh.
        dW: stride.
        dH: stride.
        padW: padding.
        padH: padding.
        dilationW: dilation.
        dilationH: dilation.
        group: groups of the convolution.
        deformable_group: G.
        im2col_step: unused.
    """
    geometry = DeformGeometry(
        (dH, dW), (padH, padW), (dilationH, dilationW), group, deformable_group
    )
    output.copy_(deform_conv2d(input, weight, offset, None, None, geometry))


def deform_conv_backward_input(
    input: Tensor,
    offset: Tensor,
    gradOutput: Tensor,
    gradInput: Tensor,
    gradOffset: Tensor,
    weight: Tensor,
    columns: Tensor,
    kW: int,
    kH: int,
    dW: int,
    dH: int,
    padW: int,
    padH: int,
    dilationW: int,
    dilationH: int,
    group: int,
    deformable_group: int,
    im2col_step: int,
) -> None:
    """Adds to ``gradInput`` and fills ``gradOffset``; arguments as in the forward op."""
    geometry = DeformGeometry(
        (dH, dW), (padH, padW), (dilationH, dilationW), group, deformable_group
    )
    buffers = (gradInput, None, gradOffset, None, None)
    _add_grads(buffers, gradOutput, input, weight, offset, None, geometry)


def deform_conv_backward_parameters(
    input: Tensor,
    offset: Tensor,
    gradOutput: Tensor,
    gradWeight: Tensor,
    columns: Tensor,
    ones: Tensor,
    kW: int,
    kH: int,
    dW: int,
    dH: int,
    padW: int,
    padH: int,
    dilationW: int,
    dilationH: int,
    group: int,
    deformable_group: int,
    scale: float,
    im2col_step: int,
) -> None:
    """Adds ``scale`` times the gradient to ``gradWeight``; other arguments as in the forward op."""
    geometry = DeformGeometry(
        (dH, dW), (padH, padW), (dilationH, dilationW), group, deformable_group
    )
    # The gradient of the weight does not depend on the weight, which MMCV does not pass.
    weight = torch.zeros_like(gradWeight)
    grads = deform_conv2d_backward(gradOutput, input, weight, offset, None, geometry)
    gradWeight += scale * grads[1]


def modulated_deform_conv_forward(
    input: Tensor,
    weight: Tensor,
    bias: Tensor,
    ones: Tensor,
    offset: Tensor,
    mask: Tensor,
    output: Tensor,
    columns: Tensor,
    kernel_h: int,
    kernel_w: int,
    stride_h: int,
    stride_w: int,
    pad_h: int,
    pad_w: int,
    dilation_h: int,
    dilation_w: int,
    group: int,
    deformable_group: int,
    with_bias: bool,
) -> None:
    """Modulated deformable convolution.

    Args:
        input: (B, C, H, W).
        weight: (O, C / group, kh, kw).
        bias: (O,), or a placeholder if not ``with_bias``.
        ones: scratch space of MMCV, unused, as is ``columns``.
        offset: (B, G · kh · kw · 2, Ho, Wo), in feature pixels; or finer than the output, and the
            first values of each image are read.
        mask: modulation, (B, G · kh · kw, Ho, Wo), or finer.
        output: (B, O, Ho, Wo), filled.
        columns: unused.
        kernel_h: kh.
        kernel_w: kw.
        stride_h: along y.
        stride_w: along x.
        pad_h: along y.
        pad_w: along x.
        dilation_h: along y.
        dilation_w: along x.
        group: groups of the convolution.
        deformable_group: G.
        with_bias: whether to add ``bias``.
    """
    geometry = DeformGeometry(
        (stride_h, stride_w), (pad_h, pad_w), (dilation_h, dilation_w), group, deformable_group
    )
    output.copy_(deform_conv2d(input, weight, offset, mask, bias if with_bias else None, geometry))


def modulated_deform_conv_backward(
    input: Tensor,
    weight: Tensor,
    bias: Tensor,
    ones: Tensor,
    offset: Tensor,
    mask: Tensor,
    columns: Tensor,
    grad_input: Tensor,
    grad_weight: Tensor,
    grad_bias: Tensor,
    grad_offset: Tensor,
    grad_mask: Tensor,
    grad_output: Tensor,
    kernel_h: int,
    kernel_w: int,
    stride_h: int,
    stride_w: int,
    pad_h: int,
    pad_w: int,
    dilation_h: int,
    dilation_w: int,
    group: int,
    deformable_group: int,
    with_bias: bool,
) -> None:
    """Adds to the gradients of the input, weight and bias; fills those of the offset and mask.

    Other arguments as in the forward op.
    """
    geometry = DeformGeometry(
        (stride_h, stride_w), (pad_h, pad_w), (dilation_h, dilation_w), group, deformable_group
    )
    buffers = (grad_input, grad_weight, grad_offset, grad_mask, grad_bias if with_bias else None)
    _add_grads(buffers, grad_output, input, weight, offset, mask, geometry)


# -------------------------------------------------------------------------------------- focal loss
#
# (Lin et al., 2017, https://arxiv.org/abs/1708.02002, eq. 5.) Probabilities are clamped to the
# smallest normal float32 inside logarithms, as in MMCV, so the losses agree where they saturate.


def _log(p: Tensor) -> Tensor:
    return p.clamp(min=_FLT_MIN).log()


def sigmoid_focal_loss_forward(
    input: Tensor, target: Tensor, weight: Tensor, output: Tensor, gamma: float, alpha: float
) -> None:
    """Sigmoid focal loss of every class.

    Args:
        input: logits, (N, K).
        target: class of each row, (N,) int64; any number outside [0, K), such as MMDetection's K,
            is background.
        weight: of the class of each row, (K,), or no element for none. MMCV reads past its end for
            background; here background has weight 1.
        output: (N, K), filled with the losses.
        gamma: focusing parameter ≥ 0.
        alpha: weight of the foreground; the background has 1 − alpha.
    """
    p, positive, weights = _sigmoid_focal_terms(input, target, weight)
    loss_p = -alpha * (1 - p) ** gamma * _log(p)
    loss_n = -(1 - alpha) * p**gamma * _log(1 - p)
    output.copy_(weights * torch.where(positive, loss_p, loss_n))


def sigmoid_focal_loss_backward(
    input: Tensor, target: Tensor, weight: Tensor, grad_input: Tensor, gamma: float, alpha: float
) -> None:
    """Fills ``grad_input``, (N, K), with d loss / d logit; arguments as in the forward op."""
    p, positive, weights = _sigmoid_focal_terms(input, target, weight)
    grad_p = -alpha * (1 - p) ** gamma * (1 - p - gamma * p * _log(p))
    grad_n = -(1 - alpha) * p**gamma * (gamma * (1 - p) * _log(1 - p) - p)
    grad_input.copy_(weights * torch.where(positive, grad_p, grad_n))


def _sigmoid_focal_terms(
    input: Tensor, target: Tensor, weight: Tensor
) -> tuple[Tensor, Tensor, Tensor]:
    """Probabilities (N, K), whether it is the class of the row (N, K), weights (N, 1)."""
    p = _upcast(input).sigmoid()
    positive = target[:, None] == torch.arange(p.shape[1], device=p.device)
    return p, positive, _class_weights(target, weight, p)[:, None]


def _class_weights(target: Tensor, weight: Tensor, like: Tensor) -> Tensor:
    """The weight of the class of each row, 1 for rows without class: (N,)."""
    n, num_classes = like.shape
    if weight.numel() == 0:
        return like.new_ones(n)
    known = (target >= 0) & (target < num_classes)
    return weight.to(like.dtype)[target.clamp(0, num_classes - 1)].masked_fill(~known, 1)


def softmax_focal_loss_forward(
    input: Tensor, target: Tensor, weight: Tensor, output: Tensor, gamma: float, alpha: float
) -> None:
    """Softmax focal loss: −alpha (1 − p)^gamma log p, p the probability of the row's class.

    Args:
        input: probabilities, that is, after the softmax, (N, K).
        target: class of each row, (N,) int64; rows with a number outside [0, K) give 0.
        weight: of the class of each row, (K,), or no element for none.
        output: (N,), filled with the losses.
        gamma: focusing parameter ≥ 0.
        alpha: weight of the whole loss.
    """
    p, scale = _softmax_focal_terms(input, target, weight, alpha)
    output.copy_(-scale * (1 - p) ** gamma * _log(p))


def softmax_focal_loss_backward(
    input: Tensor,
    target: Tensor,
    weight: Tensor,
    buff: Tensor,
    grad_input: Tensor,
    gamma: float,
    alpha: float,
) -> None:
    """Fills ``grad_input``, (N, K), with d loss / d logit; arguments as in the forward op.

    ``buff`` is scratch space of MMCV and is not used.
    """
    p, scale = _softmax_focal_terms(input, target, weight, alpha)
    # p · d loss / d p. The clamp keeps gamma < 1 finite where p is 1.
    slope = gamma * (1 - p).clamp(min=_FLT_MIN) ** (gamma - 1) * p * _log(p) - (1 - p) ** gamma
    one_hot = target[:, None] == torch.arange(input.shape[1], device=input.device)
    grad_input.copy_((scale * slope)[:, None] * (one_hot.to(p.dtype) - _upcast(input)))


def _softmax_focal_terms(
    input: Tensor, target: Tensor, weight: Tensor, alpha: float
) -> tuple[Tensor, Tensor]:
    """Probability of the row's class and factor of its loss (0 without class): twice (N,)."""
    probs = _upcast(input)
    num_classes = probs.shape[1]
    known = (target >= 0) & (target < num_classes)
    p = probs.gather(1, target.clamp(0, num_classes - 1)[:, None])[:, 0]
    return p, alpha * known * _class_weights(target, weight, probs)


# -------------------------------------------------------------- multi-scale deformable attention


def ms_deform_attn_forward(
    value: Tensor,
    value_spatial_shapes: Tensor,
    value_level_start_index: Tensor,
    sampling_locations: Tensor,
    attention_weights: Tensor,
    im2col_step: int,
) -> Tensor:
    """Multi-scale deformable attention (Zhu et al., 2021, https://arxiv.org/abs/2010.04159, eq. 3).

    MMCV itself takes this op on GPUs only. Below, M heads of D channels, L levels, S = Σ H_l · W_l.

    Args:
        value: (B, S, M, D).
        value_spatial_shapes: height and width of each level, (L, 2) int64.
        value_level_start_index: follows from the shapes; unused, as is ``im2col_step``.
        sampling_locations: (B, queries, M, L, points, 2), (x, y) in [0, 1].
        attention_weights: (B, queries, M, L, points).
        im2col_step: unused.

    Returns:
        (B, queries, M · D), of the dtype of ``value``.
    """
    # mmcv.ops is being imported when this module is.
    from mmcv.ops.multi_scale_deform_attn import multi_scale_deformable_attn_pytorch

    value_, locations, weights = map(_upcast, (value, sampling_locations, attention_weights))
    shapes = value_spatial_shapes.tolist()
    return multi_scale_deformable_attn_pytorch(value_, shapes, locations, weights).to(value.dtype)


def ms_deform_attn_backward(
    value: Tensor,
    value_spatial_shapes: Tensor,
    value_level_start_index: Tensor,
    sampling_locations: Tensor,
    attention_weights: Tensor,
    grad_output: Tensor,
    grad_value: Tensor,
    grad_sampling_loc: Tensor,
    grad_attn_weight: Tensor,
    im2col_step: int,
) -> None:
    """Fills the three gradients, by computing the output again; arguments as in the forward op."""
    with torch.enable_grad():
        leaves = [
            _upcast(t).detach().requires_grad_()
            for t in (value, sampling_locations, attention_weights)
        ]
        output = ms_deform_attn_forward(
            leaves[0], value_spatial_shapes, value_level_start_index, *leaves[1:], im2col_step
        )
    grads = torch.autograd.grad(output, leaves, _upcast(grad_output))
    for buffer, grad in zip((grad_value, grad_sampling_loc, grad_attn_weight), grads):
        buffer.copy_(grad)
