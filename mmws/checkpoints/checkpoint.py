"""One form for all checkpoints: weights, metadata, and where they come from."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from mmws.compat import CheckpointError, read_checkpoint


@dataclass(frozen=True)
class Checkpoint:
    """The weights of a checkpoint, without the state of optimizer and schedule.

    Attributes:
        weights: State dict of the model. The prefix ``module.``, which wrappers for parallel
            training leave on every key, is removed.
        meta: ``meta`` of the checkpoint, such as the names of the classes; empty where it has none.
        source: Path, URL or name that the checkpoint was read from, for messages.
        config_text: Source text of the config of the training, which MMEngine writes beside the
            weights; None if the checkpoint has none. Reading the text as a config executes it.
        contents: All that the file holds, for MMEngine, which takes more from it than the weights.
    """

    weights: dict[str, Any]
    meta: Mapping[str, Any]
    source: str
    config_text: str | None = None
    contents: Mapping[str, Any] = field(default_factory=dict, repr=False)

    @classmethod
    def of(cls, contents: Mapping[str, Any], source: str) -> Checkpoint:
        """Return the checkpoint in what a file holds: a state dict, or a dict that contains one.

        Args:
            contents: A state dict, or a dict with ``state_dict`` and by option ``meta``.
            source: What to call it in messages.

        Raises:
            CheckpointError: if ``contents`` holds no state dict.
        """
        weights = contents.get('state_dict', contents)
        if not isinstance(weights, Mapping) or not all(isinstance(key, str) for key in weights):
            raise CheckpointError(
                f'checkpoint {source} holds no weights: its state_dict must be a dict of '
                f'tensors by name, but is a {type(weights).__name__}'
            )
        meta = contents.get('meta')
        meta = meta if isinstance(meta, Mapping) else {}
        return cls(
            weights={key.removeprefix('module.'): value for key, value in weights.items()},
            meta=meta,
            source=source,
            config_text=_config_text(contents, meta),
            contents=contents,
        )

    @classmethod
    def read(cls, path: str | Path) -> Checkpoint:
        """Read a checkpoint file with PyTorch's check on (:func:`mmws.compat.read_checkpoint`).

        Raises:
            FileNotFoundError: if there is no such file.
            CheckpointError: if the file is no checkpoint, incomplete, or holds classes that are not
                allowed.
        """
        return cls.of(read_checkpoint(path), str(path))


def _config_text(contents: Mapping[str, Any], meta: Mapping[str, Any]) -> str | None:
    text: Any = contents
    for key in ('message_hub', 'runtime_info', 'cfg'):
        text = text.get(key) if isinstance(text, Mapping) else None
    text = text or meta.get('cfg')
    return text if isinstance(text, str) else None


def last_checkpoint(work_dir: str | Path) -> str | None:
    """Return the path in ``work_dir/last_checkpoint``; ``None`` if there is no such file.

    MMEngine writes the path during the training. If the folder has been moved since, the file of
    that name in ``work_dir`` is returned.
    """
    pointer = Path(work_dir, 'last_checkpoint')  # the text file that MMEngine writes
    if not pointer.is_file():
        return None
    latest = pointer.read_text(errors='replace').strip()
    if not latest:
        return None
    beside = Path(work_dir, Path(latest).name)
    return str(beside) if beside.is_file() else latest
