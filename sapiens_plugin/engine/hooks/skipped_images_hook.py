"""Images that a run goes on without: each is told once, and too many stop it."""

import os
from pathlib import Path

from mmengine.dist import all_gather_object
from mmengine.hooks import Hook
from mmengine.runner import Runner

from sapiens_plugin.datasets.blank_images import BlankUnreadable
from sapiens_plugin.datasets.parts import image_paths, levels, parts
from sapiens_plugin.engine.utils.dist import highest_of_all
from sapiens_plugin.errors import InputError
from sapiens_plugin.registry import HOOKS

from .checkpoint_hook import save_to_stop

LIST_NAME = 'skipped.txt'


@HOOKS.register_module()
class SkippedImagesHook(Hook):
    """List images that cannot be read, and stop the run when they are too many.

    In training another sample takes the place of one that cannot be read
    (:class:`~sapiens_plugin.datasets.seeded_dataset.SeededDataset`). In the validations
    of a training run it is blank, and its persons are missed. A test stops.

    Every image gets a line in ``WORK_DIR/skipped.txt``: its path, a tab, the reason.
    All starts of a job, and all its processes, write into the same file.

    Args:
        max_share: The share of the training images that may be bad, counted in this
            start.
    """

    # The state that is saved is what all other hooks have left of the iteration.
    priority = 'LOWEST'

    def __init__(self, *, max_share: float = 0.01):
        self.max_share = max_share
        self._bad: set[str] = set()  # of this start, in training
        self._before: set[str] = set()  # listed before this start
        self._train_images: set[str] | None = None
        self._too_many: str | None = None  # the error to come

    def before_train(self, runner: Runner) -> None:
        """Read what is listed; let validations go on."""
        self._before = set(_read(runner)[0])
        if runner.val_loop is not None:
            for level in levels(runner.val_dataloader.dataset):
                if hasattr(level, 'pipeline'):
                    level.pipeline = BlankUnreadable(level.pipeline)

    def after_train_iter(
        self,
        runner: Runner,
        batch_idx: int,
        data_batch: dict | None = None,
        outputs: dict | None = None,
    ) -> None:
        """List the new ones; stop between two optimizer steps if they are too many.

        Raises:
            InputError: Too many of the training images are bad, in one of the
                processes.
        """
        skipped = _skipped(data_batch)
        if fresh := skipped.keys() - self._bad:
            self._bad |= fresh
            self._count(runner, {path: skipped[path] for path in fresh})
        if runner.optim_wrapper.should_update() and highest_of_all(
            self._too_many is not None
        ):
            problem = next(filter(None, all_gather_object(self._too_many)))
            raise InputError(f'{problem} {save_to_stop(runner)} Go on with --resume.')

    def _count(self, runner: Runner, fresh: dict[str, str]) -> None:
        listed = _list(runner, fresh, 'Another one')
        if self._train_images is None:
            self._train_images = {
                _printable(path)
                for part in parts(runner.train_dataloader.dataset)
                for path in image_paths(part)
            }
        # What the other processes have found in this start counts too.
        bad = self._bad | ((listed - self._before) & self._train_images)
        if len(bad) > self.max_share * len(self._train_images):
            path = min(fresh)
            self._too_many = (
                f'{len(bad)} of {len(self._train_images)} training images cannot be '
                f'read, more than {self.max_share:.1%}. One is {path}: '
                f'{fresh[path]}. {Path(runner.work_dir) / LIST_NAME} lists those '
                'met so far; `python3 tools/check_dataset.py ANNOTATIONS IMAGES '
                '--decode` finds all. Fetch them again, take their entries out of the '
                'annotation file, or set another '
                'default_hooks.skipped_images.max_share.'
            )

    def after_val_iter(
        self,
        runner: Runner,
        batch_idx: int,
        data_batch: dict | None = None,
        outputs: list | None = None,
    ) -> None:
        """List the new ones."""
        if skipped := _skipped(data_batch):
            _list(runner, skipped, 'A blank picture')


def _skipped(data_batch: dict) -> dict[str, str]:
    """The images that are not in a batch, and why."""
    return {
        _printable(path): _printable(reason)
        for sample in data_batch['data_samples']
        for path, reason in sample.metainfo.get('skipped_images', ())
    }


def _list(runner: Runner, skipped: dict[str, str], stand_in: str) -> set[str]:
    """Add images to the list where they are not on it; return who is on it then."""
    listed, separator = _read(runner)
    fresh = {path: why for path, why in skipped.items() if path not in listed}
    for path, reason in fresh.items():
        runner.logger.warning(
            f'The image {path} cannot be read: {reason}. {stand_in} takes its place; '
            f'{Path(runner.work_dir) / LIST_NAME} lists such images.'
        )
    lines = separator + ''.join(f'{path}\t{why}\n' for path, why in fresh.items())
    if fresh:
        try:
            with (Path(runner.work_dir) / LIST_NAME).open('ab') as file:
                os.write(file.fileno(), lines.encode())  # at once: others write too
        except OSError as error:
            runner.logger.warning(
                f'{LIST_NAME} cannot be written: {error.strerror or error}. Training '
                'goes on.'
            )
    return listed | fresh.keys()


def _read(runner: Runner) -> tuple[set[str], str]:
    """The images on the list, and what has to come before another line."""
    try:
        text = (Path(runner.work_dir) / LIST_NAME).read_text('utf-8', 'replace')
    except OSError:
        return set(), ''
    listed = {line.partition('\t')[0] for line in text.split('\n') if line}
    # A power cut may have left half a line.
    return listed, '' if text.endswith('\n') or not text else '\n'


def _printable(text: str) -> str:
    """A text for one line of UTF-8, whatever a file is called."""
    return text if text.isprintable() else ascii(text)[1:-1]
