from types import SimpleNamespace

import pytest
import torch
from mmengine.config import Config
from mmengine.model import ImgDataPreprocessor
from mmengine.runner import Runner
from torch import nn

from mmws.compat.mmengine_private import (
    config_text_unformatted,
    is_resuming,
    loads_from,
    swaps_channels,
)


@pytest.mark.parametrize('resume', [False, True])
@pytest.mark.parametrize('load_from', [None, 'epoch_1.pth'])
def test_the_fallback_agrees_with_a_runner(resume, load_from, tmp_path):
    # Bug: MMEngine renames an attribute, and a training resumes unchecked.
    settings = dict(resume=resume, load_from=load_from)
    runner = Runner(
        model=nn.Identity(),
        work_dir=str(tmp_path),
        experiment_name=tmp_path.name,
        cfg=Config(settings),
        **settings,
    )
    without_attributes = SimpleNamespace(cfg=Config(settings))
    assert is_resuming(runner) == is_resuming(without_attributes) == resume
    assert loads_from(runner) == loads_from(without_attributes) == load_from


@pytest.mark.parametrize('settings', [{}, {'bgr_to_rgb': True}, {'rgb_to_bgr': True}])
def test_swapped_channels_are_those_that_come_out_swapped(settings):
    """Independent of the attribute: a red image stays red, or becomes blue."""
    preprocessor = ImgDataPreprocessor(**settings)
    image = torch.tensor([255, 0, 0], dtype=torch.uint8).view(3, 1, 1)
    first_channel = preprocessor(dict(inputs=[image]))['inputs'][0, 0].item()
    assert swaps_channels(preprocessor) == (first_channel == 0)


def test_a_preprocessor_of_another_library_swaps_nothing():
    assert not swaps_channels(nn.Identity())
    assert not swaps_channels(None)


def test_the_text_of_a_config_is_the_same_config_without_formatting():
    # Bugs: the text in a checkpoint is no Python any more; the config stays changed.
    cfg = Config(dict(model=dict(type='A', sizes=[(1, 2), {'b': 'x\n"\'' * 30}]), steps=[0.5] * 60))
    formatted = cfg.pretty_text
    with config_text_unformatted(cfg):
        text = cfg.pretty_text
    assert Config.fromstring(text, '.py').to_dict() == cfg.to_dict()
    assert text != formatted == cfg.pretty_text
