"""A training that can stop anywhere and go on as if it had not."""

import bisect
import random
from collections.abc import Iterator
from contextlib import ExitStack

import numpy as np
import torch
from mmengine.device import get_device
from mmengine.dist import broadcast_object_list, get_rank, get_world_size
from mmengine.hooks import EMAHook
from mmengine.runner import EpochBasedTrainLoop, Runner
from torch.utils.data import DataLoader

from sapiens_plugin.compat.records import without_result
from sapiens_plugin.compat.workers import DeadWorkers, forget_workers
from sapiens_plugin.core.streaming.randomness import mix
from sapiens_plugin.datasets.samplers.resumable_sampler import ResumableSampler
from sapiens_plugin.datasets.seeded_dataset import SeededDataset
from sapiens_plugin.engine.utils.accumulation import accumulation
from sapiens_plugin.engine.utils.same_bits import surroundings, warn_of_changes
from sapiens_plugin.engine.utils.start import Place
from sapiens_plugin.errors import InputError
from sapiens_plugin.registry import LOOPS

# Where runner.message_hub keeps them: checkpoints hold it.
_SURROUNDINGS = 'surroundings'


@LOOPS.register_module()
class ResumableTrainLoop(EpochBasedTrainLoop):
    """Train by epochs; resume at the next batch, with the same bits to come.

    A run that was stopped at any optimizer step and resumed ends with the weights of
    one that was not:

    - The order of samples follows from the seed and the epoch, the augmentation of a
      sample from the seed, the epoch and its index, and what the model draws from the
      seed, the process and the iteration. No generator has a state to be saved, and
      the number of workers has no say.
    - An epoch is a whole number of optimizer steps. Batches at its end that would fill
      none are left out; each epoch leaves out others.
    - A validation that was not finished is made up for.
    - Where the device, PyTorch or the like is another than before, bits differ, and the
      log says so.
    - When a data-loading worker dies, all of them are started again, once a run, and
      the next batch is the next.

    Args:
        runner: The runner.
        dataloader: Config of the data loader, with a ``ResumableSampler``.
        **kwargs: ``max_epochs``, ``val_begin``, ``val_interval`` and
            ``dynamic_intervals`` of :class:`mmengine.runner.EpochBasedTrainLoop`.

    Attributes:
        optim_wrapper: What the model's ``train_step`` gets; the runner's, if no hook
            puts something in its place in ``before_train``.
        validation_due (bool): Whether an epoch is over whose validation is not.
        at_end (ExitStack): What hooks want to be done when the training ends, also by
            an error; it is there from ``before_train`` on.

    Raises:
        InputError: The sampler is another, or an epoch has no optimizer step.
    """

    def __init__(self, runner: Runner, dataloader: dict, **kwargs):
        seeded = dict(type=SeededDataset, dataset=dataloader['dataset'])
        super().__init__(runner, {**dataloader, 'dataset': seeded}, **kwargs)
        if not isinstance(self.dataloader.sampler, ResumableSampler):
            raise InputError(
                'ResumableTrainLoop needs train_dataloader.sampler.type='
                "'sapiens_plugin.ResumableSampler' and no batch_sampler, not "
                f'{type(self.dataloader.sampler).__name__}; or else leave resuming '
                'within an epoch, with train_cfg=dict(_delete_=True, by_epoch=True, '
                'max_epochs=...).'
            )
        self.optim_wrapper = runner.optim_wrapper
        self.validation_due = False
        self.at_end = ExitStack()
        self._has_restarted_workers = False
        self._seed = runner.seed
        self._counts = accumulation(runner.optim_wrapper)
        self._leave_out_last_batches()
        self._max_iters = self._max_epochs * len(self.dataloader)
        self._go_to(0)

    def validates_after(self, epoch: int) -> bool:
        """Tell whether a validation follows so many epochs."""
        # As run() of the stock loop, which asks when the epoch is over.
        milestone = bisect.bisect(self.dynamic_milestones, epoch + 1)
        interval = self.dynamic_intervals[milestone - 1]
        return (
            self.runner.val_loop is not None
            and epoch >= self.val_begin
            and (epoch % interval == 0 or epoch == self.max_epochs)
        )

    def resume_from(self, place: Place) -> Place:
        """Take a checkpoint's place over, before the runner does.

        Returns:
            That place; or the beginning of its epoch, where batches do not mean what
            they meant.
        """
        now = len(self.dataloader)
        before = place.steps_per_epoch or now
        begin = place.epoch * now
        done = place.iter - begin
        if before != now or not 0 <= done <= now or done % self._counts:
            self.runner.logger.warning(
                f'An epoch had {before} batches when the checkpoint was written, in '
                f'{place.iter} iterations so far, and has {now} now: the data, the '
                'batch size, the accumulation or the number of processes has changed. '
                f'Epoch {place.epoch + 1} is trained from its beginning. Schedules '
                'of the learning rate go on counting iterations: they no longer end '
                'with the epochs they were made for.'
            )
            place = place._replace(iter=begin)
        self.validation_due = place.validation_due and self.runner.val_loop is not None
        return place

    def run(self) -> torch.nn.Module:
        """Train, and validate where it is due; return the model.

        Raises:
            InputError: Data-loading workers died twice.
        """
        with self.at_end:
            self._run()
        return self.runner.model

    def _run(self) -> None:
        self.optim_wrapper = self.runner.optim_wrapper
        seeds = [self.runner.seed]  # which may differ from process to process
        broadcast_object_list(seeds)
        (self._seed,) = seeds
        if self.runner.val_loop is not None:
            for metric in self.runner.val_loop.evaluator.metrics:
                metric.compute_metrics = without_result(metric.compute_metrics)
        self._note_surroundings()
        self.runner.call_hook('before_train')
        if self._epoch >= self._max_epochs:
            self.runner.logger.warning(
                f'All {self._max_epochs} epochs have been trained. For more of them: '
                '--cfg-options train_cfg.max_epochs=N. Schedules of the learning rate '
                'that have ended stay where they ended.'
            )
        if self.validation_due:
            self._validate()
        while self._epoch < self._max_epochs and not self.stop_training:
            self.run_epoch()
            if self.validation_due:
                self._validate()
        self.runner.call_hook('after_train')

    def _note_surroundings(self) -> None:
        hub, now = self.runner.message_hub, surroundings(torch.device(get_device()))
        # With --amp, another one.
        now['optim_wrapper.type'] = type(self.runner.optim_wrapper).__name__
        warn_of_changes(hub.get_info(_SURROUNDINGS, {}), now)
        hub.update_info(_SURROUNDINGS, now)

    def run_epoch(self) -> None:
        """Train what there is left of an epoch."""
        start = self._iter - self._epoch * len(self.dataloader)
        self.runner.call_hook('before_train_epoch')
        self.runner.model.train()
        for idx, data_batch in enumerate(self._batches(start), start):
            self.run_iter(idx, data_batch)
        self.runner.call_hook('after_train_epoch')
        self._epoch += 1
        self._decide_current_val_interval()
        self.validation_due = self.validates_after(self._epoch)

    def run_iter(self, idx: int, data_batch: dict) -> None:
        """Train on a batch.

        Args:
            idx: Its number in the epoch.
            data_batch: What the data loader collated.
        """
        _seed_all(mix(mix(mix(self._seed) + get_rank()) + self._iter))
        self.runner.call_hook('before_train_iter', batch_idx=idx, data_batch=data_batch)
        outputs = self.runner.model.train_step(
            data_batch, optim_wrapper=self.optim_wrapper
        )
        self.runner.call_hook(
            'after_train_iter', batch_idx=idx, data_batch=data_batch, outputs=outputs
        )
        self._iter += 1

    def _batches(self, start: int) -> Iterator[dict]:
        """Yield the batches of the epoch from this one on."""
        while True:
            self._go_to(start)
            try:
                for batch in self.dataloader:
                    start += 1
                    yield batch
                return
            except DeadWorkers as error:
                self._restart_workers(self.dataloader, error)

    def _go_to(self, batch: int) -> None:
        self.dataloader.sampler.go_to(
            seed=self._seed,
            epoch=self._epoch,
            start=batch * self.dataloader.batch_size,
        )

    def _validate(self) -> None:
        loop = self.runner.val_loop
        while self.validation_due:
            try:
                loop.run()
                self.validation_due = False
            except DeadWorkers as error:
                if get_world_size() > 1 or any(
                    isinstance(hook, EMAHook) for hook in self.runner.hooks
                ):
                    # It has the weights and their average change places at the
                    # beginning of a validation and again at its end. Other processes
                    # would not know that it begins again.
                    raise InputError(
                        f'{error} With EMAHook, or in several processes, a validation '
                        'cannot begin twice. Go on with --resume.'
                    ) from error
                self._restart_workers(loop.dataloader, error)
                for metric in loop.evaluator.metrics:
                    metric.results.clear()

    def _restart_workers(self, loader: DataLoader, error: DeadWorkers) -> None:
        if self._has_restarted_workers:
            raise InputError(
                f'{error} It is the second time in this run. When memory runs out, '
                'lower num_workers or prefetch_factor of the data loaders, or close '
                'other programs; num_workers=0 loads in the training process itself. '
                'In a container, give shared memory more room (--shm-size). Then go on '
                'with --resume.'
            ) from error
        self._has_restarted_workers = True
        self.runner.logger.warning(
            f'{error} All are started again, and the run goes on where it was. The '
            'second time it will stop.'
        )
        forget_workers(loader)

    def _leave_out_last_batches(self) -> None:
        batches, size = len(self.dataloader), self.dataloader.batch_size
        whole = batches // self._counts * self._counts
        if not whole:
            raise InputError(
                f'An epoch has {batches} batches of {size} images, too few for one '
                'optimizer step of optim_wrapper.accumulative_counts='
                f'{self._counts}. Lower it or train_dataloader.batch_size, or add '
                'data.'
            )
        if whole < batches:
            self.dataloader.sampler.shorten(whole * size)
            self.runner.logger.info(
                f'An epoch has {whole} of {batches} batches: the last '
                f'{batches - whole} would fill no optimizer step of {self._counts}. '
                'Each epoch leaves out other images.'
            )


def _seed_all(seed: int) -> None:
    """Seed whatever a model may draw from."""
    random.seed(seed)
    np.random.seed(seed % 2**32)
    torch.manual_seed(seed)
