"""Over every config of MMDetection: does its model convert, train, fold to the same outputs?"""

from .report import write_report
from .run import check_zoo

__all__ = ['check_zoo', 'write_report']
