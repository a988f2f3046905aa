"""Deformable convolution has MMCV's semantics in the layers of mmws and in the ops of MMCV."""

import math

import pytest
import torch
from torch import Tensor

import mmws
from mmws.compat.deform import DeformGeometry, deform_conv2d, deform_conv2d_backward

ops = pytest.importorskip('mmcv.ops')

PACKS = [
    (mmws.DeformConvPackWS2d, ops.DeformConv2dPack),
    (mmws.DeformConvPackWN2d, ops.DeformConv2dPack),
    (mmws.ModulatedDeformConvPackWS2d, ops.ModulatedDeformConv2dPack),
    (mmws.ModulatedDeformConvPackWN2d, ops.ModulatedDeformConv2dPack),
]
F64 = {'dtype': torch.float64}


@pytest.mark.parametrize(('layer', 'plain'), PACKS)
@pytest.mark.parametrize('kernel', [1, 3])
def test_gradients_of_offsets_are_those_of_mmcv(layer, plain, kernel):
    # Would catch torchvision's derivative at the border, where offsets that start at zero put the
    # whole border on a kink of the interpolation.
    torch.manual_seed(0)
    options = dict(kernel_size=kernel, padding=1, groups=2, deform_groups=2)
    ours, theirs = layer(4, 6, **options).double(), plain(4, 6, **options).double()
    with torch.no_grad():
        theirs.weight.copy_(ours.effective_weight())
        theirs.conv_offset.load_state_dict(ours.conv_offset.state_dict())
        if getattr(theirs, 'bias', None) is not None:
            theirs.bias.copy_(ours.bias)
    x = torch.randn(2, 4, 7, 9, **F64)
    outputs = [module(x) for module in (ours, theirs)]
    torch.testing.assert_close(*outputs)
    grad = torch.randn_like(outputs[0])
    ours_grads, theirs_grads = (
        torch.autograd.grad(output, list(module.conv_offset.parameters()), grad)
        for output, module in zip(outputs, (ours, theirs))
    )
    assert theirs_grads[0].any()
    torch.testing.assert_close(ours_grads, theirs_grads)


@pytest.mark.parametrize('value', [math.nan, math.inf, -math.inf, 1e30])
@pytest.mark.parametrize('dtype', [torch.float16, torch.float32, torch.float64])
@pytest.mark.parametrize('layer', [mmws.DeformConvWS2d, mmws.DeformConvWN2d])
def test_offsets_to_nowhere_are_outside_of_the_image(layer, dtype, value):
    # torchvision's operator reads whatever memory such an offset points to, and the process dies.
    torch.manual_seed(0)
    conv = layer(4, 6, 3, padding=1).to(dtype)
    x = torch.rand(1, 4, 16, 16, dtype=dtype)
    offset, mask = torch.randn(1, 18, 16, 16, dtype=dtype), torch.rand(1, 9, 16, 16, dtype=dtype)
    outside, masked = offset.clone(), mask.clone()
    outside[:, 4], outside[:, 7, 0] = value, value
    masked[:, 2], masked[:, 3, 0] = 0, 0
    outside.requires_grad_()
    output = conv(x, outside, mask)
    torch.testing.assert_close(output, conv(x, offset, masked))
    output.sum().backward()
    assert outside.grad.isfinite().all()
    assert not outside.grad[:, 4:6].any()


@pytest.mark.parametrize('layer', [pack for pack, _ in PACKS])
def test_layers_survive_offsets_that_are_no_numbers(layer):
    # A diverged training makes them; its NaN has to reach the loss, not end the process.
    conv = layer(4, 6, 3, padding=1)
    torch.nn.init.constant_(conv.conv_offset.bias, math.nan)
    conv(torch.rand(1, 4, 64, 64)).sum().backward()


def finer_inputs() -> tuple[Tensor, ...]:
    torch.manual_seed(0)
    return (
        torch.randn(2, 4, 6, 5, **F64),
        torch.randn(2, 36, 9, 7, **F64),
        torch.rand(2, 18, 9, 7, **F64),
        torch.randn(6, 4, 3, 3, **F64),
        torch.randn(6, **F64),
    )


