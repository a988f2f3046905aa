"""Convert, train and fold the model of every config of MMDetection, and compare the outputs."""

from .report import write_report
from .run import check_zoo

__all__ = ['check_zoo', 'write_report']
