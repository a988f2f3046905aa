"""Options that the command lines under ``tools/`` share, and errors in one line.

In messages the library writes its arguments in backticks, `` `out_dir` `` or `` `force=True` ``,
because the same message reaches those who call its functions. The tools print them as options
(:func:`as_options`).
"""

import argparse
import io
import os
import re
import sys
from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext, redirect_stdout
from typing import Any

from mmengine.config import Config, DictAction

from mmws.checkpoints import Checkpoint, CheckpointMismatchError, find_intact, read_intact
from mmws.compat import CheckpointError
from mmws.config import load_config
from mmws.data.errors import DataError
from mmws.hooks import RESUMABLE, DivergenceError

from .console import Console
from .distributed import LAUNCHER, STARTED, choose_threads, join_launcher, local_rank_zero
from .run import ConfigError, prepare, work_dir_of

RUN_ERRORS = (CheckpointMismatchError, CheckpointError, ConfigError, DivergenceError, OSError)
"""What a training or a test raises for causes that lie outside of the code."""

_ARGUMENT = re.compile(r'`([a-z][a-z0-9_]*)(?:=True)?`')


def as_options(message: str) -> str:
    """Return a message of the library with `` `out_dir` `` written as ``--out-dir``.

    Every option of the tools is named like the argument that it becomes. Backticks around anything
    else, such as a command to run, stay.
    """
    return _ARGUMENT.sub(lambda argument: '--' + argument[1].replace('_', '-'), message)


@contextmanager
def one_line_errors(
    *kinds: 'type[Exception]',
) -> Iterator[None]:
    """Turn a user's mistake into one line on stderr, with options for arguments, and exit status 1.

    A :class:`mmws.data.errors.DataError` gets one line for each problem in the data.

    Args:
        *kinds: Classes of errors that are mistakes; any other error is a bug and keeps its
            traceback. By default ``ValueError``, ``OSError`` and ``ImportError``, which the library
            raises for what a user can correct before the work begins.
    """
    mistakes = kinds or (ValueError, OSError, ImportError)
    lines = None
    try:
        yield
    except mistakes as error:
        lines = error.lines if isinstance(error, DataError) else [_message(error)]
        if getattr(error, 'on_all_ranks', False) and not local_rank_zero():
            lines = []  # the first rank of this machine tells it
    # Exit outside of `except`: the traceback of the error keeps the runner and its threads alive.
    if lines is not None:
        sys.exit('\n'.join(f'error: {as_options(" ".join(line.split()))}' for line in lines) or 1)


def _message(error: Exception) -> str:
    # A data worker sends the text of its traceback; the error is in the last line.
    before, found, traceback = str(error).partition('Original Traceback (most recent call last)')
    return traceback.strip().splitlines()[-1] if found else before


def parse_train_args(argv: Sequence[str] | None = None) -> argparse.Namespace:
    """Parse the command line of ``tools/train.py``."""
    parser = argparse.ArgumentParser(description='Train a detector')
    parser.add_argument('config', help='config file, mmws::folder/name.py or mmdet::...')
    parser.add_argument('--work-dir', help='where logs and checkpoints go')
    parser.add_argument('--amp', action='store_true', help='automatic mixed precision')
    parser.add_argument(
        '--auto-scale-lr',
        action='store_true',
        help='scale the learning rate to the total batch size (the configs of mmws do it anyway)',
    )
    parser.add_argument(
        '--resume',
        nargs='?',
        const='auto',
        metavar='CHECKPOINT',
        help='continue from the newest intact checkpoint in the work dir, or from the one given',
    )
    parser.add_argument(
        '--stop-after',
        metavar='H:MM:SS',
        help=f'save and exit, with status {RESUMABLE}, so long after the start',
    )
    parser.add_argument(
        '--max-skipped',
        type=int,
        default=0,
        metavar='N',
        help='skip up to N updates in a row whose gradients are NaN or infinite (default: stop)',
    )
    parser.add_argument(
        '--val-loss',
        action='store_true',
        help='compute the loss on the validation split too, with every evaluation',
    )
    parser.add_argument(
        '--max-restarts',
        type=int,
        default=0,
        metavar='N',
        help='with tools/dist_train.sh: when a process dies, go on from the last checkpoint, '
        'up to N times',
    )
    _add_common_options(parser)
    return _parse(parser, argv)


def parse_test_args(argv: Sequence[str] | None = None) -> argparse.Namespace:
    """Parse the command line of ``tools/test.py``."""
    parser = argparse.ArgumentParser(description='Evaluate a detector')
    parser.add_argument('config', help='config file, mmws::folder/name.py or mmdet::...')
    parser.add_argument('checkpoint', help='checkpoint file')
    parser.add_argument('--work-dir', help='where the metrics go')
    parser.add_argument('--out', help='write the predictions to this .pkl file')
    parser.add_argument(
        '--tta', action='store_true', help='see every image mirrored too, and merge the boxes'
    )
    parser.add_argument('--show', action='store_true', help='show the predictions in a window')
    parser.add_argument('--show-dir', help='draw the predictions into this folder of the work dir')
    parser.add_argument('--wait-time', type=float, default=2, help='seconds a window stays')
    _add_common_options(parser)
    return _parse(parser, argv)


def _restarted() -> bool:
    return int(os.environ.get('TORCHELASTIC_RESTART_COUNT', 0)) > 0


