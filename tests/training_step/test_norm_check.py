"""Standardized layers whose output no norm takes are named, and no others."""

import torch
from torch import nn

from mmws.layers import ConvWS2d, GroupNorm, ScaledConvWS2d
from mmws.training_step.norm_check import NormCheck, describe


class Net(nn.Module):
    def __init__(self):
        super().__init__()
        self.stem, self.norm = ConvWS2d(3, 8, 3), GroupNorm(8, 4)
        self.residual, self.after_sum = ConvWS2d(8, 8, 1), GroupNorm(8, 4)
        self.lateral, self.last = ConvWS2d(8, 8, 1), ConvWS2d(8, 8, 1)
        self.scaled, self.unused = ScaledConvWS2d(8, 8, 1), ConvWS2d(8, 8, 1)
        self.frozen = ConvWS2d(3, 3, 1).requires_grad_(False)

    def forward(self, x):
        x = torch.relu(self.norm(self.stem(self.frozen(x)) * 2))
        x = self.after_sum(x + self.residual(x))
        return self.scaled(self.last(torch.relu(self.lateral(x))))


def test_layers_without_a_norm_behind_them_are_named():
    # A norm behind the sum of a residual connection counts, one behind another convolution not.
    model = Net()
    with NormCheck(model) as check:
        model(torch.randn(1, 3, 8, 8))
    assert check.unnormalized() == ['lateral', 'last']
    assert not any(m._forward_hooks or m._forward_pre_hooks for m in model.modules())
    assert 'lateral, last' in describe(check.unnormalized())
