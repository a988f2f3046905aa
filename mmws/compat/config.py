from importlib.util import find_spec
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
    file = Path(path)
    package, separator, inner = str(path).partition('::')
    if separator:
        # `Config.fromfile` takes no package path.
        spec = find_spec(package) if package.isidentifier() else None
        if spec is None or spec.origin is None:
            raise FileNotFoundError(f'{name} {path}: there is no package {package!r}')
        file = Path(spec.origin).parent / '.mim' / 'configs' / inner
    if not file.is_file():
        raise FileNotFoundError(f'{name} {path} does not exist')
    try:
        return Config.fromfile(file)
    except Exception as error:
        # A config is a program: whatever it raises, the user needs its name.
        reason = ' '.join(str(error).split())
        message = f'{name} {path} cannot be read: {type(error).__name__}: {reason}'
        raise ValueError(message) from error
