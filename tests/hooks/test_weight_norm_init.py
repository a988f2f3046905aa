import copy
import random

import numpy as np
import pytest
import torch
import torch.distributed as dist
import torch.multiprocessing as mp
from mmengine.hooks import Hook
from mmengine.model import BaseModel
from mmengine.runner import Runner
from torch import nn
from torch.utils.data import DataLoader

from mmws import layers
from mmws.layers import ConvTransposeWN2d, ConvWN1d, ConvWN2d, ConvWN3d, LinearWN, init_weight_norm


class Net(nn.Module):
    """A trunk with a normalization layer and noise, and a head shared by two levels."""

    def __init__(self):
        super().__init__()
        self.conv1 = ConvWN2d(3, 8, 3, padding=1)
        self.norm = nn.BatchNorm2d(8)
        self.dropout = nn.Dropout(0.2)
        self.conv2 = ConvWN2d(8, 6, 3, stride=2)
        self.head = ConvWN2d(6, 4, 1)
        self.up = ConvTransposeWN2d(4, 5, 2, stride=2)
        self.unused = ConvWN2d(4, 4, 1)
        self.fc = LinearWN(5, 7)
        self.no_bias = LinearWN(7, 3, bias=False)

    def forward(self, x):
        x = self.conv1(x).relu()
        x = self.conv2(self.dropout(self.norm(x))).relu()
        levels = [self.head(x).relu(), self.head(x[..., ::2, ::2]).relu()]
        x = self.up(levels[0]).relu() + levels[1].mean((1, 2, 3), keepdim=True)
        return self.no_bias(self.fc(x.mean((2, 3))).relu())


@pytest.fixture
def net():
    torch.manual_seed(0)
    return Net()


@pytest.fixture
def images():
    return torch.randn(4, 3, 12, 12, generator=torch.Generator().manual_seed(1)) * 3 + 1


def moments(output, dim):
    dims = [d for d in range(output.dim()) if d != dim % output.dim()]
    return output.mean(dims), output.std(dims, correction=0)


def outputs_of(net, x):
    """First output of every executed layer."""
    outputs = {}

    def keep(module, _, output):
        outputs.setdefault(names[module], output.detach())

    names = {module: name for name, module in net.named_modules() if hasattr(module, 'weight_g')}
    handles = [module.register_forward_hook(keep) for module in names]
    net(x)
    for handle in handles:
        handle.remove()
    return outputs


def test_every_layer_puts_out_zero_mean_and_unit_variance(net, images):
    net.eval()  # without dropout, so that the second pass repeats the first
    report = init_weight_norm(net, images)
    outputs = outputs_of(net, images)
    assert report.initialized == ['conv1', 'conv2', 'head', 'up', 'fc', 'no_bias']
    assert report.without_bias == ['no_bias']
    assert report.not_executed == ['unused']
    assert report.dead_channels == {}
    for name in report.initialized:
        mean, std = moments(outputs[name], -1 if outputs[name].dim() == 2 else 1)
        torch.testing.assert_close(std, torch.ones_like(std))
        if name != 'no_bias':
            torch.testing.assert_close(mean, torch.zeros_like(mean), atol=2e-5, rtol=0)


LAYERS = [
    (lambda: ConvWN1d(4, 6, 3), (5, 4, 9)),
    (lambda: ConvWN2d(4, 6, 3, groups=2, padding=1), (5, 4, 9, 8)),
    (lambda: ConvWN2d(4, 6, 3), (4, 9, 8)),  # one image without its batch dimension
    (lambda: ConvWN3d(4, 6, 2), (2, 4, 3, 4, 5)),
    (lambda: ConvTransposeWN2d(4, 6, 3, stride=2, groups=2), (2, 4, 5, 5)),
    (lambda: LinearWN(4, 6), (50, 4)),
    (lambda: LinearWN(4, 6), (5, 7, 4)),
]


