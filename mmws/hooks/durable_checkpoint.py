"""Checkpoints that are on the disk whole, or not at all."""

from __future__ import annotations

import errno
from collections.abc import Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import Any, ClassVar
from weakref import WeakValueDictionary

from mmengine.dist import is_main_process
from mmengine.fileio import LocalBackend, register_backend
from mmengine.hooks import CheckpointHook
from mmengine.runner import Runner

from mmws.checkpoints import check_finite, find_intact
from mmws.checkpoints.intact import LAST_CHECKPOINT
from mmws.compat.mmengine_private import (
    config_text_unformatted,
    is_resuming,
    loads_from,
    resume_from,
)
from mmws.config.structure import ConfigError
from mmws.files import remove_drafts, sync_folder, write_durably
from mmws.registry import HOOKS

# What an epoch-based training saves between two epochs; the next checkpoint replaces it.
INTERRUPTED = 'interrupted.pth'


class CheckpointWriter:
    """Writes files one after the other in a thread, and removes old ones once new ones are whole.

    The training waits for one file at most: that of the checkpoint before.

    Args:
        pointer: The file that holds the path of the newest checkpoint.
    """

    def __init__(self, pointer: Path) -> None:
        self._pointer = pointer
        self._thread = ThreadPoolExecutor(1, thread_name_prefix='mmws_checkpoint_writer')
        self._task: Future[None] | None = None
        self._outdated: list[Path] = []

    def write(self, path: Path, content: bytes) -> None:
        """Begin to write a file; what :meth:`remove` was called for goes when it is whole.

        Raises:
            OSError: if the file before this one could not be written.
        """
        self.wait()
        outdated, self._outdated = self._outdated, []
        self._task = self._thread.submit(self._write, path, content, outdated)

    def remove(self, path: Path) -> None:
        """Remove a file once the next one is whole."""
        self._outdated.append(path)

    def wait(self) -> None:
        """Wait until the last file is whole.

        Raises:
            OSError: if the file could not be written.
        """
        task, self._task = self._task, None
        if task is not None:
            task.result()

    def check(self) -> None:
        """Raise what went wrong in the thread, if it has ended; do not wait for it."""
        if self._task is not None and self._task.done():
            self.wait()

    def _write(self, path: Path, content: bytes, outdated: list[Path]) -> None:
        try:
            write_durably(path, content)
            if not path.name.startswith('best_'):  # those hold weights alone
                write_durably(self._pointer, str(path).encode())
        except OSError as error:
            # The path tells which of a run's disks is full.
            reason = 'no space left' if error.errno == errno.ENOSPC else error.strerror or error
            raise OSError(
                error.errno,
                f'{path} cannot be written: {reason} on its device; the checkpoints before it are '
                'kept, go on with `resume` once that is mended',
            ) from error
        for old in outdated:
            if old != path:
                old.unlink(missing_ok=True)
        sync_folder(path.parent)


class _WriterBackend(LocalBackend):
    """MMEngine's local files, written and removed by a :class:`CheckpointWriter`.

    Args:
        writer: Key of the writer in ``writers``; MMEngine passes on what fits into JSON alone.
    """

    writers: ClassVar[WeakValueDictionary[int, CheckpointWriter]] = WeakValueDictionary()

    def __init__(self, writer: int) -> None:
        super().__init__()
        self._writer = writer

    def put(self, obj: Any, filepath: str | Path) -> None:
        self.writers[self._writer].write(Path(filepath), bytes(obj))

    def remove(self, filepath: str | Path) -> None:
        self.writers[self._writer].remove(Path(filepath))


register_backend('mmws_checkpoint_writer', _WriterBackend, force=True)


