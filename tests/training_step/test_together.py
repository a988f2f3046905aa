"""Weights made together give what layers alone give, whatever runs around them."""

import copy
import itertools
import pickle
import threading

import pytest
import torch
import torch.distributed as dist
import torch.multiprocessing as mp
import torch.nn.functional as F
from torch import nn
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.tensor import DTensor
from torch.nn.parallel import DistributedDataParallel
from torch.nn.utils import prune
from torch.utils.checkpoint import checkpoint

from mmws import TrainingStep, layers
from mmws.compat.torch_private import top_pack_hook
from mmws.functional import WeightFunction
from mmws.layers.source import active
from mmws.training_step import remake as remake_module
from mmws.training_step import together as together_module
from mmws.training_step.live_memory import LiveMemory


class Net(nn.Module):
    """All weight functions, layers used twice, frozen, unused and inside a checkpoint."""

    def __init__(self, use_reentrant=None):
        super().__init__()
        self.use_reentrant = use_reentrant
        self.stem = layers.ConvWS2d(3, 8, 3, padding=1)
        self.frozen = layers.ConvWS2d(8, 8, 3, padding=1).requires_grad_(False)
        self.block = nn.Sequential(
            layers.ConvWS2d(8, 8, 1), nn.GroupNorm(2, 8), nn.ReLU(), layers.ConvWN2d(8, 8, 3)
        )
        self.shared = layers.ScaledConvWS2d(8, 8, 3, padding=1)
        self.affine = layers.ConvAWS2d(8, 8, 1)
        self.unused = layers.ConvWS2d(8, 8, 1)
        self.up = layers.ConvTransposeWS2d(8, 4, 2, stride=2)
        self.head = layers.LinearWN(4, 5)

    def forward(self, x):
        x = self.frozen(self.stem(x))
        if self.use_reentrant is None:
            x = self.block(x)
        else:
            x = checkpoint(self.block, x, use_reentrant=self.use_reentrant)
        x = F.relu(self.shared(F.relu(self.shared(x))))
        x = self.up(self.affine(x))
        return self.head(x.mean((2, 3)))


X = torch.randn(2, 3, 8, 8, generator=torch.Generator().manual_seed(1))


def make(**kwargs):
    torch.manual_seed(0)
    return Net(**kwargs)


def step(model, x=X, amp=False):
    """Loss and gradients of a step."""
    model.zero_grad()
    with torch.autocast('cpu', torch.bfloat16, enabled=amp):
        loss = model(x).float().square().mean()
    loss.backward()
    return loss.detach(), [p.grad for p in model.parameters()]


@pytest.fixture
def made(monkeypatch):
    """Count the layers of every group that is made."""
    counts = []
    original = together_module.apply_together

    def counted(functions, *args):
        counts.append(len(functions))
        return original(functions, *args)

    monkeypatch.setattr(together_module, 'apply_together', counted)
    return counts


def assert_equal_steps(model, alone, **kwargs):
    expected = step(alone, **kwargs)
    for _ in range(3):
        loss, grads = step(model, **kwargs)
        torch.testing.assert_close(loss, expected[0])
        for got, wanted in zip(grads, expected[1]):
            if got is None or not kwargs.get('amp'):
                torch.testing.assert_close(got, wanted)
            else:  # the gradients of a layer that is used twice are added in half precision
                assert (got - wanted).norm() <= 0.02 * wanted.norm()
    assert active.source is None
    assert not active.passes


@pytest.mark.parametrize('amp', [False, True])
def test_what_a_dispatch_mode_watches_is_what_runs_without_it(amp):
    # Bug: the operators, which are called only while a mode is active, compute something else.
    model = make()
    TrainingStep(model)
    step(model)
    expected = step(model, amp=amp)
    with LiveMemory():
        torch.testing.assert_close(step(model, amp=amp), expected, rtol=0, atol=0)


