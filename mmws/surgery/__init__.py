from .conversion import convert
from .conversion_report import ConversionReport
from .converted import Converted
from .folding import fold

__all__ = ['ConversionReport', 'Converted', 'convert', 'fold']
