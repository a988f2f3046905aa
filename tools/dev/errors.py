"""Writes errors in the form that the files of results hold."""

import sys


def one_line(error: BaseException) -> str:
    """Return kind and message of an error in one line, without the folders of packages.

    The folders differ between machines and are no part of the cause.
    """
    message = ' '.join(str(error).split())
    for folder in sorted(filter(None, sys.path), key=len, reverse=True):
        message = message.replace(f'{folder}/', '')
    return f'{type(error).__name__}: {message}'[:300]