@pytest.mark.parametrize('group_mib', [None, 0.0, 0.002])
def test_losses_and_gradients_are_those_of_layers_alone(group_mib, made):
    model = make()
    TrainingStep(model, group_mib=group_mib)
    assert_equal_steps(model, make())
    assert model.unused.weight.grad is None
    assert model.frozen.weight.grad is None
    # The first pass watches; the layer that never runs is in no group.
    used = 8
    groups = {None: [used], 0.0: [1] * used}.get(group_mib)
    assert sum(made) == 2 * used
    assert groups is None or made == groups * 2


@pytest.mark.parametrize('use_reentrant', [True, False])
def test_activation_checkpointing(use_reentrant, made):
    # A reentrant checkpoint runs its layers without gradients first.
    model = make(use_reentrant=use_reentrant)
    TrainingStep(model)
    x = X.clone().requires_grad_()
    assert_equal_steps(model, make(use_reentrant=use_reentrant), x=x)
    assert made[-1] == (6 if use_reentrant else 8)


def test_checkpointing_that_begins_later():
    # Would catch a group with a layer whose gradient comes by another way.
    model, alone = make(), make()
    TrainingStep(model)
    step(model), step(model)
    model.use_reentrant = alone.use_reentrant = True
    assert_equal_steps(model, alone, x=X.clone().requires_grad_())


@pytest.mark.parametrize('use_reentrant', [None, True, False])
def test_autocast(use_reentrant):
    model = make(use_reentrant=use_reentrant)
    TrainingStep(model)
    x = X.clone().requires_grad_()
    assert_equal_steps(model, make(use_reentrant=use_reentrant), x=x, amp=True)


def test_autocast_of_a_part():
    # Would catch a filter in half precision where a part of the model computes in float32.
    class Part(nn.Module):
        def __init__(self):
            super().__init__()
            self.first, self.second = layers.ConvWS2d(3, 4, 3), layers.ConvWS2d(4, 4, 3)

        def forward(self, x):
            with torch.autocast('cpu', torch.bfloat16):
                x = self.first(x)
            return self.second(x.float())

    torch.manual_seed(0)
    model = Part()
    alone = copy.deepcopy(model)
    TrainingStep(model)
    assert_equal_steps(model, alone)


def test_two_forward_passes_before_one_backward_pass():
    model, alone = make(), make()
    TrainingStep(model)
    step(model)
    model.zero_grad()
    for m in (model, alone):
        (m(X).square().mean() + m(X * 2).square().mean()).backward()
    torch.testing.assert_close(
        [p.grad for p in model.parameters()], [p.grad for p in alone.parameters()]
    )


def test_backward_passes_of_two_parts_of_the_graph():
    model = nn.Sequential(layers.ConvWS2d(3, 4, 3), layers.ConvWS2d(4, 4, 3)).double()
    x = X.double()
    TrainingStep(model)
    model(x)
    inner = {}
    model[0].register_forward_hook(lambda m, args, out: inner.update(out=out))
    out = model(x)
    inner['out'].sum().backward(retain_graph=True)
    out.sum().backward()
    alone = copy.deepcopy(model)
    alone.zero_grad()
    first = alone[0](x)
    (first.sum() + alone[1](first).sum()).backward()
    torch.testing.assert_close(model[0].weight.grad, alone[0].weight.grad)


def test_double_backward():
    model, alone = make().double(), make().double()
    TrainingStep(model)
    model(X.double())
    results = []
    for m in (model, alone):
        x = X.double().requires_grad_()
        (first,) = torch.autograd.grad(m(x).square().sum(), x, create_graph=True)
        wanted = [m.stem.weight, m.shared.gain, m.block[3].weight_g]
        results.append((first, *torch.autograd.grad(first.square().sum(), wanted)))
    torch.testing.assert_close(*results)


def test_changing_a_weight_before_the_backward_pass_raises():
    model = make()
    TrainingStep(model)
    model(X)
    out = model(X)
    with torch.no_grad():
        model.stem.weight.mul_(2)
    with pytest.raises(RuntimeError, match='modified by an inplace operation'):
        out.sum().backward()


