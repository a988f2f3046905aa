"""Grids of trainings that test a claim over several seeds, and the report of what came out."""

from mmws.compat import require_stack

require_stack('mmws.study')

from .own_data import with_data
from .report import write_report
from .results import Result, read_results
from .run import run_study
from .spec import Cell, Spec, read_spec

__all__ = [
    'Cell',
    'Result',
    'Spec',
    'read_results',
    'read_spec',
    'run_study',
    'with_data',
    'write_report',
]
