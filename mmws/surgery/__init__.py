from typing import TYPE_CHECKING, Any

from mmws.compat import require_stack

from .conversion import convert
from .conversion_check import ConversionCheck, check_conversion
from .conversion_report import ConversionReport
from .folding import fold

if TYPE_CHECKING:
    from .converted import Converted

__all__ = [
    'ConversionCheck',
    'ConversionReport',
    'Converted',
    'check_conversion',
    'convert',
    'fold',
]


def __getattr__(name: str) -> Any:
    # Building from configs is MMEngine's; everything else here works without it.
    if name == 'Converted':
        require_stack('mmws.Converted')
        from .converted import Converted

        return Converted
    raise AttributeError(f'module {__name__!r} has no attribute {name!r}')
