"""What checkpoints of a training say of themselves, and that no others are resumed."""

import copy

import pytest
import torch
from mmengine.hooks import EMAHook
from mmengine.model import BaseModel, ImgDataPreprocessor
from mmengine.runner import Runner
from torch import nn
from torch.utils.data import DataLoader

from mmws import CheckpointMismatchError, ConvAWS2d, ConvWS2d, GroupNorm
from mmws.checkpoints.metadata import (
    PLAIN,
    WeightMetadata,
    describe_weights,
    parametrization_of,
)
from mmws.compat import read_checkpoint


class Detector(BaseModel):
    def __init__(self, conv=ConvWS2d, width=8):
        super().__init__(ImgDataPreprocessor([1, 2, 3], [4, 5, 6], bgr_to_rgb=True))
        self.backbone = nn.Sequential(conv(3, width, 3), GroupNorm(width, 4))
        self.head = nn.Conv2d(width, 2, 1)

    def forward(self, inputs, data_samples, mode):
        return {'loss': self.head(self.backbone(inputs)).square().mean()}


def train(work_dir, model, epochs=1, hooks=(), **kwargs):
    data = [dict(inputs=torch.randn(3, 6, 6)) for _ in range(2)]
    runner = Runner(
        model=model,
        work_dir=str(work_dir),
        train_dataloader=DataLoader(data, batch_size=2),
        train_cfg=dict(by_epoch=True, max_epochs=epochs),
        optim_wrapper=dict(optimizer=dict(type='SGD', lr=0.01)),
        custom_hooks=[dict(type='mmws.CheckpointRecordHook'), *hooks],
        experiment_name=f'{work_dir.name}{len(list(work_dir.glob("*")))}',
        **kwargs,
    )
    runner.train()


def test_a_checkpoint_says_what_it_was_trained_with(tmp_path):
    # Bug: PyTorch's safe loading refuses what is written, or a layer's arguments are lost.
    train(tmp_path, Detector())
    checkpoint = read_checkpoint(tmp_path / 'epoch_1.pth')  # weights_only
    assert checkpoint['meta']['mmws'] == dict(
        weights=[
            dict(
                function='Standardize',
                arguments=dict(eps=1e-5, variance='unbiased', eps_inside=False, scale=1.0),
                beside=[],
                layers=['backbone.0'],
            )
        ],
        unknown=[],
        norms=[dict(norm='GN', num_groups=4, layers=['backbone.1'])],
        data_preprocessor=dict(mean=[1, 2, 3], std=[4, 5, 6], bgr_to_rgb=True),
    )
    read = WeightMetadata(checkpoint['meta']['mmws'])
    assert read.parametrization('backbone.0') == parametrization_of(ConvWS2d(1, 1, 1))
    assert read.parametrization('head') == PLAIN


def test_resuming_another_model_is_refused_before_anything_is_loaded(tmp_path):
    # Bug: a run goes on with other layers, or with a head at random; or the moving average has
    # loaded when the model refuses.
    train(tmp_path, Detector(), hooks=[EMAHook()])
    (tmp_path / 'last_checkpoint').write_text(str(tmp_path / 'epoch_1.pth'))
    for model, match in (
        (Detector(width=16), r'5 of another shape \(as backbone'),
        (Detector(ConvAWS2d), 'the model has affine Weight Standardization'),
    ):
        before = copy.deepcopy(model.state_dict())
        ema = EMAHook()
        with pytest.raises(CheckpointMismatchError, match=match):
            train(tmp_path, model, epochs=2, hooks=[ema], resume=True)
        # The Runner moves the model to the GPU where there is one.
        torch.testing.assert_close(model.cpu().state_dict(), before, rtol=0, atol=0)
        average = ema.ema_model.module.cpu().state_dict()
        torch.testing.assert_close(average, before, rtol=0, atol=0)
    train(tmp_path, Detector(), epochs=2, hooks=[EMAHook()], resume=True)
    assert (tmp_path / 'epoch_2.pth').exists()


def test_other_weight_functions_are_described_by_their_own_name():
    # Bug: a weight function that a user adds breaks the saving of checkpoints.
    class Halved:
        def __call__(self, weight):
            return weight / 2

    class ConvHalved(ConvWS2d):
        def weight_function(self):
            return Halved()

    described = describe_weights(nn.Sequential(ConvHalved(2, 2, 1)))
    assert WeightMetadata(described).parametrization('0').function == 'Halved'
    assert str(WeightMetadata(described).parametrization('0')) == 'the weight function Halved'


def test_a_shared_layer_is_recorded_under_all_its_names():
    # Bug: RTMDet, whose levels share their convolutions, is told that its own checkpoint was
    # trained without WS.
    conv, norm = ConvWS2d(2, 2, 1), GroupNorm(2)
    described = WeightMetadata(
        describe_weights(nn.Sequential(nn.Sequential(conv, norm), nn.Sequential(conv, norm)))
    )
    assert described.parametrization('1.0') == described.parametrization('0.0') != PLAIN
    assert described.norm('1.1') == described.norm('0.1') == dict(norm='GN', num_groups=2)


def test_a_record_of_another_form_is_refused_by_name():
    with pytest.raises(ValueError, match='no record of mmws'):
        WeightMetadata(dict(weights=None))