def test_an_exception_leaves_nothing_behind():
    model, alone = make(), make()
    TrainingStep(model)
    step(model)
    with pytest.raises(RuntimeError):
        model(X[:, :2])
    assert active.source is None
    assert_equal_steps(model, alone)


@pytest.mark.parametrize('remake', [False, True])
def test_an_interrupt_leaves_nothing_behind(remake):
    # Bug: PyTorch calls no hook of the model after a KeyboardInterrupt, and the pass, with its
    # weights and its hooks for saved tensors, stays active for good.
    model, other = make(), make()
    alone = copy.deepcopy(model)
    training_step = TrainingStep(model, remake=remake)
    TrainingStep(other)
    step(model)

    def interrupt(module, args):
        raise KeyboardInterrupt

    for goes_on in (lambda: assert_equal_steps(model, alone), other, training_step.remove):
        handle = model.affine.register_forward_pre_hook(interrupt)
        with pytest.raises(KeyboardInterrupt):
            model(X)
        handle.remove()
        goes_on(X) if goes_on is other else goes_on()
        assert not active.passes
        assert active.source is None
        assert top_pack_hook() is None


@pytest.mark.parametrize('remake', [False, True])
def test_removal_in_the_middle_of_a_pass(remake):
    # Bug: a pass whose owner is removed meanwhile is never ended.
    model = make()
    training_step = TrainingStep(model, remake=remake)
    step(model)
    model.affine.register_forward_pre_hook(lambda module, args: training_step.remove())
    model(X).sum().backward()
    assert not active.passes
    assert active.source is None
    assert top_pack_hook() is None


class Clamped(nn.Module):
    """A model that changes weights in front of their layers."""

    def __init__(self):
        super().__init__()
        self.first, self.second = layers.ConvWS2d(3, 4, 3), layers.ConvWN2d(4, 4, 3)

    def forward(self, x):
        x = self.first(x)
        with torch.no_grad():
            self.second.weight.mul_(1.5).clamp_(-0.1, 0.1)
        return self.second(x)


def pruned():
    model = nn.Sequential(layers.ConvWS2d(3, 4, 3), nn.ReLU(), layers.ConvWS2d(4, 4, 3))
    for layer in (model[0], model[2]):
        prune.l1_unstructured(layer, 'weight', 0.3)
    return model


def clamped_by_a_hook():
    model = nn.Sequential(layers.ConvWN2d(3, 4, 3), nn.ReLU(), layers.ConvWN2d(4, 4, 3))
    for layer in (model[0], model[2]):
        layer.register_forward_pre_hook(clamp)
    return model


def clamp(layer, args):
    layer.weight.data.clamp_(-0.1, 0.1)


@pytest.mark.parametrize('remake', [False, True])
@pytest.mark.parametrize('build', [pruned, clamped_by_a_hook, Clamped])
def test_weights_that_are_written_just_before_their_layer_runs(build, remake):
    # Bug: the weights of a group are made when its first layer runs, from what the other layers
    # store then, before a hook or the model writes it.
    models = []
    for _ in range(2):
        torch.manual_seed(0)
        models.append(build())
    model, alone = models
    TrainingStep(model, remake=remake)
    optimizers = [torch.optim.SGD(m.parameters(), 0.1) for m in (model, alone)]
    for _ in range(4):
        losses = []
        for m, optimizer in zip((model, alone), optimizers):
            optimizer.zero_grad()
            losses.append(m(X).square().mean())
            losses[-1].backward()
            optimizer.step()
        torch.testing.assert_close(*losses)


def test_parts_with_optimizers_of_their_own():
    # Bug: a step of one part's optimizer between the backward passes of two parts is an error in
    # the other part.
    class Parts(nn.Module):
        def __init__(self):
            super().__init__()
            self.a, self.b = layers.ConvWS2d(3, 4, 3), layers.ConvWS2d(3, 4, 3)

        def forward(self, x):
            return self.a(x).square().mean(), self.b(x).square().mean()

    torch.manual_seed(0)
    model = Parts()
    alone = copy.deepcopy(model)
    TrainingStep(model)
    for _ in range(3):
        for m in (model, alone):
            for loss, part in zip(m(X), (m.a, m.b)):
                part.zero_grad()
                loss.backward()
                torch.optim.SGD(part.parameters(), 0.1).step()
        for got, expected in zip(model.parameters(), alone.parameters()):
            torch.testing.assert_close(got, expected)


