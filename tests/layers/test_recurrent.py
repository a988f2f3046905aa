import copy
import pickle

import pytest
import torch
from mmengine.registry import MODELS
from torch import nn
from torch.nn.utils import parametrize, prune
from torch.nn.utils.parametrizations import weight_norm
from torch.nn.utils.rnn import PackedSequence, pack_sequence

from mmws.layers import recurrent

LAYERS = [
    ('RNN', {}),
    ('RNN', {'nonlinearity': 'relu', 'bias': False, 'num_layers': 2}),
    ('GRU', {'bidirectional': True, 'num_layers': 2}),
    ('GRU', {'batch_first': True}),
    ('LSTM', {'bidirectional': True, 'num_layers': 2, 'batch_first': True}),
    ('LSTM', {'proj_size': 3, 'bidirectional': True, 'bias': False}),
]
CELLS = ['RNNCell', 'LSTMCell', 'GRUCell']


def tensors(output):
    if isinstance(output, PackedSequence):
        return [output.data]
    return [output] if isinstance(output, torch.Tensor) else [t for o in output for t in tensors(o)]


def pair(name, **kwargs):
    """A layer and PyTorch's parametrization of the plain one, with equal g and v."""
    torch.manual_seed(0)
    layer = getattr(recurrent, f'WN{name}')(4, 5, **kwargs)
    expected = getattr(nn, name)(4, 5, **kwargs)
    expected.load_state_dict({k: v for k, v in layer.state_dict().items() if k[-2:] != '_g'})
    for matrix, _ in list(expected.named_parameters()):
        if matrix.startswith(('weight_ih', 'weight_hh')):
            weight_norm(expected, matrix)
            g = torch.rand_like(getattr(layer, f'{matrix}_g')) + 0.5
            getattr(layer, f'{matrix}_g').data.copy_(g)
            getattr(expected.parametrizations, matrix).original0.data.copy_(g)
    return layer, expected


def grads(layer, output):
    """Gradients by the names of ``layer``'s state dict."""
    sum((t * t.sin()).sum() for t in tensors(output)).backward()
    return {
        name.replace('parametrizations.', '')
        .replace('.original0', '_g')
        .replace('.original1', ''): parameter.grad
        for name, parameter in layer.named_parameters()
    }


@pytest.mark.parametrize(('name', 'kwargs'), LAYERS, ids=str)
def test_layer_equals_pytorchs_parametrization(name, kwargs):
    layer, expected = pair(name, **kwargs)
    packed = pack_sequence([torch.randn(n, 4) for n in (5, 3, 2)])
    for x in (torch.randn(6, 3, 4), torch.randn(6, 4), packed):
        layer.zero_grad()
        expected.zero_grad()
        outputs = layer(x), expected(x)
        torch.testing.assert_close(tensors(outputs[0]), tensors(outputs[1]))
        torch.testing.assert_close(grads(layer, outputs[0]), grads(expected, outputs[1]))


@pytest.mark.parametrize('name', CELLS)
def test_cell_equals_pytorchs_parametrization(name):
    layer, expected = pair(name)
    x, state = torch.randn(3, 4), torch.randn(3, 5)
    state = (state, state.sin()) if name == 'LSTMCell' else state
    outputs = layer(x, state), expected(x, state)
    torch.testing.assert_close(tensors(outputs[0]), tensors(outputs[1]))
    torch.testing.assert_close(grads(layer, outputs[0]), grads(expected, outputs[1]))
    compiled = torch.compile(layer, fullgraph=True, backend='aot_eager')
    torch.testing.assert_close(tensors(compiled(x, state)), tensors(outputs[0]))


