"""What a person sees of a training or a test; everything else goes to the log file."""

from __future__ import annotations

import contextlib
import io
import logging
import os
import shlex
import shutil
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from logging.handlers import MemoryHandler
from pathlib import Path
from typing import Any

import torch
from mmengine.dist import get_world_size, is_main_process
from mmengine.hooks import Hook
from mmengine.runner import Runner

from mmws.compat.mmengine_private import is_resuming, loads_from
from mmws.compat.processes import peak_mib
from mmws.config.tree import other_library

from .batch_arithmetic import arithmetic
from .console_text import class_table, duration, one_line_scores, shown_path
from .quiet import STACK, logged_by

# Where lines stay, a line of progress comes with each such part of the training, after so many
# seconds, and once early, which shows that it runs.
_PART = 0.05
_SECONDS = 600
_FIRST_SECONDS = 10
_SECONDS_OF_LIVE_LINE = 0.5
_CLASSES = 10  # that the header names
_WINDOW = 20  # iterations over which the loss is averaged

_WARNINGS = logging.getLogger('py.warnings')
_EARLY_WARNINGS = 1000


class Console(Hook):
    """Shows a header, the progress, each evaluation in a line, and what to do at the end.

    The first process writes; :func:`mmws.engine.train` and :func:`mmws.engine.evaluate` take it.

    Args:
        config: The config as it was named, for the commands that are proposed at the end.
        changed: Whether options override it: the commands then name the copy in the work dir.
    """

    priority = 'LOWEST'  # after the checkpoint of an evaluation is chosen

    def __init__(self, config: str, changed: bool = False) -> None:
        self.config = config
        self.changed = changed
        self.hidden_warnings = 0
        self._started = time.monotonic()
        self._live_length = 0
        self._last_iteration = 0  # that a line of progress told
        self._last_line = self._last_live = 0.0  # when, in seconds
        self._best: Any = None
        self._classes: tuple[int, Sequence[Any]] = (0, ())

    # ---- where everything else goes

    @contextlib.contextmanager
    def starting(self, build: Callable[[], Runner]) -> Iterator[Runner]:
        """Yield a runner, whose log and whose prints until the end of this go to its log file."""
        logging.captureWarnings(True)
        early = MemoryHandler(_EARLY_WARNINGS, flushLevel=logging.CRITICAL)
        _WARNINGS.handlers, _WARNINGS.propagate = [early], False
        try:
            with contextlib.redirect_stdout(io.StringIO()) as printed:
                runner = build()
                self._take_terminal(runner)
                early.setTarget(_WARNINGS.handlers[0])
                early.flush()
                printed.seek(0)
                printed.truncate()  # the log, which is in its file too
                yield runner
        except BaseException:
            self.detach()
            raise
        if printed.getvalue():
            runner.logger.info(f'printed while the data were read:\n{printed.getvalue()}')

    def _take_terminal(self, runner: Runner) -> None:
        """Take the place of MMEngine's log on the terminal, and log Python's warnings."""
        runner.register_hook(self)
        files = []
        for handler in runner.logger.handlers[:]:
            if isinstance(handler, logging.FileHandler):
                files.append(handler)
            elif isinstance(handler, logging.StreamHandler):
                runner.logger.removeHandler(handler)
        runner.logger.addHandler(_ToConsole(self))
        _WARNINGS.handlers = [_WarningsLog(self, files)]

    def detach(self) -> None:
        """Give Python's warnings back to the terminal."""
        logging.captureWarnings(False)
        _WARNINGS.handlers = []

    # ---- the terminal

    def line(self, text: str = '') -> None:
        """Print a line."""
        self._clear()
        print(text, flush=True)

    def live(self, text: str) -> None:
        """Replace the last live line, if this is a terminal, which need not show every call."""
        now = time.monotonic()
        if not _is_terminal() or now - self._last_live < _SECONDS_OF_LIVE_LINE:
            return
        self._last_live = now
        self._clear()
        text = text[: shutil.get_terminal_size().columns - 1]
        print(text, end='', flush=True)
        self._live_length = len(text)

    def _clear(self) -> None:
        if self._live_length:
            print('\r' + ' ' * self._live_length + '\r', end='')
            self._live_length = 0

    # ---- a training

    def before_train(self, runner: Runner) -> None:
        if not is_main_process():
            return
        self._started = time.monotonic()
        self._best = _best(runner)[1]
        train = runner.train_dataloader
        val = None if runner.val_loop is None else runner.val_dataloader
        update, length = arithmetic(runner, runner.optim_wrapper, _base_batch_size(runner))
        interval = getattr(runner.train_loop, 'val_interval', None) if val else None
        unit = 'epoch' if _by_epoch(runner) else 'iteration'
        every = f'; an evaluation every {unit}' if interval else ''
        if interval and interval > 1:
            every = f'; an evaluation every {int(interval)} {unit}s'
        self._header(
            runner,
            data=f'{len(train.dataset)} images to train on'
            + (f', {len(val.dataset)} to evaluate on' if val is not None else ', no evaluation')
            + _classes_of(train.dataset),
            start=_start(runner),
            update=update,
            length=length + every,
        )
        self._last_iteration = runner.iter
        self._last_line = time.monotonic() - _SECONDS + _FIRST_SECONDS

    def after_train_iter(
        self,
        runner: Runner,
        batch_idx: int,
        data_batch: Any = None,
        outputs: Any = None,
    ) -> None:
        if not is_main_process():
            return
        done, total = runner.iter + 1, runner.max_iters
        text = self._progress(runner, done, total)
        if _is_terminal():
            self.live(text)
            return
        now = time.monotonic()
        if done - self._last_iteration >= _PART * total or now - self._last_line > _SECONDS:
            self._last_iteration, self._last_line = done, now
            self.line(text)

    def _progress(self, runner: Runner, done: int, total: int) -> str:
        hub = runner.message_hub
        parts = [f'{done:>{len(str(total))}}/{total}']
        if _by_epoch(runner):
            parts.insert(0, f'epoch {runner.epoch + 1}/{runner.max_epochs}')
        loss = hub.log_scalars.get('train/loss')
        if loss is not None:
            parts.append(f'loss {loss.mean(_WINDOW):.3f}')
        seconds = hub.log_scalars.get('train/time')
        if seconds is not None:
            parts.append(f'{seconds.mean(_WINDOW):.2f} s a step')
        if 'eta' in hub.runtime_info:
            parts.append(f'{duration(hub.get_info("eta"))} left')
        return '   '.join([*parts, f'memory {_memory_used():.1f} GiB'])

    def after_val_iter(
        self, runner: Runner, batch_idx: int, data_batch: Any = None, outputs: Any = None
    ) -> None:
        if is_main_process():
            self.live(f'evaluation {batch_idx + 1}/{len(runner.val_dataloader)}')

    def after_val_epoch(self, runner: Runner, metrics: dict[str, float] | None = None) -> None:
        # The hook that stops a training ends its validation without metrics.
        if not is_main_process() or not metrics:
            return
        done, total = runner.iter, runner.max_iters
        path, score = _best(runner)
        is_best = path is not None and score != self._best
        self._best = score
        scores = _class_scores(runner.val_loop)
        if is_best or not self._classes[1] or path is None:
            self._classes = (done, scores)
        best = '   the best so far' if is_best else ''
        self.line(f'{done:>{len(str(total))}}/{total}   {one_line_scores(metrics)}{best}')

    def after_train(self, runner: Runner) -> None:
        if not is_main_process():
            return
        self.line()
        done, scores = self._classes
        if scores:
            self.line(f'after {done} iterations')
            for row in class_table(scores):
                self.line(f'  {row}')
            self.line()
        path, score = _best(runner)
        last = runner.message_hub.runtime_info.get('last_ckpt')
        facts = {
            'best': path and f'{shown_path(path)}, {score:.3f}',
            'last': last and shown_path(last),
            'time': duration(time.monotonic() - self._started),
            'warnings': self.hidden_warnings and f'{self.hidden_warnings}, in the log',
        }
        self._facts(facts)
        checkpoint = path or last
        if checkpoint is not None:
            config = self.config
            if self.changed and runner.cfg.filename:
                config = shown_path(os.path.join(runner.work_dir, Path(runner.cfg.filename).name))
            detects = other_library(runner.cfg) is None
            self._next(config, shown_path(checkpoint), shown_path(runner.work_dir), detects)

    def _next(self, config: str, checkpoint: str, work_dir: str, detects: bool) -> None:
        config, checkpoint, work_dir = map(shlex.quote, (config, checkpoint, work_dir))
        tools = os.path.relpath(Path(sys.argv[0]).parent)
        self.line('\nnext')
        for command in (
            f'test.py {config} {checkpoint}',
            f'predict.py IMAGES --config {config} --checkpoint {checkpoint} --out-dir predictions',
            f'report.py {config} {work_dir} --checkpoint {checkpoint}',
            f'fold.py {config} {checkpoint} --out folded',
        ):
            if detects or not command.startswith('predict.py'):
                self.line(f'  python {os.path.join(tools, command)}')

    # ---- a test

    def before_test(self, runner: Runner) -> None:
        if not is_main_process():
            return
        self._started = time.monotonic()
        dataset = runner.test_dataloader.dataset
        self._header(
            runner,
            data=f'{len(dataset)} images{_classes_of(dataset)}',
            weights=str(runner.cfg.get('load_from')),
        )

    def after_test_iter(
        self, runner: Runner, batch_idx: int, data_batch: Any = None, outputs: Any = None
    ) -> None:
        if is_main_process():
            self.live(f'{batch_idx + 1}/{len(runner.test_dataloader)}')

    def after_test_epoch(self, runner: Runner, metrics: dict[str, float] | None = None) -> None:
        if not is_main_process() or not metrics:
            return
        self.line()
        for row in class_table(_class_scores(runner.test_loop)):
            self.line(f'  {row}')
        self.line(f'\n{one_line_scores(metrics)}   in {duration(time.monotonic() - self._started)}')

    # ---- both

    def _header(self, runner: Runner, **facts: Any) -> None:
        model = getattr(runner.model, 'module', runner.model)
        backbone = (runner.cfg.model.get('backbone') or {}) if 'model' in runner.cfg else {}
        names = [type(model).__name__]
        if backbone.get('type'):
            names.append(f'{backbone["type"]} {backbone.get("depth", "")}'.rstrip())
        parameters = sum(p.numel() for p in model.parameters())
        facts = {
            'data': facts.pop('data'),
            'model': f'{" with ".join(names)}, {parameters / 1e6:.1f} million parameters',
            **facts,
            'device': _device(),
            'log': shown_path(runner.logger.log_file or runner.work_dir),
        }
        self._facts(facts)
        self.line()

    def _facts(self, facts: dict[str, Any]) -> None:
        for name, text in facts.items():
            if text:
                self.line(f'{name:<9}{text}')


