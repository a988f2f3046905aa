"""What mmws adds to MMEngine, as soon as a program imports it."""

from __future__ import annotations

import warnings
from importlib.metadata import PackageNotFoundError, distribution
from types import ModuleType

from .loading import allow_checkpoint_classes
from .logs import log_to_mmengine
from .on_import import when_imported
from .stack import is_installed


def extend_mmengine() -> None:
    """Extend MMEngine once it is imported; calling this again changes nothing.

    Its configs may then inherit from ``mmws::``, PyTorch reads the classes in its checkpoints, and
    messages of mmws go into its log. MMEngine itself is not imported. Its upstream distribution
    imports pkg_resources, whose warning, several times in every process, is not shown.
    """
    warnings.filterwarnings('ignore', 'pkg_resources is deprecated as an API')
    when_imported('mmengine.config.utils', _add_config_package)
    when_imported('mmengine.logging.history_buffer', _allow_checkpoint_classes)
    when_imported('mmengine.logging.logger', log_to_mmengine)


def register_config_package() -> None:
    """Let configs inherit from ``mmws::folder/name.py``, as from ``mmdet::folder/name.py``."""
    from mmengine.config import utils

    _add_config_package(utils)


def _add_config_package(module: ModuleType) -> None:
    # MMEngine knows the packages of its own family by the names of their distributions. For an
    # editable installation MMEngine 0.10.7 takes the folder of the distribution's metadata, where
    # the package is not. It finds the folder of a module in every installation.
    module.MODULE2PACKAGE['mmws'] = 'mmws.registry'
    # The name of MMSegmentation's distribution is another one in the onedl stack, which MMEngine
    # then asks to be installed.
    if is_installed('mmseg') and not _is_distributed('mmsegmentation'):
        module.MODULE2PACKAGE['mmseg'] = 'mmseg'


def _is_distributed(name: str) -> bool:
    try:
        distribution(name)
    except PackageNotFoundError:
        return False
    return True


def _allow_checkpoint_classes(module: ModuleType) -> None:
    allow_checkpoint_classes()