@pytest.mark.parametrize(('name', 'kwargs'), [*LAYERS, *((c, {}) for c in CELLS)], ids=str)
def test_state(name, kwargs):
    # Would catch: the matrices that the forward pass put in place of the stored ones left behind.
    plain = getattr(nn, name)(4, 5, **kwargs)
    layer = getattr(recurrent, f'WN{name}')(4, 5, **kwargs)
    x = torch.randn(3, 4)
    with pytest.raises(RuntimeError):
        layer(x[:, :2])
    layer.load_state_dict(plain.state_dict())  # v = w, g = ‖w‖: the plain layer
    torch.testing.assert_close(tensors(layer(x)), tensors(plain(x)))
    assert set(layer.state_dict()) - set(plain.state_dict()) == {
        f'{matrix}_g'
        for matrix in plain.state_dict()
        if matrix.startswith(('weight_ih', 'weight_hh'))
    }

    layer(x)[0].sum().backward()
    torch.optim.SGD(layer.parameters(), 0.1).step()
    y = tensors(layer(x))
    loaded = getattr(recurrent, f'WN{name}')(4, 5, **kwargs)
    loaded.load_state_dict(layer.state_dict(), assign=True)
    for other in (copy.deepcopy(layer), pickle.loads(pickle.dumps(layer)), loaded):
        torch.testing.assert_close(tensors(other(x)), y, rtol=0, atol=0)
    torch.testing.assert_close(
        [t.float() for t in tensors(copy.deepcopy(layer).double()(x.double()))], y
    )
    replaced = {k: v * 2 if k.endswith('_g') else v for k, v in layer.named_parameters()}
    doubled = copy.deepcopy(layer)
    doubled.load_state_dict(replaced)
    torch.testing.assert_close(
        tensors(torch.func.functional_call(layer, replaced, x)), tensors(doubled(x))
    )
    torch.testing.assert_close(tensors(layer(x)), y, rtol=0, atol=0)


def replica(layer):
    """What nn.DataParallel runs on a GPU: the layer with plain tensors as attributes."""
    copied = layer._replicate_for_data_parallel()
    for name, parameter in layer.named_parameters():
        setattr(copied, name, parameter.detach().clone())
    return copied


def pruned(layer):
    """The layer with its first input matrix made by a tool that prunes nothing."""
    layer = copy.deepcopy(layer)
    return prune.identity(layer, 'weight_ih' if hasattr(layer, 'weight_ih') else 'weight_ih_l0')


def parametrized(layer):
    layer = copy.deepcopy(layer)
    name = 'weight_ih' if hasattr(layer, 'weight_ih') else 'weight_ih_l0'
    return parametrize.register_parametrization(layer, name, nn.Identity())


@pytest.mark.parametrize('made', [replica, pruned, parametrized])
@pytest.mark.parametrize(('name', 'kwargs'), [*LAYERS, *((c, {}) for c in CELLS)], ids=str)
def test_gains_count_where_matrices_are_no_parameters(name, kwargs, made):
    # Bug: matrices were looked for among the parameters. A replica of nn.DataParallel has none, so
    # it computed with the directions alone, without a word.
    layer, _ = pair(name, **kwargs)
    x, other = torch.randn(3, 4), made(layer)
    for _ in range(2):  # the second time with what the first one left
        torch.testing.assert_close(tensors(other(x)), tensors(layer(x)))


@pytest.mark.parametrize('name', ['LSTM', 'LSTMCell'])
def test_reset_parameters(name):
    # Would catch: g drawn at random together with the weights.
    layer, expected = getattr(recurrent, f'WN{name}')(4, 5), getattr(nn, name)(4, 5)
    layer.reset_parameters()
    assert all((g > 0).all() for n, g in layer.named_parameters() if n.endswith('_g'))
    expected.load_state_dict({k: v for k, v in layer.state_dict().items() if k[-2:] != '_g'})
    x = torch.randn(3, 4)
    torch.testing.assert_close(tensors(layer(x)), tensors(expected(x)))


@pytest.mark.parametrize('weight_norm', [weight_norm, torch.nn.utils.weight_norm])
def test_loads_pytorchs_weight_norm(weight_norm):
    expected = nn.GRU(4, 5)
    for matrix in ('weight_ih_l0', 'weight_hh_l0'):
        weight_norm(expected, matrix)
    for parameter in expected.parameters():
        nn.init.uniform_(parameter, 0.5, 1)
    layer, x = recurrent.WNGRU(4, 5), torch.randn(3, 4)
    layer.load_state_dict(expected.state_dict())
    torch.testing.assert_close(layer(x), expected(x))


def test_rows_without_direction_stay_zero():
    # Would catch: 0 / 0.
    layer = recurrent.WNLSTMCell(4, 5)
    nn.init.zeros_(layer.weight_hh)
    h, _ = layer(torch.randn(3, 4))
    h.sum().backward()
    assert h.isfinite().all()
    assert all(p.grad.isfinite().all() for p in layer.parameters())


def test_built_from_config():
    layer = MODELS.build({'type': 'mmws.WNLSTM', 'input_size': 4, 'hidden_size': 5})
    assert isinstance(layer, nn.LSTM)
    assert layer.weight_hh_l0_g.shape == (20, 1)
