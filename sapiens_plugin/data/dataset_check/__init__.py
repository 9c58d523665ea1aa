"""Does a keypoint file in COCO form hold what training and evaluation need?"""

from sapiens_plugin.data.dataset_check.check import check_dataset
from sapiens_plugin.data.dataset_check.report import Report, Totals, print_report
from sapiens_plugin.data.dataset_check.samples import draw_samples

__all__ = ['Report', 'Totals', 'check_dataset', 'draw_samples', 'print_report']
