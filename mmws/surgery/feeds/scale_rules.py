r"""What an operation of ATen does to the scale of its inputs.

A tensor has *degree* ``d`` if it is multiplied by :math:`s^d` when the outputs of all converted
layers are multiplied by :math:`s > 0`. The output of a converted layer has degree 1, the output
of a normalization 0, a product the sum of the degrees of its factors. ``None`` is the degree of
a tensor of zeros, which is right for every ``d``.

Each rule maps the degrees of the tensors that an operation reads to the degree of its result, or
to :data:`CLASH` where the result is no power of :math:`s` times what it was: a sum of tensors of
different degrees, or a sigmoid of a tensor of degree 1.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

from torch import Tensor

Degree = float | None
Rule = Callable[[Sequence[Degree]], Any]  # -> Degree, or a tuple with one for each output

CLASH = 'clash'

# Constants up to this size count as the eps of a normalization, which is 0 for the rule.
_LARGEST_EPS = 1e-3


class Reading(NamedTuple):
    """The tensors that an operation reads, and the rule for its result."""

    rule: Rule
    tensors: list[Tensor]


# ---- Rules


def invariant(degrees: Sequence[Degree]) -> Any:
    """Any operation on tensors of degree 0."""
    return CLASH if any(degrees) else 0.0


def any_scale(degrees: Sequence[Degree]) -> Any:
    """The result does not change with the scale: a sign, the shape alone."""
    return 0.0


def normalized_by_layer(degrees: Sequence[Degree]) -> Any:
    """The result of a normalization layer, whatever scale its inputs have."""
    return 0.0


def zeros(degrees: Sequence[Degree]) -> Any:
    """The result holds zeros, or nothing yet."""
    return None


def alike(degrees: Sequence[Degree]) -> Any:
    """All inputs must have the degree that the result has: sums, concatenations."""
    known = {degree for degree in degrees if degree is not None}
    if len(known) > 1:
        return CLASH
    return known.pop() if known else None


def compared(degrees: Sequence[Degree]) -> Any:
    """Inputs are compared with each other."""
    return CLASH if alike(degrees) == CLASH else 0.0


def carried(degrees: Sequence[Degree]) -> Any:
    """The first input has the degree of the result, the others must not change."""
    return CLASH if any(degrees[1:]) else degrees[0]


def normalized(degrees: Sequence[Degree]) -> Any:
    """The result does not change with the scale of the first input, the others must not change."""
    return CLASH if any(degrees[1:]) else 0.0


def multiplied(degrees: Sequence[Degree]) -> Any:
    """A product of all inputs."""
    return None if None in degrees else float(sum(d for d in degrees if d is not None))


def divided(degrees: Sequence[Degree]) -> Any:
    """The first input by the second."""
    first, second = degrees
    return None if first is None else first - (second or 0.0)


def product_added(degrees: Sequence[Degree]) -> Any:
    """The first input plus the product of the others."""
    return alike([degrees[0], multiplied(degrees[1:])])


def quotient_added(degrees: Sequence[Degree]) -> Any:
    """The first input plus the second by the third."""
    return alike([degrees[0], divided(degrees[1:])])


def attention(degrees: Sequence[Degree]) -> Any:
    """Softmax of the product of queries and keys, times values."""
    query, key, value, *rest = degrees
    return CLASH if any((query, key, *rest)) else value


def power(exponent: float) -> Rule:
    """The first input to a power."""

    def rule(degrees: Sequence[Degree]) -> Any:
        return CLASH if any(degrees[1:]) else degrees[0] and degrees[0] * exponent

    return rule


def moments(first: float) -> Rule:
    """A pair of a spread of power ``first`` and a mean."""

    def rule(degrees: Sequence[Degree]) -> Any:
        degree = degrees[0]
        return (degree and degree * first, degree)

    return rule


def _words(text: str) -> frozenset[str]:
    return frozenset(text.split())


# ---- The table: names of ATen without the `_` of in-place forms

_CARRIED = _words(
    """
    _adaptive_avg_pool2d _adaptive_avg_pool3d _fft_c2c _fft_c2r _fft_r2c _prelu_kernel
    _reshape_alias _to_copy _unsafe_index _unsafe_view abs adaptive_avg_pool1d
    adaptive_avg_pool2d adaptive_max_pool1d adaptive_max_pool2d adaptive_max_pool3d alias amax
    amin aminmax as_strided avg_pool1d avg_pool2d avg_pool3d bernoulli channel_shuffle clone col2im
    complex conj contiguous copysign cummax cummin cumsum detach diag diag_embed diagonal
    diff dropout embedding expand feature_dropout flip fractional_max_pool2d gather
    grid_sampler_2d grid_sampler_3d im2col index index_select kthvalue leaky_relu lift_fresh
    masked_select max max_pool2d_with_indices max_pool3d_with_indices max_unpool2d max_unpool3d
    mean median mkldnn_adaptive_avg_pool2d mkldnn_max_pool2d mode nan_to_num nanmean nansum
    native_channel_shuffle native_dropout neg negative permute pixel_shuffle pixel_unshuffle
    positive prelu real imag reflection_pad1d reflection_pad2d reflection_pad3d relu repeat
    repeat_interleave replication_pad1d replication_pad2d replication_pad3d resolve_conj
    resolve_neg roi_align roi_pool roll rot90 rrelu rrelu_with_noise scale select slice sort split
    split_with_sizes squeeze stft sum t take to topk trace transpose tril triu unbind unfold
    unsqueeze upsample_bicubic2d upsample_bilinear2d upsample_linear1d upsample_nearest1d
    upsample_nearest2d upsample_nearest3d upsample_trilinear3d _upsample_bicubic2d_aa
    _upsample_bilinear2d_aa _upsample_nearest_exact1d _upsample_nearest_exact2d
    _upsample_nearest_exact3d view view_as_complex view_as_real ps_roi_align ps_roi_pool
    """
)
_ALIKE = _words(
    """
    add cat concat fmax fmin hypot index_add index_copy index_put index_fill lerp
    masked_fill masked_scatter maximum minimum scatter scatter_add scatter_reduce select_scatter
    slice_scatter diagonal_scatter stack sub rsub where _index_put_impl _unsafe_index_put
    segment_reduce index_reduce
    """
)
_COMPARED = _words(
    'eq ne lt le gt ge allclose bucketize equal isclose searchsorted atan2 floor_divide remainder'
)
_ANY_SCALE = _words(
    """
    all any argmax argmin argsort count_nonzero full_like heaviside isfinite isinf isnan isneginf
    isposinf logical_and logical_not logical_or logical_xor new_full new_ones nonzero ones_like
    rand_like randint_like randn_like sgn sign signbit
    """
)
_ZEROS = _words(
    """
    empty empty_like empty_permuted empty_strided new_empty new_empty_strided new_zeros zero zeros
    zeros_like
    """
)
_MULTIPLIED = _words('mul bmm mm mv dot inner outer vdot ger kron multiply matmul einsum linear')
_DIVIDED = _words('div divide true_divide')
_PRODUCT_ADDED = _words('addmm baddbmm addmv addbmm addr addcmul')
CONVOLUTIONS = _words(
    'convolution _convolution convolution_overrideable mkldnn_convolution cudnn_convolution '
    'thnn_conv2d _slow_conv2d_forward slow_conv3d_forward conv1d conv2d conv3d '
    'conv_transpose1d conv_transpose2d conv_transpose3d _conv_depthwise2d conv_depthwise3d'
)
_POWERS = {
    'square': 2.0, 'sqrt': 0.5, 'rsqrt': -0.5, 'reciprocal': -1.0, 'var': 2.0, 'std': 1.0,
    'norm': 1.0, 'linalg_vector_norm': 1.0, 'linalg_matrix_norm': 1.0, 'frobenius_norm': 1.0,
}  # fmt: skip
_NORMALIZED = _words(
    """
    native_group_norm group_norm native_layer_norm layer_norm instance_norm cudnn_batch_norm
    _fused_rms_norm rms_norm
    """
)
_ORDER = _words('max min topk sort kthvalue median mode cummax cummin')
# Known to depend on the scale, so that no probe is needed.
_DEPENDENT = _words(
    """
    _local_scalar_dense _log_softmax _softmax celu elu erf exp expm1 gelu hardshrink hardsigmoid
    hardswish hardtanh log log10 log1p log2 log_sigmoid logsumexp mish relu6 selu sigmoid silu sin
    cos softplus softshrink tanh
    """
)


def is_batch_norm_op(name: str) -> bool:
    """Return whether ``name`` is one of ATen's forms of batch normalization."""
    return 'batch_norm' in name and 'backward' not in name


