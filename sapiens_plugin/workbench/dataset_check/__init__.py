"""Does a keypoint file in COCO form hold what training and evaluation need?"""

from .check import check_dataset
from .report import Report, Totals, print_report
from .samples import draw_samples

__all__ = ['Report', 'Totals', 'check_dataset', 'draw_samples', 'print_report']
