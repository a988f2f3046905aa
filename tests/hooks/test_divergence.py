import math

import pytest
import torch

from mmws.checkpoints import NonFiniteError, find_intact
from mmws.compat import CheckpointError, read_checkpoint
from mmws.hooks import DivergenceError
from mmws.hooks.divergence import image_names
from tests.helpers.toy_training import at, run, toy_config


def spoil_weight(runner, data_batch):
    runner.model.layers[4].weight.data[0] = math.nan


def spoil_pixel(runner, data_batch):
    data_batch['inputs'][0][0] = math.inf


def spoil_gradient(runner, data_batch):
    runner.model.layers[4].weight.register_hook(lambda gradient: gradient * math.nan)


@pytest.mark.parametrize('clip', [None, dict(max_norm=1)])
@pytest.mark.parametrize(
    ('spoil', 'culprit'),
    [
        (spoil_weight, 'weight layers.4.weight'),
        (spoil_pixel, 'pixels of the images'),
        (spoil_gradient, 'gradient of layers.4.weight'),
    ],
)
def test_what_is_not_finite_stops_the_training_and_is_named(tmp_path, spoil, culprit, clip):
    # Bug: it trains on to the end, on NaN, and NaN checkpoints replace the good ones.
    cfg = toy_config(tmp_path / 'w')
    cfg.optim_wrapper.clip_grad = clip
    with pytest.raises(DivergenceError, match=r'iteration 8: loss .*images/\d\.png') as error:
        run(cfg, at(7, spoil))
    if clip and 'gradient' in culprit:
        culprit = 'gradients of all parameters'
    assert culprit in str(error.value)
    assert find_intact(tmp_path / 'w').path.name == 'iter_6.pth'


def test_an_exploding_rate_ends_before_the_weights_do(tmp_path):
    cfg = toy_config(tmp_path / 'w', length=200, interval=50, val=False)
    cfg.optim_wrapper.optimizer = dict(type='SGD', lr=1e30)
    with pytest.raises(DivergenceError):
        run(cfg)


def test_updates_are_skipped_by_option_at_most_so_many_in_a_row(tmp_path):
    cfg = toy_config(tmp_path / 'w')
    for hook in cfg.custom_hooks:
        if hook.type == 'mmws.DivergenceHook':
            hook.max_skipped = 2

    def spoil_two(runner, data_batch):
        if runner.iter in (4, 5):
            spoil_pixel(runner, data_batch)

    runner = run(cfg, spoil_two)
    assert all(weight.isfinite().all() for weight in runner.model.parameters())
    # The optimizer has counted ten of twelve steps.
    (steps,) = {float(state['step']) for state in runner.optim_wrapper.optimizer.state.values()}
    assert steps == 10
    cfg.work_dir += '2'
    with pytest.raises(DivergenceError, match='iteration 3, after 2 skipped updates'):
        run(cfg, spoil_pixel)


def test_no_checkpoint_with_nan_is_written_or_loaded(tmp_path):
    # A weight that takes no part in the training has no gradient that would show it.
    cfg = toy_config(tmp_path / 'w')

    def spoil_unused(runner, data_batch):
        runner.model.register_buffer('unused', torch.tensor([math.nan]))

    with pytest.raises(NonFiniteError, match='iteration 6 is not finite: unused'):
        run(cfg, at(4, spoil_unused))
    assert find_intact(tmp_path / 'w').path.name == 'iter_3.pth'
    checkpoint = read_checkpoint(tmp_path / 'w/iter_3.pth')
    checkpoint['state_dict']['layers.0.weight'].fill_(math.inf)
    torch.save(checkpoint, tmp_path / 'bad.pth')
    with pytest.raises(NonFiniteError, match=r'bad\.pth is not finite: layers\.0\.weight'):
        run(cfg, resume=str(tmp_path / 'bad.pth'))


def test_attention_masks_are_no_divergence(tmp_path):
    # Bug: -inf in a buffer, which hides pairs of tokens from a softmax, counts as divergence.
    from mmws.checkpoints import check_finite

    mask = torch.zeros(4, 4).masked_fill(torch.eye(4).bool(), -math.inf)
    check_finite({'state_dict': {'mask': mask, 'weight': torch.ones(2)}}, 'x')
    with pytest.raises(CheckpointError, match='weight'):
        check_finite({'weight': torch.tensor([1.0, -math.inf])}, 'x')


def test_image_names_are_found_in_nested_batches():
    class Sample(dict):
        pass

    from mmengine.structures import BaseDataElement

    sample = BaseDataElement(metainfo={'img_path': 'a.png'})
    assert image_names({'sup': {'data_samples': [sample]}, 'unsup': [[sample]]}) == ['a.png'] * 2
    assert image_names({'inputs': [torch.ones(2)], 'data_samples': [BaseDataElement()]}) == []
