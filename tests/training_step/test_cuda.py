"""Layers and training steps on a GPU, by the Triton kernels where Triton is installed."""

import copy

import pytest
import torch
import torch.nn.functional as F
from torch import nn

import mmws
from mmws import TrainingStep, layers
from mmws.kernels import aten

pytestmark = pytest.mark.skipif(not torch.cuda.is_available(), reason='no GPU')

LAYERS = {
    'ConvWS1d': (lambda: layers.ConvWS1d(6, 8, 3), (2, 6, 9)),
    'ConvWS2d': (lambda: layers.ConvWS2d(6, 8, 3), (2, 6, 9, 9)),
    'groups': (lambda: layers.ConvWS2d(6, 8, 3, groups=2, bias=False), (2, 6, 9, 9)),
    'long filters': (lambda: layers.ConvWS2d(600, 4, 3), (1, 600, 5, 5)),
    'ScaledConvWS2d': (lambda: layers.ScaledConvWS2d(6, 8, 3), (2, 6, 9, 9)),
    'ConvAWS2d': (lambda: layers.ConvAWS2d(6, 8, 3), (2, 6, 9, 9)),
    'ConvTransposeWS2d': (lambda: layers.ConvTransposeWS2d(6, 8, 3), (2, 6, 9, 9)),
    'ConvWN2d': (lambda: layers.ConvWN2d(6, 8, 3), (2, 6, 9, 9)),
    'ConvWS3d': (lambda: layers.ConvWS3d(3, 4, 3), (1, 3, 5, 5, 5)),
    'LinearWN': (lambda: layers.LinearWN(6, 8), (2, 6)),
}


class Net(nn.Module):
    """Layers of several weight functions, one used twice, with norms and a wide convolution."""

    def __init__(self):
        super().__init__()
        torch.manual_seed(0)
        self.stem = layers.ConvWS2d(3, 32, 3, padding=1)
        self.norm = nn.GroupNorm(4, 32)
        self.wide = layers.ConvWS2d(32, 128, 1)
        self.wide_norm = nn.GroupNorm(4, 128)
        self.wn = layers.ConvWN2d(128, 32, 1)
        self.shared = layers.ScaledConvWS2d(32, 32, 3, padding=1)

    def forward(self, x):
        x = F.relu(self.norm(self.stem(x)))
        x = F.relu(self.wide_norm(self.wide(x)))
        return self.shared(F.relu(self.shared(self.wn(x)))).mean((2, 3))


def gradients(model, x, dtype=None):
    model.zero_grad()
    with torch.autocast(x.device.type, dtype, enabled=dtype is not None):
        loss = model(x).float().square().mean() if dtype else model(x).square().mean()
    loss.backward()
    return [loss.detach(), *[p.grad for p in model.parameters()]]


@pytest.fixture(autouse=True)
def _exact():
    allowed = torch.backends.cuda.matmul.allow_tf32, torch.backends.cudnn.allow_tf32
    torch.backends.cuda.matmul.allow_tf32 = torch.backends.cudnn.allow_tf32 = False
    yield
    torch.backends.cuda.matmul.allow_tf32, torch.backends.cudnn.allow_tf32 = allowed


@pytest.mark.parametrize('memory_format', [torch.contiguous_format, torch.channels_last])
@pytest.mark.parametrize('dtype', [torch.float32, torch.float64])
@pytest.mark.parametrize('name', LAYERS)
def test_a_gpu_computes_what_a_cpu_computes(name, dtype, memory_format):
    build, shape = LAYERS[name]
    if memory_format is torch.channels_last and len(shape) != 4:
        pytest.skip('four dimensions alone have this layout')
    torch.manual_seed(0)
    layer, x = build().double(), torch.randn(shape, dtype=torch.float64)
    expected = gradients(layer, x)
    moved = copy.deepcopy(layer).to('cuda', dtype, memory_format=memory_format)
    got = gradients(moved, x.to('cuda', dtype, memory_format=memory_format))
    tolerance = 2e-4 if dtype == torch.float32 else 1e-6  # eps reaches a kernel as float32
    for a, b in zip(got, expected):
        assert (a.cpu().double() - b).abs().max() <= tolerance * b.abs().max().clamp_min(1e-3)


