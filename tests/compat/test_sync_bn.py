"""MMCV's synchronized batch norm against PyTorch's batch norm of all images in one process."""

import pytest
import torch
import torch.distributed as dist
import torch.multiprocessing
from torch import nn

import mmws  # noqa: F401  (provides mmcv._ext)
from tests.helpers.op_cases import COMPILED, HALF

pytestmark = pytest.mark.skipif(COMPILED, reason='compiled MMCV has this op on GPUs only')


def join(rank, world_size, folder):
    dist.init_process_group(
        'gloo', init_method=f'file://{folder}/store', rank=rank, world_size=world_size
    )


@pytest.fixture
def one_process(tmp_path):
    join(0, 1, tmp_path)
    yield
    dist.destroy_process_group()


def data():
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(4, 3, 5, 2, generator=generator) * 3 + 1
    return x, torch.randn(x.shape, generator=generator), torch.rand(2, 3, generator=generator)


def run(layer, x, grad, parameters):
    layer.weight.data, layer.bias.data = (p.clone() for p in parameters)
    x = x.clone().requires_grad_()
    output = layer(x)
    output.backward(grad)
    return output, x.grad, layer.weight.grad, layer.bias.grad, layer.running_mean, layer.running_var


def expected():
    return run(nn.BatchNorm2d(3, momentum=0.3), *data())


@pytest.mark.parametrize('mode', ['default', 'N'])
def test_one_process_is_batch_norm(mode, one_process):
    # Catches a biased running variance, a momentum on the wrong side and a missing eps.
    from mmcv.ops import SyncBatchNorm

    layer = SyncBatchNorm(3, momentum=0.3, stats_mode=mode)
    for found, right in zip(run(layer, *data()), expected()):
        torch.testing.assert_close(found, right)


def of_half_the_batch(rank, folder):
    from mmcv.ops import SyncBatchNorm

    torch.set_num_threads(1)
    join(rank, 2, folder)
    x, grad, parameters = data()
    part = slice(2 * rank, 2 * rank + 2)
    results = run(SyncBatchNorm(3, momentum=0.3), x[part], grad[part], parameters)
    torch.save([t.detach() for t in results], f'{folder}/{rank}.pt')
    dist.destroy_process_group()


@pytest.mark.skipif(torch.cuda.is_available(), reason='autograd has threads here by now: no fork')
def test_two_processes_are_batch_norm_of_both_batches(tmp_path):
    # Catches a variance around the mean of one process, and an unbiased variance of its count.
    torch.multiprocessing.start_processes(
        of_half_the_batch, args=(str(tmp_path),), nprocs=2, start_method='fork'
    )
    ranks = [torch.load(tmp_path / f'{rank}.pt') for rank in (0, 1)]
    output, grad, weight_grad, bias_grad, mean, var = expected()
    torch.testing.assert_close(torch.cat([r[0] for r in ranks]), output)
    torch.testing.assert_close(torch.cat([r[1] for r in ranks]), grad)
    for found in ranks:
        # Means over the processes, as DDP makes of the gradients of other layers.
        torch.testing.assert_close(found[2] * 2, weight_grad)
        torch.testing.assert_close(found[3] * 2, bias_grad)
        torch.testing.assert_close(found[4], mean)
        torch.testing.assert_close(found[5], var)


def test_gradient_of_the_input_in_float64():
    # MMCV's function takes no float64, but the ops do.
    import mmcv._ext as ext

    torch.manual_seed(0)
    x = torch.randn(2, 3, 4, dtype=torch.float64, requires_grad=True)
    grad, weight, bias = torch.randn_like(x), *torch.rand(2, 3, dtype=torch.float64)
    mean, var, std, grad_weight, grad_bias = (torch.zeros_like(weight) for _ in range(5))
    norm, output, grad_input = (torch.zeros_like(x) for _ in range(3))
    with torch.no_grad():
        ext.sync_bn_forward_mean(x, mean)
        ext.sync_bn_forward_var(x, mean, var)
        ext.sync_bn_forward_output(
            x, mean, var, weight, bias, None, None, norm, std, output,
            eps=1e-5, momentum=0.1, group_size=1,
        )  # fmt: skip
        ext.sync_bn_backward_param(grad, norm, grad_weight, grad_bias)
        ext.sync_bn_backward_data(grad, weight, grad_weight, grad_bias, norm, std, grad_input)
    right = torch.nn.functional.batch_norm(x, None, None, weight, bias, True)
    torch.testing.assert_close(output, right.detach())
    torch.testing.assert_close(grad_input, torch.autograd.grad(right, x, grad)[0])


@pytest.mark.parametrize('dtype', HALF[:1])
def test_half_precision_keeps_statistics_in_float32(dtype, one_process):
    # The mean of values near 1000 is off by whole units if it is summed in half precision.
    from mmcv.ops import SyncBatchNorm

    x = (torch.randn(8, 2, 16, 16) + 1000).to(dtype)
    layer = SyncBatchNorm(2, momentum=1.0)
    assert layer(x).dtype == dtype
    torch.testing.assert_close(layer.running_mean, x.float().mean((0, 2, 3)))
