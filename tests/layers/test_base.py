"""What every weighted layer must do, whatever its weight function and its kind."""

import copy
import inspect
import pickle
import threading

import pytest
import torch
import torch.distributed as dist
import torch.multiprocessing as mp
from mmengine.model import ExponentialMovingAverage
from torch import nn
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.autograd import gradcheck, gradgradcheck
from torch.nn.parallel import DistributedDataParallel
from torch.utils.checkpoint import checkpoint

from mmws import layers
from tests.helpers.layer_cases import CASES, Case, every_layer, plain_twin

CONV = next(case for case in CASES if case.layer is layers.ConvWS2d)


def gradients(layer, inputs, grad_seed=2):
    """Output, and the gradients of inputs and parameters for a random output gradient."""
    leaves = [t.detach().requires_grad_() for t in inputs]
    wanted = [*leaves, *(p for p in layer.parameters() if p.requires_grad)]
    out = layer(*leaves)
    grad = torch.randn(out.shape, generator=torch.Generator().manual_seed(grad_seed)).to(out)
    return out, torch.autograd.grad(out, wanted, grad)


def kept_for_backward(layer, inputs):
    """Tensors that autograd keeps, one for each storage."""
    kept = {}

    def pack(tensor):
        kept[tensor.untyped_storage().data_ptr()] = tensor
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
        layer(*(t.detach().requires_grad_() for t in inputs))
    return kept.values()