@pytest.mark.parametrize('remake', [False, True])
@pytest.mark.parametrize('dtype', [None, torch.bfloat16, torch.float16])
def test_a_training_step_gives_what_layers_alone_give(dtype, remake):
    model, x = Net().cuda(), torch.randn(2, 3, 64, 64, device='cuda')
    expected = gradients(model, x, dtype)
    with TrainingStep(model, remake=remake):
        for _ in range(2):
            got = gradients(model, x, dtype)
    # Layers alone are made in float32 and rounded by autocast, those together by the kernel.
    tolerance = 1e-5 if dtype is None else 2e-2
    for a, b in zip(got, expected):
        assert (a - b).abs().max() <= tolerance * b.abs().max()


def test_remaking_keeps_less_and_changes_nothing():
    model, x = Net().cuda(), torch.randn(2, 3, 128, 128, device='cuda')
    results, kept = [], []
    for remake in (False, True):
        with TrainingStep(model, remake=remake):
            gradients(model, x)
            before = torch.cuda.memory_allocated()
            loss = model(x).square().mean()
            kept.append(torch.cuda.memory_allocated() - before)
            model.zero_grad()
            loss.backward()
            results.append([p.grad.clone() for p in model.parameters()])
    assert kept[1] < 0.7 * kept[0]
    for a, b in zip(*results):
        assert (a - b).abs().max() <= 1e-6 * b.abs().max()


@pytest.mark.parametrize('remake', [False, True])
def test_a_step_waits_for_the_gpu_no_time(remake):
    """A synchronization stops the launches, which bound a step at one image."""
    model, x = Net().cuda(), torch.randn(1, 3, 64, 64, device='cuda')
    with TrainingStep(model, remake=remake):
        for _ in range(2):
            gradients(model, x)
        torch.cuda.set_sync_debug_mode('error')
        try:
            gradients(model, x)
        finally:
            torch.cuda.set_sync_debug_mode('default')


def test_a_step_can_be_captured_in_a_cuda_graph():
    model, x = Net().cuda(), torch.randn(1, 3, 64, 64, device='cuda')
    expected = [g.clone() for g in gradients(model, x)]
    with TrainingStep(model):
        side = torch.cuda.Stream()
        with torch.cuda.stream(side):
            for _ in range(3):
                gradients(model, x)
        torch.cuda.current_stream().wait_stream(side)
        model.zero_grad(set_to_none=True)
        graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(graph):
            loss = model(x).square().mean()
            loss.backward()
    graph.replay()
    got = [loss.detach(), *[p.grad for p in model.parameters()]]
    for a, b in zip(got, expected):
        assert (a - b).abs().max() <= 1e-5 * b.abs().max()


def test_held_weights_follow_the_optimizer():
    model, x = Net().cuda().eval(), torch.randn(1, 3, 32, 32, device='cuda')
    optimizer = torch.optim.SGD(model.parameters(), 0.1)
    with mmws.hold_weights(model):
        with torch.no_grad():
            model(x)
        gradients(model, x)
        optimizer.step()
        with torch.no_grad():
            held = model(x)
    with torch.no_grad():
        torch.testing.assert_close(held, model(x))


def test_compiled_layers_give_the_same():
    model, x = Net().cuda(), torch.randn(1, 3, 64, 64, device='cuda')
    expected = [g.clone() for g in gradients(model, x)]
    compiled = torch.compile(model)
    got = gradients(compiled, x)
    for a, b in zip(got, expected):
        assert (a - b).abs().max() <= 1e-3 * b.abs().max()


def test_the_operators_are_the_triton_kernels(monkeypatch):
    pytest.importorskip('triton')

    def fail(*args):
        raise AssertionError('the kernels of PyTorch have run')

    model = nn.Sequential(
        *(layers.ConvWS2d(3, 3, 3) for _ in range(2)), *(layers.ConvWN2d(3, 3, 3) for _ in range(2))
    ).cuda()
    x = torch.randn(1, 3, 32, 32, device='cuda')
    with TrainingStep(model):
        gradients(model, x)  # watches
        for name in ('standardize', 'standardize_backward', 'normalize', 'normalize_backward'):
            monkeypatch.setattr(aten, name, fail)
        gradients(model, x)
