"""Private names of PyTorch that mmws uses, each with a fallback that is slower but right.

A private name may vanish with any release of PyTorch. Each is looked up once, here; where it is
missing, the function below answers such that the caller takes the general way.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, nullcontext
from typing import Any

import torch
from torch import Tensor, nn
from torch.autograd import forward_ad
from torch.multiprocessing.reductions import StorageWeakRef


def _find(root: object, path: str) -> Any:
    for name in path.split('.'):
        root = getattr(root, name, None)
    return root


def _dispatch_key(name: str) -> Any:
    parse = _find(torch._C, '_dispatch_key_parse')
    try:
        return None if parse is None else parse(name)
    except RuntimeError:  # no key has this name
        return None


_transforms_active = _find(torch._C, '_are_functorch_transforms_active')
_batched_key = _dispatch_key('Batched')
_dispatch_keys = _find(torch._C, '_dispatch_keys')
_is_jit_tracing = _find(torch._C, '_is_tracing')
_graph_task = _find(torch._C, '_current_graph_task_id')
_len_dispatch_stack = _find(torch._C, '_len_torch_dispatch_stack')
_below_autograd = _find(torch._C, '_AutoDispatchBelowADInplaceOrView')
_top_hooks = _find(torch._C, '_autograd._top_saved_tensors_default_hooks')
_pre_hooks = _find(nn.modules.module, '_global_forward_pre_hooks')
_post_hooks = _find(nn.modules.module, '_global_forward_hooks')
_flatten = _find(torch._C, '_nn.flatten_dense_tensors')
_unflatten = _find(torch._C, '_nn.unflatten_dense_tensors')
# Public since PyTorch 2.2; bool() is False.
_is_compiling: Callable[[], bool] = getattr(torch.compiler, 'is_compiling', bool)

PRIVATE_NAMES = (
    '_transforms_active',
    '_batched_key',
    '_dispatch_keys',
    '_is_jit_tracing',
    '_graph_task',
    '_len_dispatch_stack',
    '_below_autograd',
    '_top_hooks',
    '_pre_hooks',
    '_post_hooks',
    '_flatten',
    '_unflatten',
)
"""The variables of this module that are None where PyTorch lacks the name."""


def is_tracing() -> bool:
    """Whether PyTorch records what runs now, in order to compile, export or trace it."""
    if _is_compiling():
        return True
    return torch.jit.is_tracing() if _is_jit_tracing is None else _is_jit_tracing()


def transforms_active() -> bool:
    """Whether ``torch.func`` or forward-mode AD transforms what runs now; True if unknown."""
    level = getattr(forward_ad, '_current_level', 0)
    return _transforms_active is None or _transforms_active() or level >= 0


def is_batched(grad: Tensor) -> bool:
    """Whether this is a batch of gradients for ``is_grads_batched=True``; True if unknown."""
    if _batched_key is None or _dispatch_keys is None:
        return True
    return _dispatch_keys(grad).has(_batched_key)


def dispatch_mode_active() -> bool:
    """Whether a dispatch mode watches operators, as ``make_fx`` does; True if unknown."""
    return _len_dispatch_stack is None or _len_dispatch_stack() > 0


def below_autograd() -> AbstractContextManager[object]:
    """Return a context in which operators tell autograd nothing: neither views nor versions."""
    return nullcontext() if _below_autograd is None else _below_autograd()


def backward_running() -> bool:
    """Whether this thread is inside a backward pass; True if unknown."""
    return _graph_task is None or _graph_task() != -1


def top_pack_hook() -> Callable[[Tensor], Any] | None:
    """Return the pack hook that autograd calls for what it saves now; None if unknown."""
    hooks = None if _top_hooks is None else _top_hooks(False)
    return None if hooks is None else hooks[0]


def global_hooks() -> bool:
    """Whether hooks of all modules see every layer's input or output; True if unknown."""
    return _pre_hooks is None or _post_hooks is None or bool(_pre_hooks or _post_hooks)


def saved_by(node: Any, *names: str) -> tuple[Any, ...] | None:
    """Return arguments of the operation that a node of the graph stands for; None if unknown."""
    names = tuple(f'_saved_{name}' for name in names)
    known = all(hasattr(node, name) for name in names)
    return tuple(getattr(node, name) for name in names) if known else None


def storage_address(tensor: Tensor) -> int:
    """Return the address of the object that owns a tensor's memory."""
    storage = tensor.untyped_storage()
    address = getattr(storage, '_cdata', None)
    return StorageWeakRef(storage).cdata if address is None else address


def flatten(tensors: Sequence[Tensor]) -> Tensor:
    """Return the elements of contiguous tensors in one vector; a view if there is one tensor."""
    if _flatten is None:
        return (
            torch.cat([t.reshape(-1) for t in tensors]) if len(tensors) > 1 else tensors[0].view(-1)
        )
    return _flatten(tensors)


def unflatten(flat: Tensor, like: Sequence[Tensor]) -> Sequence[Tensor]:
    """Return views of a vector that have the shapes of ``like``: undo :func:`flatten`."""
    if _unflatten is None:
        parts = flat.split([t.numel() for t in like])
        return [part.view(t.shape) for part, t in zip(parts, like)]
    return _unflatten(flat, like)


def autocast_dtype(device_type: str | None) -> torch.dtype | None:
    """Return the dtype in which autocast computes on a device, None where it is off.

    Args:
        device_type: Such as ``'cuda'``; None for no device, which has no autocast.
    """
    if device_type is None:
        return None
    try:
        enabled = torch.is_autocast_enabled(device_type)
    except RuntimeError:  # the device has no autocast, such as 'meta'
        return None
    return torch.get_autocast_dtype(device_type) if enabled else None
