"""The annotation files that come with a config, in ``<out without .py>_data``."""

from __future__ import annotations

import json
import os
from collections.abc import Iterable
from dataclasses import replace
from pathlib import Path
from typing import Any

from mmws.files import replacing

from ..coco_check import CocoReport
from ..marks import is_marked, marked


class Written:
    """Writes annotation files that never replace the user's, nor an old config's before its end.

    While a config of the same name is there, each file is written as ``<split>_draft.json``, and
    :meth:`finish` moves it to ``<split>.json`` once the new config is written. Data that are
    refused thus leave the old config with the files that it names.

    Args:
        folder: Folder of the files.
        config: The config that will be written.
    """

    def __init__(self, folder: Path, config: Path | None = None) -> None:
        self.folder = folder
        self._drafts = config is not None and config.exists()
        self._final: dict[str, str] = {}  # path during the checks -> path in the config
        self._read: set[str] = set()

    def reads(self, paths: Iterable[str | Path]) -> None:
        """Remember files that the data are read from, which no file may replace."""
        self._read |= {os.path.realpath(path) for path in paths if str(path) not in self._final}

    def write(self, split: str, data: dict[str, Any]) -> str:
        """Write a COCO data set and return the path of the file until :meth:`finish`.

        Raises:
            FileExistsError: if a file that the data are read from, or of another origin, is in its
                place.
        """
        target = self.folder / f'{split}.json'
        path = self.folder / f'{split}_draft.json' if self._drafts else target
        for place in {target, path}:
            self._require_free(place)
        with replacing(path) as draft:
            draft.write_text(json.dumps(marked(data)), encoding='utf-8')
        self._final[str(path)] = str(target)
        return str(path)

    def final(self, path: str) -> str:
        """Return what a file is called in the config and after :meth:`finish`."""
        return self._final.get(path, path)

    def rename(self, report: CocoReport) -> None:
        """Give a report on a draft the path that the file gets."""
        path, final = report.path, self.final(report.path)
        report.path = final
        report.problems = [
            replace(problem, text=problem.text.replace(path, final)) for problem in report.problems
        ]

    def finish(self) -> None:
        """Move the drafts to their places."""
        for path, final in self._final.items():
            if path != final:
                os.replace(path, final)

    def _require_free(self, path: Path) -> None:
        if str(path) in self._final or not os.path.lexists(path):
            return
        if os.path.realpath(path) in self._read:
            raise FileExistsError(
                f'{path} is a file of the data set itself, which a new one would replace: give '
                'another `out`, whose name the folder of the new files follows'
            )
        if not is_marked(path):
            raise FileExistsError(
                f'{path} exists and was not written by mmws: move it away, or give another `out`'
            )