def _resume_after_restart(args: argparse.Namespace) -> str | None:
    """Return what to resume where a process of a training died and all are started again.

    ``'auto'`` if a checkpoint was written since the launcher began; before that, what the command
    line says. The work dir may hold checkpoints of a training before this one, or none.
    """
    if args.resume == 'auto':
        return 'auto'
    work_dir = args.work_dir or work_dir_of(args.config, load_config(args.config, args.cfg_options))
    try:
        found = find_intact(work_dir)
    except CheckpointError:
        return args.resume or 'auto'  # which stops, and tells the reason
    if found.checkpoint is None:
        return args.resume
    written = str(found.checkpoint.contents['meta'].get('time', ''))
    return 'auto' if written >= os.environ.get(STARTED, '') else args.resume


def _said_once() -> AbstractContextManager[Any]:
    """Print nothing in processes whose launcher has made the same checks, and told the result."""
    launched = 'RANK' in os.environ and LAUNCHER in os.environ
    if launched and not (_restarted() and local_rank_zero()):
        return redirect_stdout(io.StringIO())
    return nullcontext()


def prepare_train(args: argparse.Namespace) -> Config:
    """Check a training run and make its config; see :func:`mmws.engine.prepare`."""
    if args.max_skipped < 0 or args.max_restarts < 0:
        raise ValueError('--max-skipped and --max-restarts must be at least 0')
    if args.max_restarts and 'RANK' not in os.environ and LAUNCHER not in os.environ:
        raise ValueError('--max-restarts needs tools/dist_train.sh, which starts the processes')
    join_launcher()
    choose_threads()
    if _restarted():
        args.resume = _resume_after_restart(args)
    with _said_once():
        return prepare(
            args.config,
            work_dir=args.work_dir,
            amp=args.amp,
            auto_scale_lr=args.auto_scale_lr,
            resume=args.resume,
            cfg_options=args.cfg_options,
            launcher=args.launcher,
            stop_after=args.stop_after,
            max_skipped=args.max_skipped,
            val_loss=args.val_loss,
        )


def prepare_test(args: argparse.Namespace) -> tuple[Config, Checkpoint | None]:
    """Check an evaluation and make its config; see :func:`mmws.engine.prepare`.

    Returns:
        The config, and the checkpoint; None if it has a URL, which MMEngine downloads.
    """
    join_launcher()
    if args.out is not None and not args.out.endswith(('.pkl', '.pickle')):
        raise ValueError(f'--out {args.out}: predictions are dumped as a pickle, name it *.pkl')
    if args.out is not None:
        os.makedirs(os.path.dirname(args.out) or '.', exist_ok=True)
    with _said_once():
        checkpoint = None if '://' in args.checkpoint else read_intact(args.checkpoint)
        cfg = prepare(
            args.config,
            checkpoint=checkpoint or args.checkpoint,
            work_dir=args.work_dir,
            cfg_options=args.cfg_options,
            launcher=args.launcher,
            tta=args.tta,
        )
    if args.show or args.show_dir:
        from mmdet.engine.hooks.utils import trigger_visualization_hook

        cfg = trigger_visualization_hook(cfg, args)
    return cfg, checkpoint


def console(args: argparse.Namespace) -> Console | None:
    """Return what the terminal shows of a run; ``None`` with ``--verbose``, for the whole log."""
    return None if args.verbose else Console(args.config, changed=bool(args.cfg_options))


class _Options(DictAction):
    def __call__(
        self,
        parser: argparse.ArgumentParser,
        namespace: argparse.Namespace,
        values: Any,
        option_string: str | None = None,
    ) -> None:
        for value in values:
            key, equals, _ = value.partition('=')
            if not equals or not all(key.split('.')):
                parser.error(f'{option_string} takes KEY=VALUE, got {value!r}')
            try:
                super().__call__(parser, argparse.Namespace(), [value], option_string)
            # MMEngine asserts that brackets are balanced, and calls itself for each pair of them.
            except (AssertionError, ValueError, RecursionError) as error:
                reason = str(error) or type(error).__name__
                parser.error(f'{option_string} {value[:80]!r} cannot be read: {reason[:200]}')
        super().__call__(parser, namespace, values, option_string)


def add_cfg_options(parser: argparse.ArgumentParser) -> None:
    """Add MMDetection's ``--cfg-options`` to a parser."""
    parser.add_argument(
        '--cfg-options',
        nargs='+',
        action=_Options,
        metavar='KEY=VALUE',
        help='override settings of the config, e.g. train_dataloader.batch_size=1 key="[a,b]"',
    )


def _add_common_options(parser: argparse.ArgumentParser) -> None:
    add_cfg_options(parser)
    parser.add_argument(
        '--verbose', action='store_true', help="show MMEngine's whole log, not only its file"
    )
    parser.add_argument(
        '--launcher',
        choices=['none', 'pytorch', 'slurm', 'mpi'],
        default='none',
        help='job launcher; tools/dist_train.sh sets it',
    )
    # Launchers older than torchrun pass it instead of setting the variable.
    parser.add_argument('--local_rank', '--local-rank', type=int, default=0, help=argparse.SUPPRESS)


def _parse(parser: argparse.ArgumentParser, argv: Sequence[str] | None) -> argparse.Namespace:
    args = parser.parse_args(argv)
    os.environ.setdefault('LOCAL_RANK', str(args.local_rank))
    return args
