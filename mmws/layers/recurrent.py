r"""Recurrent layers with Weight Normalization.

Shapes: a matrix of a recurrent layer is :math:`(R, n)`, one row for each gate of each hidden unit.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from mmws.functional import normalize_weight
from mmws.registry import MODELS

# For type checkers, what a mixin is mixed into.
if TYPE_CHECKING:
    _Module = nn.Module
else:
    _Module = object


class WeightNormRecurrent(_Module):
    r"""Mixin over PyTorch's recurrent layers and cells: Weight Normalization of their matrices.

    .. math:: w_r = g_r \frac{v_r}{\lVert v_r \rVert}

    for every row of the input-to-hidden and hidden-to-hidden matrices
    (`arXiv 1602.07868 <https://arxiv.org/abs/1602.07868>`_, eq. 2), as
    ``torch.nn.utils.parametrizations.weight_norm`` of each. An LSTM's projection ``weight_hr_l*``
    stays plain.

    The layer keeps :math:`v` under the name of the plain matrix, and :math:`g` as ``<name>_g``,
    :math:`(R, 1)`. It starts as the plain layer, :math:`g_r = \lVert v_r \rVert`, and turns into
    any plain layer whose state dict it loads; state dicts of both ``weight_norm`` of
    ``torch.nn.utils`` load as well. Unlike PyTorch's parametrization it can be pickled.

    Note:
        On CUDA, cuDNN copies the matrices into one block at each call, as for PyTorch's.

    Args:
        *args: As for the plain layer.
        **kwargs: As for the plain layer.
    """

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        for name, weight in self._matrices():
            self.register_parameter(f'{name}_g', nn.Parameter(_row_norm(weight.detach())))

    def matrix_names(self) -> Iterable[str]:
        """Return the names of the plain layer's matrices that are normalized."""
        raise NotImplementedError

    def _matrices(self) -> Iterator[tuple[str, Tensor]]:
        # Not from named_parameters(): in the replicas of nn.DataParallel, and where a tool of
        # torch.nn.utils makes a matrix, the matrices are attributes, but no parameters.
        for name in self.matrix_names():
            yield name, getattr(self, name)

    def effective_weights(self) -> dict[str, Tensor]:
        """Return, by the names of the plain layer, the matrices that the layer computes with."""
        return {
            name: normalize_weight(v, getattr(self, f'{name}_g')) for name, v in self._matrices()
        }

    def reset_parameters(self) -> None:
        super().reset_parameters()  # type: ignore[misc]  # of the plain layer
        with torch.no_grad():
            for name, weight in self._matrices():
                if hasattr(self, f'{name}_g'):  # not yet while the plain layer is constructed
                    getattr(self, f'{name}_g').copy_(_row_norm(weight))

    def _load_from_state_dict(
        self, state_dict: dict[str, Any], prefix: str, *args: Any, **kwargs: Any
    ) -> None:
        for name, _ in self._matrices():
            key, new = prefix + name, f'{prefix}parametrizations.{name}.original'
            for g, v in ((f'{key}_g', f'{key}_v'), (f'{new}0', f'{new}1')):
                if g in state_dict and v in state_dict:
                    state_dict[f'{key}_g'], state_dict[key] = state_dict.pop(g), state_dict.pop(v)
            if key in state_dict and f'{key}_g' not in state_dict:
                state_dict[f'{key}_g'] = _row_norm(state_dict[key])
        super()._load_from_state_dict(state_dict, prefix, *args, **kwargs)


class _WeightNormRNN(WeightNormRecurrent):
    if TYPE_CHECKING:
        _flat_weights: list[Tensor | None]
        _flat_weights_names: list[str]
        _update_flat_weights: Callable[[], None]

    def matrix_names(self) -> Iterable[str]:
        prefixes = ('weight_ih', 'weight_hh')
        return [name for name in self._flat_weights_names if name.startswith(prefixes)]

    def forward(self, *args: Any, **kwargs: Any) -> Any:
        # The plain layer computes with this list. Brought up to date first, or it would do so
        # itself, with the stored matrices, where parameters were replaced (functional_call).
        self._update_flat_weights()
        stored, normalized = self._flat_weights, self.effective_weights()
        self._flat_weights = [
            normalized.get(name, weight) for name, weight in zip(self._flat_weights_names, stored)
        ]
        try:
            return super().forward(*args, **kwargs)
        finally:
            self._flat_weights = stored


class _WeightNormCell(WeightNormRecurrent):
    if TYPE_CHECKING:
        _parameters: dict[str, Any]

    def matrix_names(self) -> Iterable[str]:
        return 'weight_ih', 'weight_hh'

    def forward(self, *args: Any, **kwargs: Any) -> Any:
        # The plain cell computes with its attributes weight_ih and weight_hh.
        stored = self._parameters
        if any(name not in stored for name in self.matrix_names()):
            return self._plain_with(self.effective_weights()).forward(*args, **kwargs)
        self._parameters = {**stored, **self.effective_weights()}
        try:
            return super().forward(*args, **kwargs)
        finally:
            self._parameters = stored

    def _plain_with(self, weights: dict[str, Tensor]) -> Any:
        """Return a plain cell with ``weights`` in place of attributes that are no parameters."""
        cls = next(c for c in type(self).__mro__ if not issubclass(c, WeightNormRecurrent))
        plain = cls.__new__(cls)
        vars(plain).update(vars(self))
        vars(plain).update(weights)
        return plain


def _row_norm(weight: Tensor) -> Tensor:
    return torch.linalg.vector_norm(weight, dim=1, keepdim=True)


@MODELS.register_module()
class WNRNN(_WeightNormRNN, nn.RNN):
    """``nn.RNN`` with Weight Normalization, ``type='mmws.WNRNN'`` in a config."""


@MODELS.register_module()
class WNLSTM(_WeightNormRNN, nn.LSTM):
    """``nn.LSTM`` with Weight Normalization, ``type='mmws.WNLSTM'`` in a config."""


@MODELS.register_module()
class WNGRU(_WeightNormRNN, nn.GRU):
    """``nn.GRU`` with Weight Normalization, ``type='mmws.WNGRU'`` in a config."""


@MODELS.register_module()
class WNRNNCell(_WeightNormCell, nn.RNNCell):
    """``nn.RNNCell`` with Weight Normalization, ``type='mmws.WNRNNCell'`` in a config."""


@MODELS.register_module()
class WNLSTMCell(_WeightNormCell, nn.LSTMCell):
    """``nn.LSTMCell`` with Weight Normalization, ``type='mmws.WNLSTMCell'`` in a config."""


@MODELS.register_module()
class WNGRUCell(_WeightNormCell, nn.GRUCell):
    """``nn.GRUCell`` with Weight Normalization, ``type='mmws.WNGRUCell'`` in a config."""