@every_layer
class TestEveryLayer:
    @pytest.mark.parametrize('dtype', [torch.float32, torch.float64])
    def test_equals_the_plain_layer_with_the_effective_weight(self, case: Case, dtype):
        layer = case.make(dtype=dtype)
        twin = plain_twin(case, layer)
        inputs = case.inputs(dtype)
        out, grads = gradients(layer, inputs)
        expected, expected_grads = gradients(twin, inputs)
        torch.testing.assert_close(out, expected, rtol=1e-5, atol=1e-5)
        # The stored weight's own gradient is compared below; all others pass through it.
        torch.testing.assert_close(
            grads[: len(inputs)], expected_grads[: len(inputs)], rtol=1e-4, atol=1e-4
        )
        names = [name for name, _ in layer.named_parameters()]
        twin_grads = dict(
            zip([n for n, _ in twin.named_parameters()], expected_grads[len(inputs) :])
        )
        for name, grad in zip(names, grads[len(inputs) :]):
            if name in twin_grads and name != 'weight':
                torch.testing.assert_close(grad, twin_grads[name], rtol=1e-4, atol=1e-4)

    def test_gradients_equal_those_of_the_composition(self, case: Case):
        # Would catch a closed form that is not the gradient of what was computed with.
        layer, inputs = case.make(dtype=torch.float64), case.inputs(torch.float64)
        _, grads = gradients(layer, inputs)

        layer.current_weight = lambda: layer.stored_function()(*layer.stored_weights())
        leaves = [t.requires_grad_() for t in inputs]
        wanted = [*leaves, *layer.parameters()]
        out = layer(*leaves)
        grad = torch.randn(out.shape, generator=torch.Generator().manual_seed(2)).to(out)
        torch.testing.assert_close(grads, torch.autograd.grad(out, wanted, grad))

    @pytest.mark.parametrize('contiguous', [True, False])
    def test_a_gradient_is_the_same_alone(self, case: Case, contiguous):
        # Would catch a way through the backward pass that forgets a tensor, or its neighbours.
        layer, inputs = case.make(dtype=torch.float64), case.inputs(torch.float64)
        leaves = [t.requires_grad_() for t in (*inputs, *layer.parameters())]
        out = layer(*inputs)
        grad = out.new_tensor(0.5).expand_as(out)
        together = torch.autograd.grad(out, leaves, grad.contiguous())
        for leaf, expected in zip(leaves, together):
            for other in leaves:
                other.requires_grad_(other is leaf)
            out = layer(*inputs)
            (alone,) = torch.autograd.grad(out, leaf, grad.contiguous() if contiguous else grad)
            torch.testing.assert_close(alone, expected)

    @pytest.mark.parametrize('dtype', [torch.bfloat16, torch.float16])
    def test_half_precision(self, case: Case, dtype):
        layer = case.make()
        inputs = tuple(t / 4 for t in case.inputs())
        expected = layer(*inputs)
        half = copy.deepcopy(layer).to(dtype)
        out, grads = gradients(half, [t.to(dtype) for t in inputs])
        assert out.dtype == dtype
        assert all(g.dtype == dtype and g.isfinite().all() for g in grads)
        torch.testing.assert_close(out.float(), expected, rtol=0.1, atol=0.1)

    @pytest.mark.parametrize('training', [True, False])
    def test_autocast(self, case: Case, training):
        # Would catch a filter standardized in half precision, or one of another dtype than the
        # output gradient when the backward pass, which runs without autocast, makes it again.
        layer, inputs = case.make().train(training), case.inputs()
        expected, expected_grads = gradients(layer, inputs)
        with torch.autocast('cpu', torch.bfloat16):
            out = layer(*(t.requires_grad_() for t in inputs))
        assert out.dtype == torch.bfloat16
        torch.testing.assert_close(out.float(), expected, rtol=0.05, atol=0.1)
        grad = torch.randn(out.shape, generator=torch.Generator().manual_seed(2))
        grads = torch.autograd.grad(out, [*inputs, *layer.parameters()], grad.to(out))
        for got, wanted in zip(grads, expected_grads):
            assert got.dtype == torch.float32
            # Sampled at offsets that a convolution made in half precision, gradients jump.
            assert (got - wanted).norm() <= (0.05 if case.twice else 0.2) * wanted.norm() + 0.05
        with torch.autocast('cpu', torch.bfloat16), torch.no_grad():
            torch.testing.assert_close(layer(*inputs), out)

    @pytest.mark.slow
    def test_compiles_without_graph_breaks(self, case: Case):
        layer, inputs = case.make(), case.inputs()
        compiled = torch.compile(layer, fullgraph=True, backend='eager')
        torch.testing.assert_close(gradients(compiled, inputs), gradients(layer, inputs))
        with torch.no_grad():
            torch.testing.assert_close(compiled.eval()(*inputs), layer(*inputs))
        torch._dynamo.reset()

    def test_double_backward(self, case: Case):
        if not case.twice:
            pytest.skip('PyTorch does not differentiate deformable convolution twice')
        layer = case.make(dtype=torch.float64)
        inputs = [t[:1].requires_grad_() for t in case.inputs(torch.float64)]
        names = [name for name, _ in layer.named_parameters()]

        def call(*tensors):
            parameters = dict(zip(names, tensors[len(inputs) :]))
            return torch.func.functional_call(layer, parameters, tensors[: len(inputs)])

        arguments = (*inputs, *(p.detach().requires_grad_() for p in layer.parameters()))
        assert gradcheck(call, arguments, fast_mode=True)
        assert gradgradcheck(call, arguments, fast_mode=True)

    def test_keeps_for_backward_one_weight_more_than_the_plain_layer(self, case: Case):
        layer, inputs = case.make(), case.inputs()
        twin = plain_twin(case, layer)
        kept = kept_for_backward(layer, inputs)
        plain = sum(t.untyped_storage().nbytes() for t in kept_for_backward(twin, inputs))
        total = sum(t.untyped_storage().nbytes() for t in kept)
        assert total <= plain + layer.weight.untyped_storage().nbytes()

    @pytest.mark.parametrize('duplicate', [copy.deepcopy, lambda x: pickle.loads(pickle.dumps(x))])
    def test_copies_compute_the_same_and_independently(self, case: Case, duplicate):
        layer, inputs = case.make().eval(), case.inputs()
        with torch.no_grad():
            expected = layer(*inputs)
            twin = duplicate(layer)
            assert len(pickle.dumps(layer)) < 2 * len(pickle.dumps(case.make_plain().eval())) + 2000
            torch.testing.assert_close(twin(*inputs), expected)
            twin.weight.normal_()
            assert not torch.equal(twin(*inputs), expected)
            torch.testing.assert_close(layer(*inputs), expected)

    def test_state_dict_round_trip_with_the_plain_layer(self, case: Case):
        plain, layer = case.make_plain(), case.make()
        nn.init.normal_(plain.weight)
        layer.load_state_dict(plain.state_dict())
        again = case.make_plain()
        state = layer.state_dict()
        again.load_state_dict({key: state[key] for key in again.state_dict()})
        torch.testing.assert_close(again.state_dict(), plain.state_dict())
        restored = case.make()
        restored.load_state_dict(state)
        torch.testing.assert_close(restored(*case.inputs()), layer(*case.inputs()))

    def test_takes_the_arguments_of_the_plain_layer(self, case: Case):
        # mmcv's deformable layers take *args themselves.
        ours = inspect.signature(case.layer.__init__).parameters.values()
        assert {p.kind for p in ours} >= {inspect.Parameter.VAR_POSITIONAL}
        assert case.plain in case.layer.__bases__  # MMEngine initializes by the names of the bases
        assert isinstance(case.make(), case.plain)
        missing = set(case.make_plain().state_dict()) - set(case.make().state_dict())
        assert not missing

    def test_meta_device(self, case: Case):
        layer = case.make().to('meta')
        out = layer(*(t.to('meta') for t in case.inputs()))
        assert out.shape == case.make()(*case.inputs()).shape

    def test_from_the_meta_device_by_reset_parameters(self, case: Case):
        # Bug: affine WS had no reset_parameters, so that its gains stayed what to_empty() left.
        layer = case.make().to('meta').to_empty(device='cpu')
        with torch.no_grad():
            for tensor in (*layer.parameters(), *layer.buffers()):
                tensor.fill_(7.0)  # to_empty() leaves anything
        resets = ('reset_parameters', 'init_weights')  # MMCV's deformable layers have one of them
        for module in layer.modules():
            getattr(module, next(name for name in resets if hasattr(module, name)))()
        new = case.make()
        for name in layer.beside_weight:
            if name == 'weight_g':  # follows the filters, which are drawn anew
                torch.testing.assert_close(layer.effective_weight(), layer.weight)
            else:
                torch.testing.assert_close(getattr(layer, name), getattr(new, name))
        assert layer(*case.inputs()).isfinite().all()

    def test_a_plain_state_dict_is_assigned_to_a_layer_without_values(self, case: Case):
        # Bug: all keys were said to match, but the gains stayed on the meta device, and the first
        # forward pass failed.
        plain, layer, frozen = case.make_plain(), case.make(), case.make()
        layer.load_state_dict(plain.state_dict())
        for twin in (case.make().to('meta'), frozen.requires_grad_(False).to('meta')):
            trainable = {name: p.requires_grad for name, p in twin.named_parameters()}
            twin.load_state_dict(plain.state_dict(), assign=True)
            assert not any(t.is_meta for t in (*twin.parameters(), *twin.buffers()))
            torch.testing.assert_close(twin(*case.inputs()), layer(*case.inputs()))
            for name, parameter in twin.named_parameters():
                assert isinstance(parameter, nn.Parameter)
                if name in twin.beside_weight:
                    assert parameter.requires_grad == trainable[name]

    def test_a_plain_state_dict_of_another_dtype_is_assigned(self, case: Case):
        # Bug: the gains kept their dtype, which the filters no longer had.
        plain, layer = case.make_plain(dtype=torch.float64), case.make()
        expected = case.make(dtype=torch.float64)
        expected.load_state_dict(plain.state_dict())
        layer.load_state_dict(plain.state_dict(), assign=True)
        assert {p.dtype for p in (*layer.parameters(), *layer.buffers())} == {torch.float64}
        inputs = case.inputs(torch.float64)
        torch.testing.assert_close(layer(*inputs), expected(*inputs))

    def test_checkpointing(self, case: Case):
        layer, inputs = case.make(), case.inputs()
        expected = gradients(layer, inputs)
        for reentrant in (True, False):
            got = []
            leaves = [t.detach().requires_grad_() for t in inputs]
            out = checkpoint(layer, *leaves, use_reentrant=reentrant)
            out.backward(torch.randn(out.shape, generator=torch.Generator().manual_seed(2)))
            got = [t.grad for t in (*leaves, *layer.parameters())]
            torch.testing.assert_close((out, tuple(got)), expected)
            layer.zero_grad()

    def test_frozen_weight(self, case: Case):
        layer, inputs = case.make().requires_grad_(False), case.inputs()
        leaves = [t.requires_grad_() for t in inputs]
        layer(*leaves).sum().backward()
        assert all(t.grad is not None for t in leaves)
        assert layer.weight.grad is None

    def test_training_step_between_evaluations(self, case: Case):
        # Would catch a weight that outlives an optimizer step.
        layer, inputs = case.make(), case.inputs()
        optimizer = torch.optim.SGD(layer.parameters(), lr=0.1, momentum=0.9)
        for _ in range(3):
            layer.train()
            optimizer.zero_grad()
            layer(*inputs).square().sum().backward()
            optimizer.step()
            with torch.no_grad():
                expected = layer(*inputs)
                torch.testing.assert_close(layer.eval()(*inputs), expected)