@pytest.mark.parametrize(('build', 'shape'), LAYERS)
def test_values_of_one_layer(build, shape):
    # t, 1 / σ and -μ / σ computed apart, in float64, whatever g and b were.
    torch.manual_seed(0)
    layer, x = build(), torch.randn(shape) * 2 + 3
    nn.init.uniform_(layer.weight_g, 0.5, 2)
    reference = copy.deepcopy(layer).double()
    nn.init.ones_(reference.weight_g)
    nn.init.zeros_(reference.bias)
    t = reference(x.double())
    mean, std = moments(t, t.dim() - layer.weight.dim() + 1)
    v = layer.weight.clone()
    init_weight_norm(layer, x)
    torch.testing.assert_close(layer.weight_g.flatten(), (1 / std).float())
    torch.testing.assert_close(layer.bias, (-mean / std).float(), atol=1e-5, rtol=1e-5)
    assert torch.equal(layer.weight, v)

    once = copy.deepcopy(layer.state_dict())
    init_weight_norm(layer, x)
    torch.testing.assert_close(layer.state_dict(), once, rtol=0, atol=0)


@pytest.mark.parametrize('name', ['ModulatedDeformConvPackWN2d', 'DeformConvPackWN2d'])
def test_deformable_layers(name):
    # Would catch: a bias asked of MMCV's first deformable convolution, which has no such attribute.
    torch.manual_seed(0)
    layer, x = getattr(layers, name)(4, 6, 3, padding=1), torch.randn(2, 4, 8, 8) + 1
    report = init_weight_norm(layer, x)
    assert report.initialized == ['']
    assert report.without_bias == ([] if name.startswith('Modulated') else [''])
    _, std = moments(layer(x), 1)
    torch.testing.assert_close(std, torch.ones_like(std))


def test_equals_batch_norm_on_whitened_input():
    # arXiv 1602.07868, section 3: after the initialisation, the layer is batch normalization.
    torch.manual_seed(0)
    x = torch.randn(200, 5, dtype=torch.float64)
    x = x - x.mean(0)
    x = x @ torch.linalg.inv(torch.linalg.cholesky(x.T @ x / len(x))).T
    torch.testing.assert_close(x.T @ x / len(x), torch.eye(5).double())
    layer = LinearWN(5, 8).double()
    init_weight_norm(layer, x)
    # Of whitened input, t has unit variance for any v: g is 1 and b is 0.
    torch.testing.assert_close(layer.weight_g.flatten(), torch.ones(8).double())
    torch.testing.assert_close(layer.bias, torch.zeros(8).double())
    bn = nn.BatchNorm1d(8, eps=1e-14).double()
    torch.testing.assert_close(layer(x), bn(x @ layer.weight.T))
    # On any input, too, as long as it is the batch of the initialisation.
    x = x @ torch.randn(5, 5).double() + 4
    init_weight_norm(layer, x)
    torch.testing.assert_close(layer(x), bn(x @ layer.weight.T))


def test_side_effects(net, images):
    net(images).sum().backward()
    modes = [m.training for m in net.modules()]
    buffers = {n: b.clone() for n, b in net.named_buffers()}
    grads = [None if p.grad is None else p.grad.clone() for p in net.parameters()]

    def forward(model, batch):
        random.random(), np.random.rand()
        return model(batch)

    torch.manual_seed(3), np.random.seed(3), random.seed(3)
    expected = torch.rand(1).item(), np.random.rand(), random.random()
    torch.manual_seed(3), np.random.seed(3), random.seed(3)
    init_weight_norm(net, images, forward)
    assert (torch.rand(1).item(), np.random.rand(), random.random()) == expected
    assert modes == [m.training for m in net.modules()]
    torch.testing.assert_close(dict(net.named_buffers()), buffers, rtol=0, atol=0)
    for parameter, grad in zip(net.parameters(), grads):
        assert (parameter.grad is None) == (grad is None)
        assert grad is None or torch.equal(parameter.grad, grad)
    assert not any(m._forward_hooks for m in net.modules())
    assert all(p.requires_grad for p in net.parameters())


