"""Config files of MMEngine, from a path or out of an installed package."""

import difflib
import os
from importlib.util import find_spec
from pathlib import Path

from mmengine.config import Config

from .typos import warn_about_typos


def read_config(path: str | Path, name: str = 'config') -> Config:
    """Read a config file of MMEngine, from a path or out of an installed package.

    Args:
        path: A file, or ``mmdet::folder/name.py``, or ``mmws::folder/name.py``.
        name: What errors call the file.

    Raises:
        FileNotFoundError: if there is no such file.
        ValueError: if it cannot be read; the message has one line.
    """
    file, folder = Path(path), Path()
    package, separator, inner = str(path).partition('::')
    if separator:
        # `Config.fromfile` reads paths only; it takes `package::` in `_base_` alone.
        spec = find_spec(package) if package.isidentifier() else None
        if spec is None or spec.origin is None:
            raise FileNotFoundError(f'{name} {path}: there is no package {package!r}')
        folder = Path(spec.origin).parent / '.mim' / 'configs'
        file = folder / inner
    if not file.is_file():
        closest = _closest(file)
        if closest is None:
            raise FileNotFoundError(f'{name} {path} does not exist')
        meant = f'{package}::{closest.relative_to(folder).as_posix()}' if separator else closest
        raise FileNotFoundError(f'{name} {path} does not exist: did you mean {meant}?')
    try:
        return Config.fromfile(file)
    except Exception as error:
        # A config is a program and raises any kind of error; the message must name the file.
        reason = ' '.join(str(error).split())
        message = f'{name} {path} cannot be read: {type(error).__name__}: {reason}'
        raise ValueError(message) from error


def load_config(config: str | Path, cfg_options: dict | None = None) -> Config:
    """Read a config file and apply overrides to it.

    Args:
        config: Path of the file, ``mmws::folder/name.py`` or ``mmdet::folder/name.py``.
        cfg_options: Values by dotted key, such as ``{'train_dataloader.batch_size': 1}``. A key
            that looks like a typo of an existing one is named in a warning.

    Raises:
        FileNotFoundError: if the file is missing.
        ValueError: if it cannot be read as a config.
    """
    cfg = read_config(config)
    if cfg_options:
        if int(os.environ.get('LOCAL_RANK', 0)) == 0:  # Only one process of a machine warns.
            warn_about_typos(cfg, cfg_options)
        try:
            cfg.merge_from_dict(cfg_options)
        except (AttributeError, KeyError, IndexError, TypeError, AssertionError) as error:
            reason = ' '.join(str(error).split())[:200] or type(error).__name__
            names = ', '.join(map(str, cfg_options))
            message = f'`cfg_options` {names} do not fit config {config}: {reason}'
            raise ValueError(message) from error
    return cfg


def _closest(file: Path) -> Path | None:
    """Return a config with a similar name in the folder of the missing file or in one below it."""
    beside = {
        other.name: other for other in (*file.parent.glob('*/*.py'), *file.parent.glob('*.py'))
    }
    # A name with a part too many, such as a schedule, means the config without it: difflib would
    # rather find a name with another part in that place.
    shorter = [name for name in beside if file.name.startswith(f'{name.removesuffix(".py")}_')]
    if shorter:
        return beside[max(shorter, key=len)]
    closest = difflib.get_close_matches(file.name, beside, n=1, cutoff=0.9)
    return beside[closest[0]] if closest else None