@HOOKS.register_module()
class DurableCheckpointHook(CheckpointHook):
    """MMEngine's ``CheckpointHook`` for a machine that may go down at any time.

    ``default_hooks = dict(checkpoint=dict(type='mmws.DurableCheckpointHook'))`` in a config, with
    the options of :class:`mmengine.hooks.CheckpointHook`; the training of mmws takes it where the
    config says ``CheckpointHook``. Each file is written beside its place, synced and renamed, by a
    thread, while the training goes on. Old checkpoints are removed, and ``last_checkpoint`` names
    the new one, only when that is whole. The checksums are those of the zip format, in which
    PyTorch writes; ``--resume`` compares them (:func:`mmws.checkpoints.find_intact`).
    A checkpoint with NaN or inf in it is not written.

    Where a training is to be resumed and no checkpoint is named, as by ``--resume`` of
    MMDetection's tools, the newest intact one is taken (:func:`mmws.checkpoints.find_intact`).

    Files on a remote backend (``backend_args``, or an ``out_dir`` with a scheme) are left to it.
    """

    backend_args: dict[str, Any] | None
    file_backend: Any
    _saved_at: int | None = None  # iterations done at the last save
    _writer: CheckpointWriter

    def before_run(self, runner: Runner) -> None:
        if is_resuming(runner) and loads_from(runner) is None:
            # MMEngine would take the file that `last_checkpoint` names, whole or not.
            found = find_intact(runner.work_dir)
            for reason in found.skipped:
                runner.logger.warning(f'not resumed from: {reason}')
            if found.path:
                resume_from(runner, str(found.path))

    def before_train(self, runner: Runner) -> None:
        if hasattr(self, '_writer'):  # of an earlier training by the same runner
            return
        super().before_train(runner)
        self._writer = CheckpointWriter(Path(runner.work_dir, LAST_CHECKPOINT))
        self._is_local = (
            self.backend_args is None
            and self.file_client_args is None
            and isinstance(self.file_backend, LocalBackend)
        )
        if self._is_local:
            key = id(self._writer)
            _WriterBackend.writers[key] = self._writer
            self.file_backend = _WriterBackend(key)
            self.backend_args = {'backend': 'mmws_checkpoint_writer', 'writer': key}
            if is_main_process():
                remove_drafts(Path(self.out_dir))

    def after_train_iter(
        self,
        runner: Runner,
        batch_idx: int,
        data_batch: dict | None = None,
        outputs: dict | None = None,
    ) -> None:
        self._writer.check()
        super().after_train_iter(runner, batch_idx, data_batch, outputs)

    def after_train(self, runner: Runner) -> None:
        self._writer.wait()
        super().after_train(runner)
        self._writer.wait()

    def before_save_checkpoint(self, runner: Runner, checkpoint: dict) -> None:
        check_finite(checkpoint, f'the checkpoint of iteration {checkpoint["meta"]["iter"]}')

    def save_now(self, runner: Runner, done: int, again: bool = False) -> None:
        """Save the state of the training, unless that is done, and wait for the file.

        To be called by all ranks between two iterations, or at the end of ``after_train_iter``.

        Args:
            runner: Of the training.
            done: Number of iterations that are complete.
            again: Whether to save a state that is saved already, to which a hook adds something.
        """
        if again or self._saved_at != done:
            meta = dict(epoch=runner.epoch, iter=done)
            if self.by_epoch:
                self._save_file(runner, INTERRUPTED, meta)
            else:
                self._save_checkpoint_with_step(runner, done, meta)
        self._writer.wait()

    def _save_best_checkpoint(self, runner: Runner, metrics: Mapping[str, Any]) -> None:
        wanted = self.key_indicators if self.save_best and metrics else ()
        missing = [key for key in wanted if key != 'auto' and key not in metrics]
        if missing:
            self.save_now(runner, runner.iter)
            raise ConfigError(
                f'default_hooks.checkpoint.save_best names {missing[0]!r}, which the validation '
                f'does not give: choose one of {", ".join(metrics)}, and go on with `resume`'
            )
        super()._save_best_checkpoint(runner, metrics)

    def _save_checkpoint_with_step(self, runner: Runner, step: int, meta: dict) -> None:
        if self.max_keep_ckpts > 0 and (not self.keep_ckpt_ids or self.keep_ckpt_ids[-1] != step):
            if len(self.keep_ckpt_ids) == self.max_keep_ckpts:
                name = self.filename_tmpl.format(self.keep_ckpt_ids.popleft())
                self._remove(name)
            self.keep_ckpt_ids.append(step)
            runner.message_hub.update_info('keep_ckpt_ids', list(self.keep_ckpt_ids))
        if self.by_epoch:
            self._remove(INTERRUPTED)
        self._save_file(runner, self.filename_tmpl.format(step), meta)

    def _remove(self, name: str) -> None:
        path = self.file_backend.join_path(self.out_dir, name)
        # A local file may be still on the way to its place: the writer removes it when it is there.
        if is_main_process() and (self._is_local or self.file_backend.isfile(path)):
            self.file_backend.remove(path)

    def _save_file(self, runner: Runner, name: str, meta: Mapping[str, Any]) -> None:
        self.last_ckpt = self.file_backend.join_path(self.out_dir, name)
        runner.message_hub.update_info('last_ckpt', self.last_ckpt)
        runner.call_hook('before_save_on_all_ranks')
        # The training waits while the text of the config is made for `meta`.
        with config_text_unformatted(runner.cfg):
            runner.save_checkpoint(
                self.out_dir,
                name,
                self.file_client_args,
                save_optimizer=self.save_optimizer,
                save_param_scheduler=self.save_param_scheduler,
                meta=dict(meta),
                by_epoch=self.by_epoch,
                backend_args=self.backend_args,
                **self.args,
            )
        self._saved_at = meta['iter']
        if is_main_process() and not self._is_local:
            pointer = Path(runner.work_dir, LAST_CHECKPOINT)
            write_durably(pointer, str(self.last_ckpt).encode())
