"""What differs between operating systems: the end of a parent process, and the memory used."""

import ctypes
import os
import signal
import sys

_PR_SET_PDEATHSIG = 1


def end_with_parent(parent: int, number: int = signal.SIGKILL) -> None:
    """Have this process get a signal when the thread that started it ends, however it ends.

    A data worker that is blocked in writing to its parent's pipe, and a rank whose launcher was
    killed, would otherwise stay for ever. Linux alone can do this: elsewhere nothing is done.

    Args:
        parent: Process id of the parent; if it has ended already, the signal is sent at once.
        number: The signal.
    """
    if not sys.platform.startswith('linux'):
        return
    ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, int(number), 0, 0, 0)
    if os.getppid() != parent:
        os.kill(os.getpid(), number)


def peak_mib() -> float:
    """Return the most memory that this process has used, in MiB."""
    import resource  # which Windows does not have

    used = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return used / (2**20 if sys.platform == 'darwin' else 2**10)  # in bytes on macOS, else in KiB