def test_channels_that_do_not_vary_stay():
    # Would catch: a division by 0, and rounding noise scaled to unit variance.
    torch.manual_seed(0)
    layer = LinearWN(3, 4)
    layer.weight.data[1, 1:] = 0
    layer.weight.data[2] = torch.tensor([1, 5e-9, 0])  # varies by about one unit in the last place
    layer.bias.data.fill_(0.5)
    layer.reset_gain()
    g = layer.weight_g.clone()
    x = torch.randn(50, 3)
    x[:, 0] = 0.1
    report = init_weight_norm(layer, x)
    assert report.dead_channels == {'': [1, 2]}
    assert torch.equal(layer.weight_g[1:3], g[1:3])
    assert layer.bias[1] == 0.5
    assert all(p.isfinite().all() for p in layer.parameters())

    g = layer.weight_g.clone()
    x[0] = float('nan')
    assert init_weight_norm(layer, x).dead_channels == {'': [0, 1, 2, 3]}
    assert torch.equal(layer.weight_g, g)


def test_large_means_do_not_cost_the_variance():
    # Would catch: the variance as a difference of mean squares in float32.
    torch.manual_seed(0)
    layer = LinearWN(1, 2)
    x = torch.randn(500, 1) + 3000
    init_weight_norm(layer, x)
    _, std = moments(layer(x).double(), 1)
    torch.testing.assert_close(std, torch.ones(2).double(), atol=1e-2, rtol=0)


def test_empty_input_waits_for_the_next_visit():
    torch.manual_seed(0)
    layer, x = LinearWN(3, 4), torch.randn(50, 3)
    report = init_weight_norm(layer, None, lambda model, _: (model(x[:0]), model(x)))
    assert report.initialized == ['']
    _, std = moments(layer(x), 1)
    torch.testing.assert_close(std, torch.ones(4))
    state = copy.deepcopy(layer.state_dict())
    assert init_weight_norm(layer, x[:0]).not_executed == ['']
    torch.testing.assert_close(layer.state_dict(), state, rtol=0, atol=0)


def test_kept_and_frozen_layers_and_kinds_of_batch(net, images):
    net.conv2.weight_g.requires_grad_(False)
    before = copy.deepcopy(net.state_dict())
    report = init_weight_norm(net, {'x': images}, keep=['conv1', 'f'])
    assert report.initialized == ['head', 'up', 'fc', 'no_bias']
    for name in ('conv1.weight_g', 'conv2.weight_g', 'conv1.bias'):
        assert torch.equal(net.state_dict()[name], before[name])
    assert init_weight_norm(net, (images,), keep=['']).initialized == []


def _initialise_a_part(rank, folder, images, state):
    torch.set_num_threads(1)
    store = dist.FileStore(str(folder / 'store'), 2)
    dist.init_process_group('gloo', store=store, rank=rank, world_size=2)
    net = Net().eval()
    net.load_state_dict(state)
    init_weight_norm(net, images[:1] if rank == 0 else images[1:])  # parts of unequal size
    torch.save(net.state_dict(), folder / f'{rank}.pth')
    dist.destroy_process_group()


@pytest.mark.slow
def test_distributed(net, images, tmp_path):
    # Would catch: means of the processes' moments instead of the moments of the whole batch.
    mp.spawn(_initialise_a_part, (tmp_path, images, net.state_dict()), nprocs=2)
    first, second = (torch.load(tmp_path / f'{rank}.pth') for rank in range(2))
    torch.testing.assert_close(first, second, rtol=0, atol=0)
    init_weight_norm(net.eval(), images)
    torch.testing.assert_close(first, net.state_dict(), rtol=1e-5, atol=1e-5)


