"""Errors of foreign models told from errors of the conversion."""

from __future__ import annotations

import traceback

# These functions call what the model consists of: an error that arises there is the model's.
_CALLING = frozenset({'<lambda>', '__torch_dispatch__', 'call_with', 'run_mmdet'})


def raised_in_surgery(error: BaseException) -> bool:
    """Return whether the code of the conversion raised ``error`` or what ``error`` was made of.

    Where a model may raise anything, an error of our own must not pass for the model's.
    """
    while error.__context__ is not None:  # MMEngine raises its own error for any other
        error = error.__context__
    frames = [frame for frame, _ in traceback.walk_tb(error.__traceback__)]
    if not frames:
        return False
    module = frames[-1].f_globals.get('__name__', '')
    return module.startswith('mmws.surgery.') and frames[-1].f_code.co_name not in _CALLING