def test_a_step_of_the_optimizer_between():
    # Would catch a filter of the step before.
    model, alone = make(), make()
    TrainingStep(model)
    for m in (model, alone):
        optimizer = torch.optim.SGD(m.parameters(), lr=0.1)
        for _ in range(3):
            loss, _ = step(m)
            optimizer.step()
        m.loss = loss
    torch.testing.assert_close(model.loss, alone.loss)


@pytest.mark.parametrize('duplicate', [copy.deepcopy, lambda m: pickle.loads(pickle.dumps(m))])
def test_a_copy_computes_with_its_own_weights(duplicate, made):
    model = make()
    TrainingStep(model)
    step(model), step(model)
    twin = duplicate(model)
    with torch.no_grad():
        twin.stem.weight.normal_()
    alone = make()
    alone.load_state_dict(twin.state_dict())
    assert_equal_steps(twin, alone)
    assert_equal_steps(model, make())
    assert made.count(8) >= 4


def test_a_model_in_a_model(made):
    """Teacher and student that share a module, which is a model of its own."""

    class Outer(nn.Module):
        def __init__(self):
            super().__init__()
            self.inner, self.last = make(), layers.LinearWS(5, 4)

        def forward(self, x):
            with torch.no_grad():
                teacher = self.inner(x)
            return self.last(self.inner(x) + teacher)

    torch.manual_seed(0)
    model = Outer()
    alone = copy.deepcopy(model)
    TrainingStep(model)
    TrainingStep(model.inner)
    assert_equal_steps(model, alone)