def uses_batch_statistics(func: Any, args: dict[str, Any]) -> bool:
    """Return whether a batch normalization normalizes by the batch, not by fixed statistics."""
    if 'no_training' in func._schema.name or 'no_update' in func._schema.name:
        return False
    return bool(args.get('training', args.get('train', True)))


def read(name: str, args: dict[str, Any]) -> Reading | None:
    """Return what an operation reads and the rule for its result, None if it is not in the table.

    Args:
        name: Name of the operation in ATen, without namespace and the ``_`` of in-place forms.
        args: Its arguments by name.
    """
    reading = _read(name, args)
    if reading is not None and not reading.tensors and reading.rule is not zeros:
        return Reading(any_scale, [])  # of integers and numbers
    return reading


def _read(name: str, args: dict[str, Any]) -> Reading | None:
    tensors = tensors_in(args.values())
    scalar = _first_number(args)
    if name in _ZEROS and name not in ('zero', 'empty_like'):
        return Reading(zeros, [])
    if name in ('zero', 'empty_like') or (name == 'fill' and _is_scale_free(scalar)):
        return Reading(zeros, [])
    if name == 'fill':
        value = args.get('value')
        return Reading(alike, [value] if isinstance(value, Tensor) else [])
    if name == 'copy':
        return Reading(carried, tensors_in([args['src']]))
    if name in _ANY_SCALE:
        return Reading(any_scale, tensors)
    if name in _DEPENDENT:
        return Reading(invariant, tensors)
    if name in _NORMALIZED or is_batch_norm_op(name):
        return Reading(normalized, tensors)
    if name in ('_to_copy', 'to') and _changes_to_integers(args):
        return Reading(invariant, tensors)
    if name in _ORDER and len(tensors) > 1:  # torch.max of two tensors
        return Reading(alike, tensors)
    if name in _CARRIED or name in ('min', 'mode', 'median'):
        return Reading(carried, tensors)
    if name in _ALIKE:
        return _read_sum(name, args, tensors)
    if name in _COMPARED:
        numbers = [v for k, v in args.items() if k in ('other', 'self') and _is_number(v)]
        fixed = any(not _is_eps(v) for v in numbers)
        return Reading(_with_constant(compared) if fixed else compared, tensors)
    if name in _MULTIPLIED:
        if name == 'linear' and len(tensors) == 3:
            return Reading(product_added, [tensors[2], *tensors[:2]])
        return Reading(multiplied, tensors)
    if name in _DIVIDED:
        if args.get('rounding_mode'):
            return Reading(invariant, tensors)
        if len(tensors) == 1:
            return Reading(carried if isinstance(args.get('self'), Tensor) else power(-1), tensors)
        return Reading(divided, tensors)
    if name in _PRODUCT_ADDED:
        return Reading(product_added, tensors)
    if name == 'addcdiv':
        return Reading(quotient_added, tensors)
    if name in CONVOLUTIONS:
        operands = tensors_in([args.get('input', args.get('self')), args['weight']])
        bias = args.get('bias')
        if isinstance(bias, Tensor):
            return Reading(product_added, [bias, *operands])
        return Reading(multiplied, operands)
    if name in _POWERS:
        return Reading(power(_POWERS[name]), tensors)
    if name == 'pow':
        exponent = args.get('exponent')
        if isinstance(exponent, (int, float)) and isinstance(args.get('self'), Tensor):
            return Reading(power(float(exponent)), tensors)
        return Reading(invariant, tensors)
    if name in ('var_mean', 'std_mean'):
        return Reading(moments(2.0 if name == 'var_mean' else 1.0), tensors)
    if 'scaled_dot_product' in name or name == '_flash_attention_forward':
        return Reading(attention, tensors)
    if name in ('clamp', 'clamp_min', 'clamp_max', 'clip'):
        return _read_clamp(args, tensors)
    if name in ('threshold',):
        free = _is_eps(args.get('threshold')) and _is_scale_free(args.get('value'))
        return Reading(carried if free else invariant, tensors)
    if name in ('constant_pad_nd', 'pad'):
        free = _is_scale_free(args.get('value') or 0)
        return Reading(carried if free else _with_constant(alike), tensors)
    return None