class TestEvaluation:
    """A layer in evaluation computes with what it stores now, and leaves no trace of it."""

    @pytest.mark.parametrize(
        'change',
        [
            lambda layer, new: layer.weight.copy_(new),
            lambda layer, new: layer.weight[1].copy_(new[1]),
            lambda layer, new: layer.weight.data.copy_(new),
            lambda layer, new: layer.weight.data[1].mul_(-1),
            lambda layer, new: setattr(layer.weight, 'data', new),
            lambda layer, new: setattr(layer, 'weight', nn.Parameter(new)),
            lambda layer, new: layer.load_state_dict({**layer.state_dict(), 'weight': new}),
            lambda layer, new: layer.load_state_dict(
                {**layer.state_dict(), 'weight': new}, assign=True
            ),
            lambda layer, new: nn.init.kaiming_normal_(layer.weight),
            lambda layer, new: layer.weight.detach().normal_(),
            lambda layer, new: setattr(layer, 'eps', 0.1 + layer.eps),
            lambda layer, new: torch.nn.utils.vector_to_parameters(
                torch.randn(sum(p.numel() for p in layer.parameters())), layer.parameters()
            ),
        ],
        ids=range(12),
    )
    @pytest.mark.parametrize('inference', [False, True])
    def test_follows_every_change(self, change, inference):
        layer, inputs = CONV.make().eval(), CONV.inputs()
        with torch.no_grad():
            for _ in range(2):
                old = layer(*inputs)
                with torch.inference_mode() if inference else torch.no_grad():
                    change(layer, torch.randn(6, 2, 3, 3))
                new = layer(*inputs)
                torch.testing.assert_close(new, copy.deepcopy(layer)(*inputs))
                assert not torch.equal(new, old)

    def test_moving_to_another_dtype_and_layout(self):
        layer, inputs = CONV.make().eval(), CONV.inputs()
        with torch.no_grad():
            expected = layer(*inputs)
            doubled = layer.double()(*(t.double() for t in inputs))
            torch.testing.assert_close(doubled.float(), expected)
            layer.float().to(memory_format=torch.channels_last)
            image = inputs[0].to(memory_format=torch.channels_last)
            out = layer(image)
            torch.testing.assert_close(out, expected)
            assert out.is_contiguous(memory_format=torch.channels_last)

    @pytest.mark.parametrize('mode', ['eval', 'train'])
    def test_moving_averages(self, mode):
        # MMEngine writes averages, and swaps them with the model, through .data.
        layer, inputs = CONV.make().eval(), CONV.inputs()
        average = ExponentialMovingAverage(layer, momentum=0.5).eval()
        with torch.no_grad():
            for _ in range(3):
                average(*inputs)
                layer.weight.normal_()
                average.update_parameters(layer)
                torch.testing.assert_close(average(*inputs), copy.deepcopy(average.module)(*inputs))

    def test_shared_weights(self):
        first, second, inputs = CONV.make().eval(), CONV.make().eval(), CONV.inputs()
        second.weight, second.bias = first.weight, first.bias
        with torch.no_grad():
            torch.testing.assert_close(first(*inputs), second(*inputs))
            second.weight.normal_()
            torch.testing.assert_close(first(*inputs), second(*inputs))

    def test_weights_made_in_inference_mode(self):
        with torch.inference_mode():
            layer = CONV.make().eval()
            inputs = CONV.inputs()
            old = layer(*inputs)
            layer.weight.normal_()
            assert not torch.equal(layer(*inputs), old)

    def test_fake_tensors(self):
        with FakeTensorMode(), torch.no_grad():
            layer = layers.ConvWS2d(4, 6, 3).eval()
            assert layer(torch.randn(1, 4, 5, 5)).shape == (1, 6, 3, 3)

    @pytest.mark.parametrize('mode', [torch.no_grad, torch.inference_mode])
    def test_parameters_can_be_swapped_after_an_evaluation(self, mode):
        """PyTorch refuses to swap what something refers to weakly."""
        layer, inputs = CONV.make().eval(), CONV.inputs()
        before = torch.__future__.get_swap_module_params_on_conversion()
        torch.__future__.set_swap_module_params_on_conversion(True)
        try:
            with torch.no_grad():
                expected = layer(*inputs)
            with mode():
                moved = layer.double()(*(t.double() for t in inputs))
        finally:
            torch.__future__.set_swap_module_params_on_conversion(before)
        torch.testing.assert_close(moved.float(), expected)

    def test_threads(self):
        layer, inputs = CONV.make().eval(), CONV.inputs()
        with torch.no_grad():
            expected = layer(*inputs)
        layer.train().eval()
        wrong = []

        def work():
            with torch.no_grad():
                for i in range(50):
                    if not torch.equal(layer(*inputs), expected):
                        wrong.append(i)
                    if i % 10 == 0:
                        layer.eval()

        threads = [threading.Thread(target=work) for _ in range(4)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert not wrong

    def test_checkpoints_hold_ordinary_parameters(self):
        # Optimizers ask for the very class of a parameter.
        layer = CONV.make().eval()
        with torch.no_grad():
            layer(*CONV.inputs())
        assert type(layer.weight) is nn.Parameter
        assert type(pickle.loads(pickle.dumps(layer)).weight) is nn.Parameter
        assert {type(t) for t in layer.state_dict().values()} == {torch.Tensor}


def _ddp_worker(rank: int, init_method: str) -> None:
    dist.init_process_group('gloo', init_method=init_method, rank=rank, world_size=2)
    try:
        for case in CASES:
            layer = case.make()
            parallel = DistributedDataParallel(case.make())
            inputs = case.inputs()
            parallel(*(t[rank : rank + 1] for t in inputs)).square().mean().backward()
            means = [layer(*(t[r : r + 1] for t in inputs)).square().mean() for r in (0, 1)]
            (sum(means) / 2).backward()
            for (name, got), expected in zip(
                parallel.module.named_parameters(), layer.parameters()
            ):
                message = f'{case.layer.__name__}.{name}: {{}}'
                torch.testing.assert_close(
                    got.grad, expected.grad, rtol=1e-4, atol=1e-5, msg=message.format
                )
    finally:
        dist.destroy_process_group()


@pytest.mark.slow
def test_ddp_averages_the_gradients_of_every_layer(tmp_path):
    mp.spawn(_ddp_worker, (f'file://{tmp_path}/rendezvous',), nprocs=2)


@pytest.mark.slow
def test_compiled_with_inductor():
    layer, inputs = CONV.make(), CONV.inputs()
    compiled = torch.compile(layer, fullgraph=True)
    try:
        got = gradients(compiled, inputs)
    except Exception as error:  # a machine without a C++ compiler
        if 'compiler' not in str(error).lower():
            raise
        pytest.skip(str(error).splitlines()[0])
    torch.testing.assert_close(got, gradients(layer, inputs), rtol=1e-4, atol=1e-4)


def test_values_that_nobody_can_give_are_missing():
    # Bug: a weight function that cannot initialise what it stores was said to have loaded it.
    class Scaled(layers.WeightFunctionMixin, nn.Linear):
        beside_weight = ('scale',)

        def __init__(self, *args, **kwargs):
            super().__init__(*args, **kwargs)
            self.scale = nn.Parameter(torch.ones(1))

    plain = nn.Linear(4, 3).state_dict()
    with torch.device('meta'):
        layer = Scaled(4, 3)
    with pytest.raises(RuntimeError, match=r'Missing.*scale'):
        layer.load_state_dict(plain, assign=True)
    Scaled(4, 3).load_state_dict(plain, assign=True)


def test_exports():
    layer, inputs = CONV.make().eval(), CONV.inputs()
    program = torch.export.export(layer, inputs)
    torch.testing.assert_close(program.module()(*inputs), layer(*inputs))


@pytest.mark.filterwarnings('ignore::torch.jit.TracerWarning')  # the length of filters is constant
def test_traced_layers_follow_their_weight():
    # Would catch a weight baked into the trace.
    layer, inputs = CONV.make().eval(), CONV.inputs()
    with torch.no_grad():
        layer(*inputs)
        traced = torch.jit.trace(layer, inputs)
        layer.weight.normal_()
        torch.testing.assert_close(traced(*inputs), layer(*inputs))
