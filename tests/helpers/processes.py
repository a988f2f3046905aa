"""Commands in processes of their own, and the command lines of `tools/` in this one."""

from __future__ import annotations

import os
import runpy
import subprocess
import sys
from pathlib import Path
from unittest import mock

from tests.helpers.paths import ROOT, TOOLS


def run(
    *command: object, code: int | None = 0, cwd: Path = ROOT, timeout: float = 300, **env: object
) -> str:
    """Run a command and return its output, stdout and stderr together.

    The command imports mmws from this checkout. The test fails unless the command succeeds for
    ``code=0``, and unless it fails for another ``code``; ``code=None`` allows both. ``env`` adds
    environment variables; None removes one.
    """
    environment = {**os.environ, 'PYTHONPATH': str(ROOT), 'PYTHON': sys.executable, **env}
    result = subprocess.run(
        [str(part) for part in command],
        cwd=cwd,
        env={name: str(value) for name, value in environment.items() if value is not None},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        timeout=timeout,
        check=False,
    )
    if code is not None:
        assert (result.returncode == 0) is (code == 0), result.stdout[-3000:]
    return result.stdout


def run_python(*arguments: object, **options: object) -> str:
    """Run the interpreter of this test with ``arguments``; see :func:`run`."""
    return run(sys.executable, *arguments, **options)


def run_code(code_: str, *arguments: object, **options: object) -> str:
    """Run the program text ``code_`` in a fresh interpreter; see :func:`run`."""
    return run_python('-c', code_, *arguments, **options)


def run_tool(name: str, *arguments: object, **options: object) -> str:
    """Run `python tools/name` in a process of its own; see :func:`run`."""
    return run_python(TOOLS / name, *arguments, **options)


def call_tool(name: str, *arguments: object) -> None:
    """Run `tools/name` in this process, as `python tools/name` would.

    Faster than a process of its own: PyTorch and MMDetection are imported already.

    Raises:
        SystemExit: The tool ends with an error, whose line is the exit code.
    """
    path = TOOLS / name
    with mock.patch.object(sys, 'argv', [str(path), *map(str, arguments)]):
        runpy.run_path(str(path), run_name='__main__')


def error_line(output: str) -> str:
    """Return the one line that begins with `error: `, in an output without a traceback."""
    lines = [line for line in output.splitlines() if line.startswith('error: ')]
    assert len(lines) == 1, output[-3000:]
    assert 'Traceback' not in output, output[-3000:]
    return lines[0]