def first(tensor: Tensor, channels: int, *size: int) -> Tensor:
    """The values that MMCV's kernel reads of each image, one image after the other."""
    values = [image.flatten().tolist()[: channels * math.prod(size)] for image in tensor]
    return torch.tensor(values, **F64).view(-1, channels, *size)


def test_mmcv_reads_the_first_values_of_finer_offsets():
    # DyHead gives offsets of a finer level. Would catch a crop of each channel, and values of
    # another image; and gradients anywhere but at the values that were read.
    x, offset, mask, weight, bias = finer_inputs()
    exact = [first(offset, 36, 6, 5), first(mask, 18, 6, 5)]
    finer = [offset.requires_grad_(), mask.requires_grad_()]
    exact = [t.requires_grad_() for t in exact]
    geometry = (weight, bias, 1, 1, 1, 1, 2)
    outputs = [ops.modulated_deform_conv2d(x, *given, *geometry) for given in (finer, exact)]
    torch.testing.assert_close(*outputs)
    grad = torch.randn_like(outputs[0])
    finer_grads = torch.autograd.grad(outputs[0], finer, grad)
    for actual, expected in zip(finer_grads, torch.autograd.grad(outputs[1], exact, grad)):
        torch.testing.assert_close(first(actual, *expected.shape[1:]), expected)
        assert actual.count_nonzero() == expected.count_nonzero()


def test_finer_offsets_of_one_tensor():
    # DyHead cuts offsets and mask out of one tensor, so that neither is contiguous.
    x, offset, mask, weight, bias = finer_inputs()
    both = torch.cat([offset, mask], 1)
    geometry = (weight, bias, 1, 1, 1, 1, 2)
    torch.testing.assert_close(
        ops.modulated_deform_conv2d(x, both[:, :36], both[:, 36:], *geometry),
        ops.modulated_deform_conv2d(x, offset, mask, *geometry),
    )


def test_layers_read_the_first_values_too():
    # A converted DyHead has to compute what it computed before.
    torch.manual_seed(0)
    layer, x = mmws.DeformConvWS2d(4, 6, 3, padding=1).double(), torch.randn(2, 4, 6, 5, **F64)
    offset, mask = torch.randn(2, 18, 9, 7, **F64), torch.rand(2, 9, 9, 7, **F64)
    expected = layer(x, first(offset, 18, 6, 5), first(mask, 9, 6, 5))
    torch.testing.assert_close(layer(x, offset, mask), expected)


@pytest.mark.parametrize('modulated', [False, True])
def test_offsets_that_do_not_fit_are_named(modulated):
    # Coarser ones would be read past the end of an image; MMCV's first version takes no others.
    x, offset, mask, weight, _ = finer_inputs()
    geometry = DeformGeometry((1, 1), (1, 1), (1, 1), 1, 2)
    if modulated:
        offset = offset[:, :, :4, :4]
    with pytest.raises(ValueError, match=r'the offset has the shape .* needs \(2, 36, 6, 5\)'):
        deform_conv2d(x, weight, offset, mask if modulated else None, None, geometry)


def test_gradcheck():
    # Away from the kinks, the gradients are the derivatives of what the function computes.
    torch.manual_seed(0)
    geometry = DeformGeometry((2, 1), (1, 2), (1, 2), 2, 2)
    x, weight, bias = (torch.randn(*shape, **F64) for shape in ((2, 4, 5, 6), (6, 2, 3, 2), (6,)))
    size = geometry.output_size(x, weight)
    offset, mask = torch.randn(2, 24, *size, **F64), torch.rand(2, 12, *size, **F64)

    class Function(torch.autograd.Function):
        @staticmethod
        def forward(ctx, *tensors):
            ctx.save_for_backward(*tensors[:4])
            return deform_conv2d(*tensors, geometry)

        @staticmethod
        def backward(ctx, grad):
            return deform_conv2d_backward(grad, *ctx.saved_tensors, geometry)

    tensors = [t.requires_grad_() for t in (x, weight, offset, mask, bias)]
    assert torch.autograd.gradcheck(Function.apply, tensors, fast_mode=True)