def _read_sum(name: str, args: dict[str, Any], tensors: list[Tensor]) -> Reading:
    if name == 'lerp' and isinstance(args.get('weight'), Tensor):
        return Reading(lambda d: CLASH if d[2] else alike(d[:2]), tensors)
    names = ('value',) if name in ('masked_fill', 'index_fill') else ('self', 'other')
    names = (*names, 'value', 'src') if name.startswith('scatter') else names
    numbers = [args[key] for key in names if _is_number(args.get(key))]
    small = _is_scale_free if name not in ('add', 'sub', 'rsub') else _is_eps
    if name in ('add', 'sub', 'rsub', 'maximum', 'fmax'):
        tensors = [t for t in tensors if not _is_eps_tensor(t)] or tensors
    return Reading(alike if all(map(small, numbers)) else _with_constant(alike), tensors)


def _read_clamp(args: dict[str, Any], tensors: list[Tensor]) -> Reading:
    bounds = [args.get(key) for key in ('min', 'max')]
    numbers = [bound for bound in bounds if _is_number(bound)]
    return Reading(alike if all(map(_is_eps, numbers)) else _with_constant(alike), tensors)


def _with_constant(rule: Rule) -> Rule:
    """Return the rule for one more operand, a number that stays as it is."""
    return lambda degrees: rule([*degrees, 0.0])


