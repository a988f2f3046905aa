"""A training that diverges ends while its weights are still numbers."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping
from typing import Any

import torch
from mmengine.dist import all_gather_object, get_world_size
from mmengine.hooks import Hook
from mmengine.runner import Runner
from mmengine.structures import BaseDataElement
from torch import Tensor, nn

from mmws.checkpoints.guard import unwrap
from mmws.checkpoints.intact import all_finite, check_finite, first_nonfinite
from mmws.compat.mmengine_private import loads_from
from mmws.data.positions import random_state_kept
from mmws.registry import HOOKS
from mmws.surgery.libraries import loaded_classes

# With mixed precision, PyTorch skips updates whose gradients overflow, and lowers the loss scale.
_MOST_OVERFLOWS_IN_A_ROW = 100


class DivergenceError(RuntimeError):
    """NaN or infinity in the loss, the gradients or the weights of a training.

    Attributes:
        on_all_ranks: Whether every rank raises the same error, so that one may tell it for all.
    """

    def __init__(self, message: str, on_all_ranks: bool = False) -> None:
        super().__init__(message)
        self.on_all_ranks = on_all_ranks


@HOOKS.register_module()
class DivergenceHook(Hook):
    """Stop, or skip an update, where the loss or a gradient is NaN or infinite.

    ``custom_hooks = [dict(type='mmws.DivergenceHook')]`` in a config; the training of mmws adds it
    by itself. The gradients are looked at before the optimizer uses them, so the weights stay
    finite: with ``clip_grad`` by the norm that MMEngine has computed anyway, else by one norm of
    all gradients and one wait for it.

    Args:
        max_skipped: How many updates in a row may be skipped before the training is stopped.
    """

    priority = 'ABOVE_NORMAL'  # after MMEngine's log of the loss, before anything is saved

    def __init__(self, max_skipped: int = 0) -> None:
        if isinstance(max_skipped, bool) or not isinstance(max_skipped, int) or max_skipped < 0:
            raise ValueError(f'max_skipped must be a number of updates ≥ 0, got {max_skipped!r}')
        self.max_skipped = max_skipped
        self._skipped = 0
        self._overflows = 0
        self._updated = False
        self._batch: Any = None
        self._losses: Mapping[str, Any] = {}

    def after_load_checkpoint(self, runner: Runner, checkpoint: dict) -> None:
        check_finite(checkpoint, f'checkpoint {loads_from(runner)}')

    def before_train(self, runner: Runner) -> None:
        _watch_losses(unwrap(runner.model), self._keep_losses)
        for wrapper in _wrappers(runner.optim_wrapper):
            # DeepSpeed's engine has no hooks, and looks for overflows itself.
            if hasattr(wrapper.optimizer, 'register_step_pre_hook'):
                wrapper.optimizer.register_step_pre_hook(self._checker(runner, wrapper))

    def after_train(self, runner: Runner) -> None:
        vars(unwrap(runner.model)).pop('parse_losses', None)

    def before_train_iter(
        self, runner: Runner, batch_idx: int, data_batch: dict | None = None
    ) -> None:
        self._batch = data_batch
        self._updated = False

    def after_train_iter(
        self,
        runner: Runner,
        batch_idx: int,
        data_batch: dict | None = None,
        outputs: dict | None = None,
    ) -> None:
        self._batch = None
        loss = _logged_loss(runner)
        # No update has used the loss: gradients are accumulated, or PyTorch has skipped the update.
        if loss is not None and not math.isfinite(loss) and not self.max_skipped:
            raise DivergenceError(self._describe(runner, data_batch))
        if hasattr(runner.optim_wrapper, 'loss_scaler') and runner.optim_wrapper.should_update():
            self._overflows = 0 if self._updated else self._overflows + 1
            if self._overflows > _MOST_OVERFLOWS_IN_A_ROW:
                raise DivergenceError(
                    f'iteration {runner.iter + 1}: the gradients of {self._overflows} updates in a '
                    'row have overflowed, at ever lower loss scales'
                )

    def _keep_losses(self, losses: Mapping[str, Any]) -> None:
        self._losses = losses

    def _checker(self, runner: Runner, wrapper: Any) -> Callable[..., None]:
        def check(optimizer: torch.optim.Optimizer, args: tuple, kwargs: dict) -> None:
            self._updated = True
            if getattr(optimizer, 'found_inf', None) is not None:
                return  # PyTorch's loss scaler decides for a fused optimizer
            gradients = [
                parameter.grad
                for group in optimizer.param_groups
                for parameter in group['params']
                if parameter.grad is not None
            ]
            if _finite(runner, wrapper, gradients):
                self._skipped = 0
                return
            if self._skipped < self.max_skipped:
                self._skip(runner, optimizer)
                return
            raise self._error(runner)

        return check

    def _skip(self, runner: Runner, optimizer: torch.optim.Optimizer) -> None:
        self._skipped += 1
        optimizer.zero_grad(set_to_none=True)  # optimizers pass over parameters without gradient
        runner.logger.warning(
            f'iteration {runner.iter + 1}: the update is skipped ({self._skipped} in a row), its '
            f'gradients are not finite; loss {_numbers(self._losses)}; images '
            f'{", ".join(image_names(self._batch)) or "unknown"}'
        )

    def _error(self, runner: Runner) -> DivergenceError:
        # The gradients have been summed over the ranks, so all of them come here.
        told = self._describe(runner, self._batch)
        if get_world_size() == 1:
            return DivergenceError(told)
        causes = [
            text for guilty, text in all_gather_object((self._is_cause(), told)) if guilty
        ] or [told]
        return DivergenceError('; '.join(causes), on_all_ranks=True)

    def _is_cause(self) -> bool:
        return any(not math.isfinite(value) for value in _floats(self._losses).values())

    def _describe(self, runner: Runner, batch: Any) -> str:
        model = unwrap(runner.model)
        skipped = f', after {self._skipped} skipped updates' if self._skipped else ''
        return (
            f'training diverged in iteration {runner.iter + 1}{skipped}: loss '
            f'{_numbers(self._losses)}; first not finite: {_first_layer(model, batch)}; images '
            f'{", ".join(image_names(batch)) or "unknown"}. The weights before this iteration '
            'were finite: lower the learning rate or look at these images, and go on with `resume`'
        )


def image_names(batch: Any) -> list[str]:
    """Return the paths of the images in a batch, as far as its samples have them."""
    if isinstance(batch, BaseDataElement):
        path = batch.get('img_path')
        return [str(path)] if path else []
    if isinstance(batch, Mapping):
        batch = batch.values()
    elif not isinstance(batch, (list, tuple)):
        return []
    return [name for part in batch for name in image_names(part)]


def _wrappers(optim_wrapper: Any) -> Iterator[Any]:
    """Yield the wrappers of single optimizers."""
    if hasattr(optim_wrapper, 'optimizer'):
        yield optim_wrapper
    else:
        for _, wrapper in optim_wrapper.items():
            yield from _wrappers(wrapper)


def _watch_losses(model: nn.Module, keep: Callable[[Mapping[str, Any]], None]) -> None:
    parse_losses = getattr(model, 'parse_losses', None)
    if parse_losses is None:
        return

    def parse_and_keep(*args: Any, **kwargs: Any) -> Any:
        loss, losses = parse_losses(*args, **kwargs)
        keep(losses)
        return loss, losses

    vars(model)['parse_losses'] = parse_and_keep  # `nn.Module` types its attributes as tensors


def _finite(runner: Runner, wrapper: Any, gradients: list[Tensor]) -> bool:
    clip = wrapper.clip_grad_kwargs
    if clip and wrapper.grad_name == 'grad_norm':
        # MMEngine has waited for the norm a moment ago, to log it.
        return math.isfinite(runner.message_hub.get_scalar('train/grad_norm').current())
    return all_finite(gradients) or all(bool(g.isfinite().all()) for g in gradients)


def _logged_loss(runner: Runner) -> float | None:
    scalars = runner.message_hub.log_scalars
    return float(scalars['train/loss'].current()) if 'train/loss' in scalars else None


def _floats(losses: Mapping[str, Any]) -> dict[str, float]:
    return {
        name: float(value.detach() if isinstance(value, torch.Tensor) else value)
        for name, value in losses.items()
        if isinstance(value, (int, float)) or (isinstance(value, Tensor) and value.numel() == 1)
    }


def _numbers(losses: Mapping[str, Any]) -> str:
    """Return the total, and the parts that are not finite."""
    values = _floats(losses)
    total = values.pop('loss', math.nan)
    parts = [f'{name} {value:g}' for name, value in values.items() if not math.isfinite(value)]
    return f'{total:g}' + (f' ({", ".join(parts)})' if parts else '')


def _first_layer(model: Any, batch: Any) -> str:
    """Name the first weight, pixel or layer that is not finite, by one more forward pass."""
    weight = first_nonfinite(dict(model.named_parameters()))
    if weight is not None:
        return f'weight {weight}'
    buffer = first_nonfinite(dict(model.named_buffers()))
    if buffer is not None:
        return f'buffer {buffer}'
    synchronized: tuple[type, ...] = (
        nn.SyncBatchNorm,
        *loaded_classes('mmcv.ops', 'SyncBatchNorm'),
    )
    if get_world_size() > 1 and any(isinstance(m, synchronized) for m in model.modules()):
        return 'unknown (a forward pass of one rank alone would wait for the others)'
    found: list[str] = []
    handles = [
        module.register_forward_hook(_note_nonfinite(name, found))
        for name, module in model.named_modules()
        if name
    ]
    try:
        with torch.no_grad(), random_state_kept():
            data = model.data_preprocessor(batch, True)
            if any(not bool(x.isfinite().all()) for x in _tensors(data.get('inputs'))):
                return 'pixels of the images'
            model._run_forward(data, mode='loss')
    except Exception as error:  # the model's code, on what is not finite: anything may come
        return f'{found[0]}' if found else f'unknown (a forward pass fails: {error})'
    finally:
        for handle in handles:
            handle.remove()
    if found:
        return f'output of layer {found[0]}'
    return _first_gradient(model) or 'a loss that no layer computes'


def _first_gradient(model: nn.Module) -> str | None:
    with_gradient = [(n, p.grad) for n, p in model.named_parameters() if p.grad is not None]
    names = [name for name, gradient in with_gradient if not bool(gradient.isfinite().all())]
    if names and len(names) == len(with_gradient):
        return 'gradients of all parameters'  # clipping by a norm of NaN leaves none finite
    # The backward pass comes to the last parameters first.
    return f'gradient of {names[-1]}' if names else None


def _note_nonfinite(name: str, found: list[str]) -> Callable[..., None]:
    def note(module: nn.Module, inputs: Any, output: Any) -> None:
        if not found and any(
            x.is_floating_point() and not bool(x.isfinite().all()) for x in _tensors(output)
        ):
            found.append(name)

    return note


def _tensors(value: Any) -> Iterator[Tensor]:
    if isinstance(value, Tensor):
        yield value
    elif isinstance(value, Mapping):
        for part in value.values():
            yield from _tensors(part)
    elif isinstance(value, (list, tuple)):
        for part in value:
            yield from _tensors(part)
