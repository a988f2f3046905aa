"""What a training needs in memory, against what is known of a small model."""

import pytest
import torch
from torch import nn

from mmws.config import load_config
from mmws.engine.memory import Activations, MemoryReport, measure_memory
from mmws.training_step.live_memory import LiveMemory
from tests.helpers.paths import ROOT


def test_what_the_backward_pass_keeps_is_counted():
    x = torch.randn(4, 8)
    model = nn.Sequential(nn.Linear(8, 16), nn.Sigmoid(), nn.Linear(16, 2))
    with LiveMemory() as memory:
        loss = model(x).sum()
        kept = memory.live()
        loss.backward()
    # The output of the sigmoid alone, and the sum; a view of a weight takes no memory of its own.
    assert kept == (4 * 16 + 1) * 4
    assert memory.peak >= kept + sum(p.nbytes for p in model.parameters())


def test_images_are_what_fits_beside_weights_and_optimizer():
    gib = 2**30
    report = MemoryReport(gib, gib, 2 * gib, {'as configured': Activations(gib, 2 * gib)})
    # (12e9 - 1200 MiB) / 1.1 - 4 GiB = 5.1 GiB
    assert report.images('as configured', 12) == 2
    assert report.images('as configured', 4) == 0
    assert 'as configured' in str(report)


@pytest.mark.slow
def test_switches_save_memory():
    cfg = load_config(ROOT / 'configs/mask_rcnn_r18_gnws_digits.py')
    report = measure_memory(cfg, 96, 160)
    kept = {name: activations.kept for name, activations in report.activations.items()}
    assert kept['remake'] < 0.8 * kept['as configured']
    assert kept['with_cp'] < kept['as configured']
    assert kept['remake, with_cp'] <= kept['remake']
    assert report.optimizer >= report.gradients > 0


def test_sizes_are_checked():
    with pytest.raises(ValueError, match='size must be positive'):
        measure_memory(load_config(ROOT / 'configs/mask_rcnn_r18_gnws_digits.py'), 0, 8)
