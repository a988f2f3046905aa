"""Read the instances of SBD's ``inst/<name>.mat``."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np

from .objects import MISSING, NAME_ALL, BrokenFileError, Contents, objects_of_labels, require_size


class SbdReader:
    """Instances of ``inst/<name>.mat``: ``GTinst.Segmentation`` and ``GTinst.Categories``."""

    def __init__(self, root: Path, classes: tuple[str, ...]) -> None:
        try:
            from scipy.io import loadmat
        except ImportError:
            raise ImportError('reading SBD needs SciPy: run `pip install "mmws[voc]"`') from None
        self.loadmat = loadmat
        self.root = root
        self.classes = classes

    def __call__(
        self, name: str, size: tuple[int, int], note: Callable[[str, str], None]
    ) -> Contents:
        path = self.root / 'inst' / f'{name}.mat'
        if not path.exists():
            raise BrokenFileError(path, 'missing', MISSING)
        try:
            instances = self.loadmat(path, variable_names=['GTinst'])['GTinst'][0, 0]
            instance_map = np.asarray(instances['Segmentation'])
            categories = np.asarray(instances['Categories'], int).ravel()
        except Exception as error:  # a truncated file fails in many ways
            what = f'no GTinst can be read ({type(error).__name__})'
            raise BrokenFileError(path, what, 'get the file again') from None
        require_size(path, instance_map.shape[::-1], size)
        ids = [int(i) for i in np.unique(instance_map) if i]
        if ids and max(ids) > len(categories):
            what = f'no category of instance {max(ids)}'
            raise BrokenFileError(path, what, 'get the file again')
        labels = [int(categories[i - 1]) - 1 for i in ids]
        unknown = [label + 1 for label in labels if not 0 <= label < len(self.classes)]
        if unknown:
            raise BrokenFileError(
                path, f'unknown class {unknown[0]} of {len(self.classes)}', NAME_ALL
            )
        return Contents(objects_of_labels(instance_map, ids, labels), pixels=instance_map.size)
