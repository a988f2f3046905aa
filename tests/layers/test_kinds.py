"""What each kind of layer does with its weight, against PyTorch's own layers."""

import copy

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from mmws import layers
from tests.helpers.layer_cases import CASES, plain_twin

DIMS = {1: (nn.Conv1d, nn.ConvTranspose1d), 2: (nn.Conv2d, nn.ConvTranspose2d)}
DIMS[3] = (nn.Conv3d, nn.ConvTranspose3d)


def assert_equal_to_twin(layer, twin, *inputs):
    outs, grads = [], []
    for module in (layer, twin):
        leaves = [t.detach().requires_grad_() for t in inputs]
        out = module(*leaves)
        grad = torch.randn(out.shape, generator=torch.Generator().manual_seed(0)).to(out)
        wanted = [*leaves, *([] if module.bias is None else [module.bias])]
        outs.append(out)
        grads.append(torch.autograd.grad(out, wanted, grad))
    torch.testing.assert_close(*outs, rtol=1e-4, atol=1e-4)
    torch.testing.assert_close(*grads, rtol=1e-4, atol=1e-4)


@settings(deadline=None, max_examples=100)
@given(data=st.data(), transposed=st.booleans(), family=st.sampled_from(['WS', 'WN']))
def test_convolutions_of_any_geometry(data, transposed, family):
    dims = data.draw(st.integers(1, 3))

    def tuples(low, high):
        return data.draw(st.tuples(*[st.integers(low, high)] * dims))

    groups = data.draw(st.sampled_from([1, 2, 4]))
    kernel, stride, dilation = tuples(1, 3), tuples(1, 2), tuples(1, 2)
    options = {'stride': stride, 'dilation': dilation, 'groups': groups}
    options['bias'] = data.draw(st.booleans())
    size = tuples(6, 8)
    if transposed:
        options['padding'] = tuples(0, 1)
        options['output_padding'] = tuple(
            min(p, max(s, d) - 1) for p, s, d in zip(tuples(0, 1), stride, dilation)
        )
    else:
        options['padding_mode'] = data.draw(
            st.sampled_from(['zeros', 'reflect', 'replicate', 'circular'])
        )
        same = ['same'] if max(stride) == 1 else []
        options['padding'] = data.draw(st.sampled_from([tuples(0, 2), 'valid', *same]))
    torch.manual_seed(0)
    name = f'Conv{"Transpose" if transposed else ""}{family}{dims}d'
    layer = getattr(layers, name)(4, 8, kernel, **options)
    twin = DIMS[dims][transposed](4, 8, kernel, **options)
    twin.load_state_dict(
        {
            **{key: value for key, value in layer.state_dict().items() if key == 'bias'},
            'weight': layer.effective_weight().detach(),
        }
    )
    batch = data.draw(st.sampled_from([(), (1,), (3,), (0,)]))
    image = torch.randn(*batch, 4, *size)
    if data.draw(st.booleans()) and batch and dims > 1:
        memory_format = torch.channels_last if dims == 2 else torch.channels_last_3d
        image = image.to(memory_format=memory_format)
        layer, twin = layer.to(memory_format=memory_format), twin.to(memory_format=memory_format)
    assert_equal_to_twin(layer, twin, image)


@pytest.mark.parametrize('groups', [1, 2])
@pytest.mark.parametrize('dims', [1, 2, 3])
def test_a_transposed_filter_makes_one_output_channel(dims, groups):
    # Would catch statistics over the first dimension, which are input channels here.
    layer = getattr(layers, f'ConvTransposeWS{dims}d')(4, 6, 2, groups=groups, eps=0.0, bias=False)
    weight = layer.effective_weight().detach()
    for channel in range(6):
        group, index = divmod(channel, 6 // groups)
        rows = slice(group * 4 // groups, (group + 1) * 4 // groups)
        std, mean = torch.std_mean(weight[rows, index])
        assert abs(mean) < 1e-5
        assert abs(std - 1) < 1e-4
    # Only the filter of a channel reaches this channel of the output.
    inputs = torch.randn(1, 4, *[3] * dims)
    before = layer(inputs)
    with torch.no_grad():
        layer.weight[: 4 // groups, 0].normal_()
    changed = (layer(inputs) != before).flatten(2).any(-1)[0]
    assert changed.tolist() == [True] + [False] * 5


@pytest.mark.parametrize('shape', [(4,), (3, 4), (2, 3, 4), (0, 4)])
@pytest.mark.parametrize('bias', [True, False])
def test_linear_of_any_shape(shape, bias):
    layer = layers.LinearWS(4, 5, bias=bias)
    twin = nn.Linear(4, 5, bias=bias)
    twin.load_state_dict({**layer.state_dict(), 'weight': layer.effective_weight().detach()})
    assert_equal_to_twin(layer, twin, torch.randn(shape))


@pytest.mark.parametrize('case', [c for c in CASES if 'Deform' in c.layer.__name__])
def test_deformable_layers_in_evaluation(case):
    layer = case.make().eval()
    twin = plain_twin(case, layer)
    with torch.no_grad():
        torch.testing.assert_close(layer(*case.inputs()), twin(*case.inputs()))


def test_output_size_of_transposed_convolutions():
    layer = layers.ConvTransposeWS2d(4, 6, 3, stride=2)
    assert layer(torch.randn(1, 4, 5, 5), output_size=[12, 12]).shape[-2:] == (12, 12)
    with pytest.raises(ValueError, match='output size'):
        layer(torch.randn(1, 4, 5, 5), output_size=[20, 20])


def test_changing_the_input_before_backward_raises():
    # Would catch inputs kept aside from autograd's check of in-place changes.
    layer, image = layers.ConvWS2d(4, 6, 3), torch.randn(1, 4, 5, 5)
    out = layer(image)
    image.add_(1)
    with pytest.raises(RuntimeError, match='modified by an inplace operation'):
        out.sum().backward()


def test_wrong_inputs_are_refused_as_by_the_plain_layer():
    layer, twin = layers.ConvWS2d(4, 6, 3), nn.Conv2d(4, 6, 3)
    for image in (torch.randn(1, 3, 5, 5), torch.randn(5, 5), torch.randn(1, 4, 5, 5).double()):
        for module in (layer, twin, copy.deepcopy(layer).eval()):
            with pytest.raises(RuntimeError):
                module(image)