def test_threads():
    model, expected, wrong = make(), step(make())[0], []
    TrainingStep(model)
    model(X)

    def work():
        for _ in range(20):
            loss = model(X).square().mean()
            if not torch.allclose(loss.detach(), expected):
                wrong.append(loss)
            torch.autograd.grad(loss, model.stem.weight)

    threads = [threading.Thread(target=work) for _ in range(3)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not wrong


def test_functional_call_and_transforms():
    model, alone = make(), make()
    TrainingStep(model)
    step(model)
    parameters = {name: p.detach() * 2 for name, p in model.named_parameters()}

    def loss(m, p):
        return torch.func.functional_call(m, p, (X,)).square().mean()

    results = []
    for m in (model, alone):
        leaves = {n: p.clone().requires_grad_() for n, p in parameters.items()}
        used = [p for n, p in leaves.items() if not n.startswith('unused')]
        grads = torch.autograd.grad(loss(m, leaves), used)
        results.append((grads, torch.func.grad(lambda p, m=m: loss(m, p))(parameters)))
    torch.testing.assert_close(*results)


@pytest.mark.slow
def test_compiles_as_without():
    model, alone = make(), make()
    TrainingStep(model)
    step(model)
    compiled = torch.compile(model, fullgraph=True, backend='aot_eager')
    torch.testing.assert_close(step(compiled)[0], step(alone)[0])
    torch.testing.assert_close(step(compiled)[1], step(alone)[1])
    torch._dynamo.reset()


def test_evaluation_and_removal():
    model, alone = make(), make()
    handle = TrainingStep(model)
    step(model)
    with torch.no_grad():
        torch.testing.assert_close(model(X), alone(X))
        model.stem.weight.mul_(-1)
        alone.stem.weight.mul_(-1)
        torch.testing.assert_close(model(X), alone(X))
    handle.remove()
    assert not model._forward_hooks
    assert_equal_steps(model, alone)


def test_a_function_with_nothing_but_a_formula():
    class Tanh(WeightFunction):
        def __call__(self, weight):
            return weight.tanh()

        def __eq__(self, other):
            return type(other) is type(self)

        def __hash__(self):
            return 0

    class TanhConv(layers.kinds.ConvKind, nn.Conv2d):
        def weight_function(self):
            return Tanh()

    torch.manual_seed(0)
    model = nn.Sequential(TanhConv(3, 4, 3), TanhConv(4, 4, 3))
    alone = copy.deepcopy(model)
    TrainingStep(model)
    assert_equal_steps(model, alone)
    assert_equal_steps(model, alone, amp=True)


def _ddp_worker(rank: int, init_method: str) -> None:
    remake_module.MIN_BYTES = 0
    dist.init_process_group('gloo', init_method=init_method, rank=rank, world_size=2)
    try:
        for use_reentrant, remake in itertools.product((None, True, False), (False, True)):
            alone, model = make(use_reentrant=use_reentrant), make(use_reentrant=use_reentrant)
            for m in (alone, model):
                del m.unused
            TrainingStep(model, remake=remake, group_mib=0.002)
            parallel = DistributedDataParallel(model, bucket_cap_mb=0.002)
            for _ in range(3):
                alone.zero_grad(), model.zero_grad()
                parts = [x.requires_grad_() for x in X.clone().split(1)]
                with parallel.no_sync():  # two steps accumulate
                    parallel(parts[rank]).square().mean().backward()
                parallel(2 * parts[rank]).square().mean().backward()
                losses = [alone(f * x).square().mean() / 2 for x in parts for f in (1, 2)]
                sum(losses).backward()
                assert_equal_gradients(model, alone)
    finally:
        dist.destroy_process_group()


def _fsdp_worker(rank: int, init_method: str) -> None:
    from torch.distributed.fsdp import fully_shard

    remake_module.MIN_BYTES = 0
    dist.init_process_group('gloo', init_method=init_method, rank=rank, world_size=2)
    try:
        mesh = init_device_mesh('cpu', (2,))
        for remake in (False, True):
            alone, model = make(), make()
            for m in (alone, model):
                del m.unused
            TrainingStep(model, remake=remake)
            for unit in (model.block, model):
                fully_shard(unit, mesh=mesh)
            for _ in range(2):
                alone.zero_grad(), model.zero_grad()
                parts = X.split(1)
                model(parts[rank]).square().mean().backward()
                sum(alone(x).square().mean() / 2 for x in parts).backward()
                assert_equal_gradients(model, alone)
        # Bug: a norm at the end of a unit, and a wide convolution in front of one, are remade from
        # parameters that are elsewhere when the next unit runs its backward pass.
        torch.manual_seed(0)
        alone = nn.Sequential(
            nn.Sequential(layers.ConvWS2d(3, 4, 3), nn.GroupNorm(2, 4)),
            nn.Sequential(nn.ReLU(), layers.ConvWS2d(4, 8, 1)),
            nn.Sequential(nn.GroupNorm(2, 8), layers.ConvWS2d(8, 4, 3)),
        )
        model = copy.deepcopy(alone)
        TrainingStep(model, remake=True)
        for unit in (*model, model):
            fully_shard(unit, mesh=mesh, reshard_after_forward=True)
        parts = X.split(1)
        model(parts[rank]).square().mean().backward()
        sum(alone(x).square().mean() / 2 for x in parts).backward()
        assert_equal_gradients(model, alone)
    finally:
        dist.destroy_process_group()


def assert_equal_gradients(model: nn.Module, alone: nn.Module) -> None:
    for (name, got), expected in zip(model.named_parameters(), alone.parameters(), strict=True):
        grad = got.grad.full_tensor() if isinstance(got.grad, DTensor) else got.grad
        torch.testing.assert_close(
            grad, expected.grad, rtol=1e-4, atol=1e-5, msg=f'{name}: {{}}'.format
        )


@pytest.mark.slow
@pytest.mark.parametrize('worker', [_ddp_worker, _fsdp_worker])
def test_two_processes_give_the_gradients_of_one(tmp_path, worker):
    mp.spawn(worker, (f'file://{tmp_path}/rendezvous',), nprocs=2)
