from mmws.compat import require_stack

require_stack('mmws.evaluation')

from .coco_eval import evaluate_coco
from .coco_metric import CocoMetric
from .voc_ap import evaluate_voc
from .voc_metric import VOCMetric

__all__ = ['CocoMetric', 'VOCMetric', 'evaluate_coco', 'evaluate_voc']