class Detector(BaseModel):
    def __init__(self, backbone_init_cfg=None):
        super().__init__()
        self.backbone = nn.Sequential(ConvWN2d(3, 8, 3))
        self.backbone.init_cfg = backbone_init_cfg
        self.head = ConvWN2d(8, 4, 3)

    def forward(self, inputs, labels, mode):
        assert mode == 'loss'
        features = self.backbone(torch.stack(inputs)).relu()
        for image in inputs:
            image.zero_()  # as a detector may change what it is given
        return {'loss': self.head(features).square().mean()}


class Spy(Hook):
    """Note what the layers put out, and their state, before the first iteration of training."""

    priority = 'LOWEST'

    @torch.no_grad()
    def before_train_iter(self, runner, batch_idx, data_batch=None):
        if not hasattr(self, 'state'):
            model = runner.model
            images = torch.stack(data_batch['inputs']).to(model.head.weight.device)
            features = model.backbone(images)
            self.initialised = {
                'backbone': is_initialised(features),
                'head': is_initialised(model.head(features.relu())),
            }
            self.state = {key: value.cpu().clone() for key, value in model.state_dict().items()}


def is_initialised(output):
    mean, std = moments(output, 1)
    return bool(mean.abs().max() < 1e-4 and (std - 1).abs().max() < 1e-4)


def collate(items):
    return {'inputs': [image for image, _ in items], 'labels': [label for _, label in items]}


def train(work_dir, model=None, **kwargs):
    torch.manual_seed(0)
    data = [(torch.randn(3, 8, 8) * 2 + 1, i) for i in range(4)]
    spy = Spy()
    runner = Runner(
        model=model or Detector(),
        work_dir=str(work_dir),
        train_dataloader=DataLoader(data, batch_size=2, collate_fn=collate),
        train_cfg={'by_epoch': True, 'max_epochs': 2},
        optim_wrapper={'optimizer': {'type': 'SGD', 'lr': 0.01}},
        custom_hooks=[{'type': 'mmws.WeightNormInitHook'}, spy],
        experiment_name=f'{work_dir.name}{len(list(work_dir.glob("*")))}',
        **kwargs,
    )
    runner.train()
    return spy


def test_hook_initialises_before_the_first_iteration(tmp_path):
    spy = train(tmp_path, resume=True)  # with nothing to resume: a fresh training
    assert spy.initialised == {'backbone': True, 'head': True}
    log = next(tmp_path.glob('*/*.log')).read_text()
    assert log.count('2 layers initialised') == 1
    assert (tmp_path / 'epoch_2.pth').exists()


def test_hook_keeps_what_is_trained(tmp_path):
    train(tmp_path / 'first')
    first = torch.load(tmp_path / 'first/epoch_1.pth', weights_only=False)
    checkpoint = tmp_path / 'first/epoch_1.pth'
    (tmp_path / 'first/last_checkpoint').write_text(str(checkpoint))
    for work_dir, kwargs in (
        ('first', {'resume': True}),
        ('second', {'load_from': str(checkpoint)}),
    ):
        spy = train(tmp_path / work_dir, **kwargs)
        torch.testing.assert_close(spy.state, first['state_dict'], rtol=0, atol=0)

    # A part of the model, without g, from a wrapped model.
    part = {f'module.backbone.0.{k}': v for k, v in nn.Conv2d(3, 8, 3).state_dict().items()}
    torch.save({'state_dict': part}, tmp_path / 'part.pth')
    spy = train(tmp_path / 'third', load_from=str(tmp_path / 'part.pth'))
    assert spy.initialised == {'backbone': False, 'head': True}
    torch.testing.assert_close(spy.state['backbone.0.bias'], part['module.backbone.0.bias'])

    for init_cfg in ({'type': 'Pretrained'}, [{'type': 'Kaiming'}, {'type': 'Pretrained'}]):
        spy = train(tmp_path / 'fourth', Detector(init_cfg))
        assert spy.initialised == {'backbone': False, 'head': True}
