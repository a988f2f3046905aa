from pathlib import Path
from typing import Union

from mmengine.config import Config


def read_config(path: Union[str, Path], name: str = 'config') -> Config:
    """Read a config file of MMEngine, from a path or out of an installed package.

    Args:
        path: A file, or ``mmdet::folder/name.py``.
        name: What to call it in an error.

    Raises:
        FileNotFoundError: if there is no such file.
        ValueError: if it cannot be read, in one line.
    """
    packaged = '::' in str(path)
    if not packaged and not Path(path).is_file():
        raise FileNotFoundError(f'{name} {path} does not exist')
    try:
        # `fromfile` takes no package path, `_base_` does.
        return (
            Config.fromstring(f'_base_ = {str(path)!r}', '.py')
            if packaged
            else (Config.fromfile(path))
        )
    except Exception as error:
        # A config is a program: whatever it raises, the user needs its name.
        reason = ' '.join(str(error).split())
        message = f'{name} {path} cannot be read: {type(error).__name__}: {reason}'
        raise ValueError(message) from error