class _ToConsole(logging.Handler):
    """Prints errors, and the warnings of mmws and of the user's own code, each once."""

    def __init__(self, console: Console) -> None:
        super().__init__(logging.WARNING if is_main_process() else logging.ERROR)
        self._console = console
        self._seen: set[str] = set()

    def emit(self, record: logging.LogRecord) -> None:
        text = record.getMessage()
        if text in self._seen:
            return
        self._seen.add(text)
        if record.levelno < logging.ERROR and logged_by() in STACK:
            self._console.hidden_warnings += 1
            return
        self._console.line(f'{record.levelname.lower()}: {text}')


class _WarningsLog(logging.Handler):
    """Counts Python's warnings, and writes them to log files."""

    def __init__(self, console: Console, files: Sequence[logging.Handler]) -> None:
        super().__init__()
        self._console = console
        self._files = files

    def emit(self, record: logging.LogRecord) -> None:
        self._console.hidden_warnings += 1
        for file in self._files:
            file.handle(record)


def _is_terminal() -> bool:
    return sys.stdout.isatty()


def _by_epoch(runner: Runner) -> bool:
    return 'Epoch' in type(runner.train_loop).__name__


def _base_batch_size(runner: Runner) -> int | None:
    settings = runner.auto_scale_lr or {}
    return settings.get('base_batch_size') if settings.get('enable') else None


