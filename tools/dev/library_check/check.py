"""Converts one model and checks the conversion."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils._pytree import tree_leaves

import mmws
from mmws.surgery.feeds.inputs import own_calls
from mmws.surgery.feeds.undisturbed import undisturbed
from tools.dev.errors import one_line

FOLD_TOLERANCE = 1e-4


def check_model(build: Callable[[], nn.Module]) -> Iterator[dict[str, Any]]:
    """Take one model through all stages; yield the results of each when it has ended.

    Yields:
        Dicts of results. The key ``stage`` names the stage that begins.

    Raises:
        Exception: whatever a stage raises. The stage is the last one that was yielded.
    """
    yield {'stage': 'build'}
    torch.manual_seed(0)
    model = build().eval()
    yield {'parameters': sum(parameter.numel() for parameter in model.parameters())}

    yield {'stage': 'run'}
    index = _first_call(model)
    trains = _trains(model, index)
    yield {'original_trains': trains, 'stage': 'convert'}
    started = time.perf_counter()
    mmws.convert(model)
    report: Any = model.conversion_report
    yield {
        'seconds_to_convert': round(time.perf_counter() - started, 2),
        'convs': len(report.convs),
        'norms': len(report.norms),
        'left': len(report.left),
        'stage': 'check',
    }
    if report.convs:
        try:
            check = mmws.check_conversion(model)
        except ValueError as reason:  # the model returns decisions alone
            yield {'check_error': one_line(reason)}
        else:
            yield {
                'holds': check.holds,
                'check_difference': check.difference,
                'unchecked': len(check.unchecked),
            }

    yield {'stage': 'train', 'trains': _trains(model, index) if trains else None}
    yield {'stage': 'fold'}
    model.eval()
    folded = mmws.fold(model)
    # PyTorch's GN refuses a channel of one value, which the smallest image may leave.
    index = _first_call(folded)
    difference = _difference(_run(folded, index), _run(model, index))
    yield {'fold_equal': difference <= FOLD_TOLERANCE, 'fold_difference': difference}

    yield {'stage': 'export'}
    error = _export_error(folded, index)
    if error is None:
        yield {'exports': True}
    else:
        # Failures of the original are no failures of the conversion.
        torch.manual_seed(0)
        original_error = _export_error(build().eval(), index)
        yield {
            'exports': None if original_error else False,
            'export_error': original_error or error,
        }
    yield {'stage': 'done'}


def _first_call(model: nn.Module) -> int:
    """Return the number of the first form of input that the model takes."""
    failure: Exception | None = None
    for index, call in enumerate(own_calls(model)):
        try:
            with undisturbed(model):  # a model may remember the size that it does not take
                call()
        except Exception as error:  # models fail in any way at a form that is not theirs
            failure = failure or error  # the first form is the likeliest
            continue
        return index
    raise failure or ValueError('no form of input is known')


def _run(model: nn.Module, index: int) -> list[Tensor]:
    torch.manual_seed(0)
    with torch.no_grad():
        outputs = list(own_calls(model))[index]()
    return [leaf for leaf in tree_leaves(outputs) if isinstance(leaf, Tensor)]


def _export_error(model: nn.Module, index: int) -> str | None:
    """Return why ``torch.export`` cannot export a model, None if it can."""
    inputs: list[Any] = []
    handle = model.register_forward_pre_hook(
        lambda module, args, kwargs: inputs.extend((args, kwargs)), with_kwargs=True
    )
    _run(model, index)
    handle.remove()
    try:
        with torch.no_grad():
            torch.export.export(model, *inputs[:2])
    except Exception as error:  # the exporter passes on what a model raises
        return one_line(error)
    return None


def _trains(model: nn.Module, index: int) -> bool | None:
    """Return whether a step in training mode gives finite gradients, None if it cannot be run."""
    model.train()
    model.zero_grad()
    try:
        outputs = tree_leaves(list(own_calls(model))[index]())
        loss = sum(t.float().square().mean() for t in outputs if _has_gradient(t))
        if not isinstance(loss, Tensor):
            return None
        loss.backward()
    except Exception:  # of a model that wants more in training, or two images for a norm
        return None
    finally:
        model.eval()
    gradients = [p.grad for p in model.parameters() if p.grad is not None]
    return bool(gradients) and all(bool(gradient.isfinite().all()) for gradient in gradients)


def _has_gradient(value: Any) -> bool:
    return isinstance(value, Tensor) and value.requires_grad


def _difference(first: list[Tensor], second: list[Tensor]) -> float:
    largest = 0.0
    for a, b in zip(first, second, strict=True):
        if a.numel() and a.is_floating_point():
            size = b.double().abs().nan_to_num(0, 0, 0).max().clamp(min=1)
            change = (a.double() - b.double()).abs().nan_to_num(0, 0, 0).max() / size
            largest = max(largest, change.item())
    return largest
