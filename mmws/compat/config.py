import difflib
from importlib.util import find_spec
from pathlib import Path
from typing import Union

from mmengine.config import Config
from mmengine.config.utils import MODULE2PACKAGE


def register_config_package() -> None:
    """Let configs inherit from ``mmws::folder/name.py``, as from ``mmdet::folder/name.py``.

    MMEngine knows the packages of its own family, by the names of their distributions. Of an
    editable installation MMEngine 0.10.7 takes the folder of the distribution's metadata, where the
    package is not; a module's folder it finds in every installation.
    """
    MODULE2PACKAGE['mmws'] = 'mmws.registry'


def read_config(path: Union[str, Path], name: str = 'config') -> Config:
    """Read a config file of MMEngine, from a path or out of an installed package.

    Args:
        path: A file, or ``mmdet::folder/name.py``, or ``mmws::folder/name.py``.
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
        raise FileNotFoundError(f'{name} {path} does not exist{_suggestion(file)}')
    try:
        return Config.fromfile(file)
    except Exception as error:
        # A config is a program: whatever it raises, the user needs its name.
        reason = ' '.join(str(error).split())
        message = f'{name} {path} cannot be read: {type(error).__name__}: {reason}'
        raise ValueError(message) from error


def _suggestion(file: Path) -> str:
    """Name a config of nearly this name, beside the missing file or in a folder beside it."""
    beside = {
        other.name: other for other in (*file.parent.glob('*/*.py'), *file.parent.glob('*.py'))
    }
    closest = difflib.get_close_matches(file.name, beside, n=1, cutoff=0.9)
    return f': did you mean {beside[closest[0]]}?' if closest else ''
