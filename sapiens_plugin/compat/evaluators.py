"""Evaluators: several data sets of one type, judged each by itself."""

from collections.abc import Callable, Mapping, Sequence
from functools import cache, wraps

from mmengine.evaluator import Evaluator
from mmpose.datasets.datasets.base import BaseCocoStyleDataset
from mmpose.evaluation.evaluators import MultiDatasetEvaluator
from mmpose.registry import DATASETS

from sapiens_plugin.errors import InputError


@cache
def tell_data_sets_apart() -> None:
    """Let each data set of a combination have a name, and so a metric, of its own.

    Symptom:
        Of two data sets of type ``CocoDataset``, ``MultiDatasetEvaluator`` gives all
        persons to the second one's metric, and the first one fails. Own keypoints are
        compared with COCO's.

    Cause:
        It takes the metainfo of the type, whatever the config of the data set says, and
        tells data sets apart by the name in that. A name beside ``from_file`` is not
        read.

    Cure:
        It takes the metainfo of each data set. In that, ``dataset_name`` beside
        ``from_file`` takes the place of the name in the file.
    """
    load = BaseCocoStyleDataset._load_metainfo.__func__
    BaseCocoStyleDataset._load_metainfo = classmethod(_naming(load))
    MultiDatasetEvaluator.__init__ = _init_by_data_set


def _naming(load_metainfo: Callable) -> Callable:
    @wraps(load_metainfo)
    def load(cls: type, metainfo: Mapping | None = None) -> dict:
        loaded = load_metainfo(cls, metainfo)
        if metainfo and 'from_file' in metainfo:
            loaded['dataset_name'] = metainfo.get(
                'dataset_name', loaded['dataset_name']
            )
        return loaded

    return load


def _init_by_data_set(
    self: MultiDatasetEvaluator, metrics: Sequence, datasets: Sequence[Mapping]
) -> None:
    """Take the place of ``MultiDatasetEvaluator.__init__``.

    Raises:
        InputError: There are not as many metrics as data sets, or two data sets have
            one name.
    """
    Evaluator.__init__(self, metrics)
    if len(self.metrics) != len(datasets):
        raise InputError(
            f'MultiDatasetEvaluator has {len(self.metrics)} metrics for '
            f'{len(datasets)} datasets. It needs as many of both, in the same order.'
        )
    self.metrics_dict = {}
    for dataset, metric in zip(datasets, self.metrics, strict=True):
        metric.dataset_meta = DATASETS.get(dataset['type'])._load_metainfo(
            dataset.get('metainfo')
        )
        name = metric.dataset_meta['dataset_name']
        if name in self.metrics_dict:
            raise InputError(
                f'Two data sets of MultiDatasetEvaluator are called {name!r}, which is '
                'how it tells them apart. Give one of them another name: '
                "metainfo=dict(from_file='configs/_base_/datasets/coco.py', "
                "dataset_name='mine')."
            )
        self.metrics_dict[name] = metric
