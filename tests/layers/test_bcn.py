import copy
import io
import pickle

import pytest
import torch
import torch.distributed as dist
from mmcv.cnn import build_norm_layer
from mmengine.model import initialize
from torch import nn
from torch.nn.parallel import DistributedDataParallel

import mmws  # noqa: F401  (its scope must be importable)
from mmws.layers.bcn import BCN

SHAPES = [(3, 12), (2, 12, 7), (2, 12, 4, 5), (1, 12, 3, 2, 4)]


def reference(x, layer, mean, var):
    """The two equations of the docstring, one image and one group at a time."""
    per_channel = (1, -1, *[1] * (x.dim() - 2))
    x = (x - mean.view(per_channel)) / (var.view(per_channel) + layer.eps).sqrt()
    x = x * layer.bn_weight.view(per_channel) + layer.bn_bias.view(per_channel)
    images = []
    for image in x:
        groups = []
        for g, group in enumerate(image.chunk(layer.num_groups)):
            centred = group - group.mean()
            normalized = centred / (centred.square().mean() + layer.eps).sqrt()
            groups.append(layer.weight[g] * normalized + layer.bias[g])
        images.append(torch.cat(groups))
    return torch.stack(images)


def flat(x):
    return x.detach().transpose(0, 1).flatten(1)


def build(**kwargs):
    layer = BCN(12, num_groups=3, **kwargs).double()
    for parameter in layer.parameters():
        nn.init.uniform_(parameter, -2, 2)
    return layer


def grads(y, layer, x):
    loss = (y * torch.arange(y.numel(), dtype=y.dtype).view_as(y).sin()).sum()
    return torch.autograd.grad(loss, [x, *layer.parameters()])


@pytest.mark.parametrize('shape', SHAPES, ids=str)
def test_batch_variant_follows_the_equations(shape):
    torch.manual_seed(0)
    layer = build()
    x = torch.randn(shape, dtype=torch.float64).mul(3).add(1).requires_grad_()
    dims = [d for d in range(x.dim()) if d != 1]
    expected = reference(x, layer, x.mean(dims), x.var(dims, correction=0))
    y = layer(x)
    torch.testing.assert_close(y, expected)
    torch.testing.assert_close(grads(y, layer, x), grads(expected, layer, x))

    bn = nn.BatchNorm1d(12).double()  # its running averages are the layer's
    bn(flat(x).T)
    torch.testing.assert_close(layer.bn.running_mean, bn.running_mean)
    torch.testing.assert_close(layer.bn.running_var, bn.running_var)
    layer.eval()
    torch.testing.assert_close(layer(x), reference(x, layer, bn.running_mean, bn.running_var))


@pytest.mark.parametrize('shape', SHAPES, ids=str)
def test_estimated_variant_follows_the_equations(shape):
    # Would catch: the update after the normalization, the mean updated before the squares, a
    # gradient through the statistics, batch statistics in training.
    torch.manual_seed(0)
    layer = build(estimate=True, momentum=0.3)
    mean, var = torch.zeros(12).double(), torch.ones(12).double()
    for _ in range(3):
        x = torch.randn(shape, dtype=torch.float64).mul(3).add(1).requires_grad_()
        squares = (flat(x) - mean[:, None]).square().mean(1)
        mean, var = 0.7 * mean + 0.3 * flat(x).mean(1), 0.7 * var + 0.3 * squares
        y, expected = layer(x), reference(x, layer, mean, var)
        torch.testing.assert_close(y, expected)
        torch.testing.assert_close(grads(y, layer, x), grads(expected, layer, x))
    layer.eval()
    torch.testing.assert_close(layer(x), expected)
    torch.testing.assert_close(layer.bn.running_mean, mean)
    assert layer.bn.num_batches_tracked == 3


def test_estimates_learn_the_spread_between_images_of_one_position():
    # The variance within such a batch is 0: estimated from it alone, the layer would divide by 0.
    torch.manual_seed(0)
    layer = BCN(8, num_groups=2, estimate=True, momentum=0.02)
    for _ in range(600):
        y = layer(3 * torch.randn(1, 8, 1, 1) + 5)
    assert y.isfinite().all()
    torch.testing.assert_close(layer.bn.running_mean, torch.full((8,), 5.0), atol=1.5, rtol=0)
    torch.testing.assert_close(layer.bn.running_var, torch.full((8,), 9.0), atol=5, rtol=0)


def test_one_value_per_channel():
    x = torch.randn(1, 8, 1, 1)
    with pytest.raises(ValueError, match='more than 1 value per channel'):
        BCN(8, num_groups=2)(x)
    # Groups of a single value too, which F.group_norm refuses.
    assert BCN(8, num_groups=8, estimate=True)(x).isfinite().all()
    assert BCN(8, num_groups=8).eval()(x).isfinite().all()
    with pytest.raises(ValueError, match='1D'):
        BCN(8)(torch.randn(8))


@pytest.mark.parametrize('estimate', [False, True])
def test_empty_batch_leaves_the_statistics(estimate):
    # A RoI head without proposals: a mean over nothing is NaN, and would stay in the statistics.
    layer = BCN(8, estimate=estimate)
    y = layer(torch.randn(0, 8, 7, 7, requires_grad=True))
    y.sum().backward()
    assert y.shape == (0, 8, 7, 7)
    assert layer.bn.running_mean.isfinite().all()
    assert layer.bn.running_var.isfinite().all()


@pytest.mark.parametrize('estimate', [False, True])
def test_shared_over_the_levels_of_a_pyramid(estimate):
    # Would catch: backward through statistics which the next level has changed in place.
    layer = build(estimate=estimate)
    levels = [torch.randn(1, 12, s, s, dtype=torch.float64) for s in (8, 4, 2)]
    sum(layer(level).square().sum() for level in levels).backward()
    assert all(p.grad.isfinite().all() for p in layer.parameters())


