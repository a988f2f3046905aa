"""Pictures, tables and pages for people: of samples, predictions and trainings."""

from mmws.compat import require_stack

require_stack('mmws.visualization')
