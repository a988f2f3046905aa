"""All forms of a model start from the same filters, and have the layers that they are named for."""

from __future__ import annotations

import pytest
import torch
from mmengine.registry import MODELS
from torch import nn

from mmws.config import load_config
from mmws.layers import WNLSTM, ConvWN2d, ConvWS2d, GroupNorm
from tests.helpers.paths import CONFIGS

CONFIG = CONFIGS / 'study' / 'digits_classification.py'
SEQUENCES = CONFIGS / 'study' / 'digits_sequences.py'
PLAIN, BN = nn.Conv2d, nn.BatchNorm2d

pytestmark = pytest.mark.usefixtures('mmdet_registered')


def build(config, conv, norm):
    torch.manual_seed(0)
    model = load_config(config).model
    return MODELS.build(dict(type='mmws.InForm', model=model, conv=conv, norm=norm))


def kinds(model, *bases):
    return {type(m) for m in model.modules() if isinstance(m, bases)}


@pytest.mark.skipif(torch.cuda.is_available(), reason="PyTorch's SyncBatchNorm is taken on GPUs")
def test_synchronized_norms_begin_as_those_of_batch_norm(tmp_path):
    # Bug: MMCV's layer draws random numbers when it is built, and other filters follow.
    torch.distributed.init_process_group(
        'gloo', init_method=f'file://{tmp_path}/store', rank=0, world_size=1
    )
    try:
        plain, model = build(CONFIG, None, 'BN'), build(CONFIG, None, 'SyncBN')
        assert not kinds(model, BN)
        images = torch.randn(2, 3, 32, 32)
        expected, found = (m.train()(images) for m in (plain, model))
        torch.testing.assert_close(found, expected)
    finally:
        torch.distributed.destroy_process_group()


@pytest.mark.parametrize(
    ('conv', 'norm', 'convs', 'norms'),
    [
        (None, 'BN', {PLAIN}, {BN}),
        (None, 'GN', {PLAIN}, {GroupNorm}),
        ('WS', 'BN', {ConvWS2d}, {BN}),
        ('WS', 'GN', {ConvWS2d}, {GroupNorm}),
        ('WN', None, {ConvWN2d}, set()),
        (None, None, {PLAIN}, set()),
    ],
)
def test_a_form_has_its_layers_and_the_filters_of_all(conv, norm, convs, norms):
    # Bug: a form keeps a norm, or starts from other filters and is compared by luck.
    model = build(CONFIG, conv, norm)
    assert kinds(model, nn.Conv2d) == convs
    assert kinds(model, BN, nn.GroupNorm) == norms
    filters = model.state_dict()
    for name, weight in build(CONFIG, None, 'BN').state_dict().items():
        if name.endswith('conv1.weight') or name == 'head.weight':
            torch.testing.assert_close(filters[name], weight)
    has_bias = {m.bias is not None for m in model.modules() if isinstance(m, nn.Conv2d)}
    assert has_bias == {norm is None}
    loss = model(torch.randn(2, 3, 64, 64), torch.tensor([3, 7]), mode='loss')['loss']
    loss.backward()
    assert all(p.grad is not None for p in model.parameters())


def test_a_recurrent_layer_with_weight_normalization_starts_as_the_plain_one():
    # Bug: WN of a model of sequences leaves the LSTM plain.
    plain, normalized = build(SEQUENCES, None, 'BN'), build(SEQUENCES, 'WN', None)
    assert type(normalized.backbone) is WNLSTM
    inputs = torch.randn(4, 8, 8)
    torch.testing.assert_close(normalized(inputs), plain(inputs))


def test_a_model_has_its_own_data_preprocessor():
    # Bug: what the Runner adds replaces the model's own, so that images of MMSegmentation's
    # configs are padded to 512 × 512 pixels.
    model = load_config(CONFIGS / 'study' / 'digits_instances.py').model
    added = dict(type='DetDataPreprocessor', pad_size_divisor=512)
    built = MODELS.build(dict(type='mmws.InForm', model=model, data_preprocessor=added))
    assert built.data_preprocessor.pad_size_divisor == model.data_preprocessor.pad_size_divisor
    del model['data_preprocessor']
    built = MODELS.build(dict(type='mmws.InForm', model=model, data_preprocessor=added))
    assert built.data_preprocessor.pad_size_divisor == 512