@pytest.mark.parametrize('estimate', [False, True])
def test_double_backward(estimate):
    torch.manual_seed(0)
    # Statistics frozen in the estimated variant: finite differences would count each probe.
    layer = build(estimate=estimate).train(not estimate)
    x = torch.randn(2, 12, 2, 2, dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(layer, x)
    assert torch.autograd.gradgradcheck(layer, x)


@pytest.mark.parametrize('estimate', [False, True])
@pytest.mark.parametrize('dtype', [torch.float16, torch.bfloat16])
def test_half_precision_input_is_normalized_in_float32(estimate, dtype):
    # Would catch: variances of values near 300, whose squares float16 cannot hold.
    torch.manual_seed(0)
    layer, half = BCN(12, 3, estimate=estimate), BCN(12, 3, estimate=estimate)
    x = (torch.randn(2, 12, 9, 9) + 300).to(dtype)
    expected = layer(x.float())
    with torch.autocast('cpu', torch.bfloat16):
        y = half(x)
    assert y.dtype is dtype
    torch.testing.assert_close(y, expected.to(dtype))
    torch.testing.assert_close(half.bn.running_var, layer.bn.running_var)


@pytest.mark.parametrize('estimate', [False, True])
def test_channels_last_and_compile(estimate):
    torch.manual_seed(0)
    layers = [BCN(12, 3, estimate=estimate) for _ in range(3)]
    x = torch.randn(2, 12, 5, 6)
    expected = layers[0](x)
    y = layers[1](x.to(memory_format=torch.channels_last))
    torch.testing.assert_close(y, expected)
    assert y.is_contiguous(memory_format=torch.channels_last)
    y = torch.compile(layers[2], fullgraph=True, backend='aot_eager')(x)
    torch.testing.assert_close(y, expected)
    torch.testing.assert_close(layers[2].state_dict(), layers[0].state_dict())


@pytest.mark.parametrize('estimate', [False, True])
def test_copies_are_equal(estimate):
    layer = build(estimate=estimate)
    x = torch.randn(2, 12, 3, 3, dtype=torch.float64)
    layer(x)
    layer.eval()
    loaded = BCN(12, num_groups=3, estimate=estimate).double().eval()
    buffer = io.BytesIO()
    torch.save(layer.state_dict(), buffer)
    buffer.seek(0)
    loaded.load_state_dict(torch.load(buffer, weights_only=True))
    for other in (copy.deepcopy(layer), pickle.loads(pickle.dumps(layer)), loaded):
        assert torch.equal(other(x), layer(x))


def test_built_by_mmcv():
    cfg = {'type': 'mmws.BCN', 'estimate': True, 'momentum': 0.01, 'requires_grad': False}
    name, layer = build_norm_layer(cfg, 48, postfix=1)
    assert name == 'bcn1'
    assert isinstance(layer, BCN)
    assert (layer.num_groups, layer.eps, layer.bn.momentum) == (24, 1e-5, 0.01)
    assert not any(p.requires_grad for p in layer.parameters())
    assert layer.bn_weight.shape == (48,)
    assert layer.weight.shape == (24,)
    assert not list(BCN(8, affine=False).parameters())
    assert BCN(8, affine=False)(torch.randn(2, 8, 3, 3)).shape == (2, 8, 3, 3)


@pytest.mark.parametrize('estimate', [False, True])
def test_norm_eval_freezes_the_statistics(estimate):
    layer = BCN(12, 3, estimate=estimate)
    for module in layer.modules():  # as MMDetection's ResNet.train does
        if isinstance(module, nn.modules.batchnorm._BatchNorm):
            module.eval()
    before = copy.deepcopy(layer.state_dict())
    y = layer(torch.randn(2, 12, 4, 4))
    torch.testing.assert_close(layer.state_dict(), before, rtol=0, atol=0)
    assert y.isfinite().all()


@pytest.mark.parametrize('estimate', [False, True])
def test_sync_bn_conversion_keeps_the_layer(estimate):
    # Would catch: the whole layer replaced by SyncBatchNorm, as for subclasses of BatchNorm.
    layer = BCN(12, 3, estimate=estimate)
    x = torch.randn(2, 12, 4, 4)
    expected = copy.deepcopy(layer).eval()(x)
    layer = nn.SyncBatchNorm.convert_sync_batchnorm(nn.Sequential(layer))[0]
    assert isinstance(layer, BCN)
    assert isinstance(layer.bn, nn.SyncBatchNorm)
    torch.testing.assert_close(layer.eval()(x), expected)


def test_zero_initialised_branch_still_learns():
    # MMDetection's ResNet zeroes the last norm of a block: with both gains 0 it would stay dead.
    layer = BCN(12, 3)
    block = nn.Sequential()
    block.norm = layer
    initialize(block, {'type': 'Constant', 'val': 0, 'override': {'name': 'norm'}})
    y = layer(torch.randn(2, 12, 4, 4))
    assert y.abs().max() == 0
    (y * torch.randn_like(y)).sum().backward()
    assert layer.weight.grad.abs().min() > 0


@pytest.fixture
def process_group():
    dist.init_process_group('gloo', store=dist.HashStore(), rank=0, world_size=1)
    yield
    dist.destroy_process_group()


def test_distributed_data_parallel(process_group):
    # Would catch: statistics of the first call overwritten before its backward, here by DDP too.
    layer = BCN(12, 3, estimate=True)
    model, x = DistributedDataParallel(layer), torch.randn(2, 12, 4, 4)
    (model(x).square().sum() + model(x).square().sum()).backward()
    assert all(p.grad.isfinite().all() for p in layer.parameters())
    assert layer.bn.num_batches_tracked == 2
