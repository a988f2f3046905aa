"""What MMEngine's runner takes from a checkpoint unchecked: the schedules and the log."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from mmws.compat import CheckpointError

from .resumed_optimizer import same_kind, shown


def check_log(log: Mapping[str, Any], source: str) -> None:
    """Check the state of MMEngine's message hub, which asserts at the next iteration what it holds.

    Raises:
        CheckpointError: naming the entry that is not what the hub writes.
    """
    fault = _log_fault(log)
    if fault:
        raise CheckpointError(f'checkpoint {source} cannot be resumed: {fault}')


def _log_fault(log: Mapping[str, Any]) -> str:
    for key in ('log_scalars', 'runtime_info', 'resumed_keys'):
        if key not in log:
            return ''  # which MMEngine tells when it loads the log
        if not isinstance(log[key], Mapping):
            return f'message_hub.{key} in it is no dict'
    # The hub saves values of keys that are resumed, and no others.
    saved = log['log_scalars'].keys() | log['runtime_info'].keys()
    for key, resumed in log['resumed_keys'].items():
        if not isinstance(resumed, bool) or (key in saved and not resumed):
            return f'message_hub.resumed_keys of {key!r} in it is {shown(resumed)}'
    return ''


def check_schedulers(schedulers: Any, state: Any, source: str) -> None:
    """Check that the states of schedules have values of the types that the schedules have.

    MMEngine takes over any value, and the training would end at its next update.

    Args:
        schedulers: A list of schedules of MMEngine, or a dict of such lists.
        state: What the checkpoint holds for them, of the same form.
        source: Path of the checkpoint.

    Raises:
        CheckpointError: naming the first value of another type.
    """
    if not _are_schedulers(state):
        raise CheckpointError(
            f'checkpoint {source} cannot be resumed: param_schedulers in it is no list of dicts'
        )
    lists = schedulers if isinstance(schedulers, Mapping) else {'': schedulers}
    for name, own in lists.items():
        saved = state.get(name, []) if isinstance(state, Mapping) else state
        prefix = f'param_schedulers.{name}.' if name else 'param_schedulers.'
        for number, (scheduler, values) in enumerate(zip(own, saved)):
            for key, value in scheduler.state_dict().items():
                found = values.get(key, value)
                if not _same_type(found, value) or _is_unfit(key, found, value):
                    raise CheckpointError(
                        f'checkpoint {source} cannot be resumed: {prefix}{number}.{key} in it is '
                        f'{shown(found)}'
                    )


def _are_schedulers(state: Any) -> bool:
    """Whether the states of schedules are a list of dicts, or a dict of such lists."""
    lists = state.values() if isinstance(state, Mapping) else [state]
    return all(
        isinstance(entries, list) and all(isinstance(entry, Mapping) for entry in entries)
        for entries in lists
    )


def _is_unfit(key: str, found: Any, own: Any) -> bool:
    """Whether a schedule cannot go on with a value: of other groups, or of another parameter."""
    if key in ('base_values', '_last_value'):  # a value for each group of the optimizer
        return len(found) != len(own)
    return key == 'param_name' and found != own


def _same_type(value: Any, own: Any) -> bool:
    if isinstance(own, Mapping):
        return isinstance(value, Mapping)
    if isinstance(own, (bool, str)):
        return isinstance(value, type(own))
    if isinstance(own, (list, tuple)):
        # The lengths of some lists follow from the config, which may have changed.
        return isinstance(value, (list, tuple)) and all(_same_type(v, own[0]) for v in value if own)
    return not isinstance(own, (int, float)) or same_kind(value, own)
