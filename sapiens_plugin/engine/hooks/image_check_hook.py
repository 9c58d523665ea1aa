"""Notice missing images before the first step, not hours into an epoch."""

from mmengine.dataset import BaseDataset
from mmengine.hooks import Hook
from mmengine.runner import Runner
from torch.utils.data import Dataset

from sapiens_plugin.core.utils.amounts import some
from sapiens_plugin.core.utils.listing import missing
from sapiens_plugin.datasets.parts import image_paths, parts
from sapiens_plugin.errors import InputError
from sapiens_plugin.registry import HOOKS


@HOOKS.register_module()
class ImageCheckHook(Hook):
    """Check that the images which the annotations name are there.

    Directories are listed once, so COCO's 118 k images take seconds. That an image
    decodes shows only when it is read
    (:class:`~sapiens_plugin.datasets.transforms.load_image.LoadImage`).

    Args:
        max_share: The share of a data set's images that training may go on without,
            after a warning. A test goes on without none.
    """

    def __init__(self, *, max_share: float = 0.01):
        self.max_share = max_share

    def before_train(self, runner: Runner) -> None:
        """Check the training images, and those of validation where there is any.

        Raises:
            InputError: Too many images are missing; the message names the first ones.
        """
        self._check(runner, runner.train_dataloader.dataset, self.max_share)
        if runner.val_loop is not None:
            self._check(runner, runner.val_dataloader.dataset, self.max_share)

    def before_test(self, runner: Runner) -> None:
        """Check the test images.

        Raises:
            InputError: Images are missing; the message names the first ones.
        """
        self._check(runner, runner.test_dataloader.dataset, 0)

    def _check(self, runner: Runner, dataset: Dataset, max_share: float) -> None:
        for part in parts(dataset):
            paths = image_paths(part)
            absent = list(missing('', paths))
            if not absent:
                continue
            said = _say(part, absent, len(paths))
            if len(absent) > max_share * len(paths):
                raise InputError(
                    f'{said} {_limit(max_share)}Fetch them (COCO: `python3 '
                    'tools/download_coco.py --verify` lists what is missing, and '
                    'without --verify brings it), or take their entries out of the '
                    'annotation file.'
                )
            runner.logger.warning(f'{said} Training goes on without them.')


def _limit(max_share: float) -> str:
    if not max_share:
        return ''
    return (
        f'Training goes on without {max_share:.1%} at most '
        '(default_hooks.images.max_share). '
    )


def _say(dataset: BaseDataset, absent: list[str], count: int) -> str:
    return (
        f'{len(absent)} of {count} images that {dataset.ann_file} names are missing: '
        f'{some(absent)}.'
    )