def tensors_in(values: Any) -> list[Tensor]:
    """Return the floating-point tensors among arguments; integers have no scale."""
    found = []
    for value in values:
        if isinstance(value, Tensor):
            if value.is_floating_point() or value.is_complex():
                found.append(value)
        elif isinstance(value, (list, tuple)):
            found += tensors_in(value)
    return found


def _changes_to_integers(args: dict[str, Any]) -> bool:
    dtype = args.get('dtype')
    return dtype is not None and not (dtype.is_floating_point or dtype.is_complex)


def _is_number(value: Any) -> bool:
    return isinstance(value, (int, float, complex)) and not isinstance(value, bool)


def _first_number(args: dict[str, Any]) -> Any:
    return next((value for value in args.values() if _is_number(value)), None)


def _is_scale_free(value: Any) -> bool:
    """Return whether a positive factor does not change the number."""
    return _is_number(value) and (value == 0 or (isinstance(value, float) and math.isinf(value)))


def _is_eps(value: Any) -> bool:
    return _is_scale_free(value) or (_is_number(value) and abs(value) <= _LARGEST_EPS)


def _is_eps_tensor(tensor: Tensor) -> bool:
    """Return whether a tensor is one number as small as an eps; no parameter, which may grow."""
    if tensor.numel() != 1 or tensor.requires_grad or tensor.device.type == 'meta':
        return False
    return _is_eps(float(tensor.detach()))