def _best(runner: Runner) -> tuple[str | None, Any]:
    """Return the path and the score of the best checkpoint, ``None`` where none is chosen."""
    known = runner.message_hub.runtime_info
    key = next((key for key in known if key.startswith('best_ckpt')), None)
    return (known[key], known.get(key.replace('ckpt', 'score', 1))) if key else (None, None)


def _class_scores(loop: Any) -> Sequence[Any]:
    metrics = loop.evaluator.metrics
    return next((m.by_class for m in metrics if getattr(m, 'by_class', None)), ())


def _classes_of(dataset: Any) -> str:
    classes = (getattr(dataset, 'metainfo', None) or {}).get('classes') or ()
    shown = ', '.join(classes[:_CLASSES]) + (', ...' if len(classes) > _CLASSES else '')
    return f'; {len(classes)} class{"es" * (len(classes) != 1)}: {shown}' if classes else ''


def _start(runner: Runner) -> str:
    source = loads_from(runner)
    if is_resuming(runner) and source is not None:
        return f'resumed epoch: {runner.epoch}, iter: {runner.iter}, from {shown_path(source)}'
    if source is not None:
        return f'weights of {source}'
    init = (runner.cfg.model.get('backbone') or {}).get('init_cfg') or {}
    pretrained = init.get('checkpoint') if isinstance(init, dict) else None
    return f'backbone of {pretrained}' if pretrained else 'random weights'


def _device() -> str:
    processes = get_world_size()
    if torch.cuda.is_available():
        free, total = (size / 2**30 for size in torch.cuda.mem_get_info())
        name = torch.cuda.get_device_name()
        return f'{processes} x {name}, {free:.0f} of {total:.0f} GiB of its memory free'
    threads = torch.get_num_threads()
    total = os.sysconf('SC_PHYS_PAGES') * os.sysconf('SC_PAGE_SIZE') / 2**30
    return (
        f'CPU, {processes} process{"es" * (processes > 1)} of {threads} thread{"s" * (threads > 1)}'
        f' (OMP_NUM_THREADS), {total:.0f} GiB of memory'
    )


def _memory_used() -> float:
    """Return the largest memory so far of this process, in GiB: of the GPU, or of the machine."""
    if torch.cuda.is_available():
        return torch.cuda.max_memory_allocated() / 2**30
    return peak_mib() / 2**10
