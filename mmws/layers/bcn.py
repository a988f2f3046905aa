from typing import TYPE_CHECKING, Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from mmws.registry import MODELS

from .norm import GroupNorm


class _BatchStatistics(_BatchNorm):
    """Batch normalization without gain and offset, for any :math:`(N, C, *)`."""

    if TYPE_CHECKING:  # it has all of them
        running_mean: Tensor
        running_var: Tensor
        num_batches_tracked: Tensor
        momentum: float

    def _check_input_dim(self, input: Tensor) -> None:
        if input.dim() < 2:
            raise ValueError(f'expected an input (N, C, *), got {input.dim()}D input')


@MODELS.register_module('BCN')
class BCN(GroupNorm):
    r"""Batch-Channel Normalization, ``type='mmws.BCN'`` in a config.

    Batch normalization with a gain and an offset for each channel, followed by channel
    normalization: group normalization with a gain and an offset for each group
    (`arXiv 1911.09738 <https://arxiv.org/abs/1911.09738>`_, its section on Batch-Channel
    Normalization; `arXiv 1903.10520 <https://arxiv.org/abs/1903.10520>`_ v2 pairs it with WS):

    .. math::
        \dot x_{nc*} = \gamma_c \frac{x_{nc*} - \mu_c}{\sqrt{\sigma_c^2 + \epsilon}} + \beta_c,
        \qquad
        y_{nc*} = \gamma_g \frac{\dot x_{nc*} - \mu_{ng}}{\sqrt{\sigma_{ng}^2 + \epsilon}}
        + \beta_g

    with :math:`g` the group of channel :math:`c`, and :math:`\mu_{ng}, \sigma_{ng}^2` over the
    channels and positions of a group in one image. ``estimate`` chooses :math:`\mu_c, \sigma_c^2`:

    - ``False``: those of the batch in training and their running averages in evaluation, as in
      ``nn.BatchNorm2d``.
    - ``True``, for one or two images per GPU: estimates gathered over the training steps, used in
      training and evaluation alike and no function of the loss,

      .. math::
          \sigma_c^2 \leftarrow \sigma_c^2
              + r \left(\overline{(x_{nc*} - \mu_c)^2} - \sigma_c^2\right),
          \qquad \mu_c \leftarrow \mu_c + r (\overline{x_{nc*}} - \mu_c),

      the bars being means over batch and positions. As in the authors' code, squares are taken
      about the estimated mean: about the mean of a batch of one image they would miss the spread
      between images, and would vanish at one position.

    Numbers are those of the layer's own dtype: float32 under autocast.

    Note:
        In distributed training every process uses its own batch, and keeps its own estimates
        (MMEngine does not broadcast buffers; its ``SyncBuffersHook`` averages them). Converting a
        model to SyncBN makes the batch statistics of ``estimate=False`` those of all processes.
        MMDetection's ``norm_eval`` stops the updates, as it does for BN. Under activation
        checkpointing (``with_cp``), a batch updates the estimates twice, as it does for BN.

    Args:
        num_features: ``C`` of an input :math:`(N, C, *)`.
        num_groups: Groups wanted; where it does not divide ``C``, the largest divisor below it.
        eps: :math:`\epsilon`.
        momentum: Rate :math:`r` of the running averages and the estimates.
        affine: Learn ``bn_weight`` and ``bn_bias`` :math:`(C)` (:math:`\gamma_c, \beta_c`) and
            ``weight`` and ``bias`` :math:`(G)` (:math:`\gamma_g, \beta_g`).
        estimate: Normalize with estimates instead of batch statistics.
        **kwargs: ``device`` and ``dtype`` of parameters and statistics.

    Raises:
        ValueError: if ``num_groups`` or ``num_features`` is below 1; from a training step with
            ``estimate=False`` and one value per channel, which has no variance.
    """

    _abbr_ = 'bcn'  # MMCV's build_norm_layer names the layer by it: bcn1, bcn2

    def __init__(
        self,
        num_features: int,
        num_groups: int = 32,
        eps: float = 1e-5,
        momentum: float = 0.1,
        affine: bool = True,
        estimate: bool = False,
        **kwargs: Any,
    ) -> None:
        # GroupNorm's own parameters would have one element per channel, not per group.
        super().__init__(num_features, num_groups, eps=eps, affine=False, **kwargs)
        self.affine = affine
        self.estimate = estimate
        # A child of BN's class, so that norm_eval and SyncBN conversion find it. Its gain is kept
        # outside: what sets the gain of all children to 0 (MMDetection's zero_init_residual) would
        # otherwise set both, and the gradients of both would be 0 from then on.
        self.bn = _BatchStatistics(num_features, eps, momentum, affine=False, **kwargs)
        if affine:
            self.bn_weight = nn.Parameter(torch.empty(num_features, **kwargs))
            self.bn_bias = nn.Parameter(torch.empty(num_features, **kwargs))
            self.weight = nn.Parameter(torch.empty(self.num_groups, **kwargs))
            self.bias = nn.Parameter(torch.empty(self.num_groups, **kwargs))
        else:
            self.register_parameter('bn_weight', None)
            self.register_parameter('bn_bias', None)
        self.reset_parameters()

    def reset_parameters(self) -> None:
        super().reset_parameters()
        if self.affine:
            nn.init.ones_(self.bn_weight)
            nn.init.zeros_(self.bn_bias)

    def forward(self, input: Tensor) -> Tensor:
        x = input.to(self.bn.running_mean.dtype)
        x = self._normalize_by_estimates(x) if self.estimate else self._normalize_by_batch(x)
        weight = bias = None
        if self.affine:
            group_size = self.num_channels // self.num_groups
            weight = self.weight.repeat_interleave(group_size)
            bias = self.bias.repeat_interleave(group_size)
        # Not F.group_norm, which refuses one image of one position even in evaluation.
        x = torch.group_norm(x, self.num_groups, weight, bias, self.eps)
        return x.to(input.dtype)

    def _normalize_by_batch(self, x: Tensor) -> Tensor:
        x = self.bn(x)
        if self.affine:
            shape = (-1, *[1] * (x.dim() - 2))
            x = x * self.bn_weight.view(shape) + self.bn_bias.view(shape)
        return x

    def _normalize_by_estimates(self, x: Tensor) -> Tensor:
        # Cloned for backward: a head shared by the levels of a pyramid updates the estimates again
        # before the gradients of its first call are computed.
        bn = self.bn
        if bn.training and x.numel() > 0:  # no RoIs: nothing to learn from
            self._update_estimates(x.detach())
        mean, var = bn.running_mean.clone(), bn.running_var.clone()
        return F.batch_norm(x, mean, var, self.bn_weight, self.bn_bias, eps=self.eps)

    @torch.no_grad()
    def _update_estimates(self, x: Tensor) -> None:
        bn = self.bn
        dims = [d for d in range(x.dim()) if d != 1]
        var, mean = torch.var_mean(x, dims, correction=0)
        offset = mean - bn.running_mean
        bn.running_var.lerp_(var + offset.square(), bn.momentum)
        bn.running_mean.lerp_(mean, bn.momentum)
        bn.num_batches_tracked.add_(1)

    def extra_repr(self) -> str:
        return f'{super().extra_repr()}, momentum={self.bn.momentum}, estimate={self.estimate}'
