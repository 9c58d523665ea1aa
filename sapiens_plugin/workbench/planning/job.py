"""A training job in plain numbers."""

from dataclasses import dataclass, replace

from sapiens_plugin.core.vit.architectures import PATCH_SIZE, Architecture

COCO_PERSONS = dict(train=149_813, val=6_352)
"""COCO 2017 as published: persons that keypoint jobs train and validate on."""


@dataclass(frozen=True, kw_only=True)
class HeadShape:
    """A heatmap head: deconvolutions that double the grid, convolutions, one more."""

    deconv_channels: tuple[int, ...]
    deconv_kernels: tuple[int, ...]
    conv_channels: tuple[int, ...]
    conv_kernels: tuple[int, ...]
    final_kernel: int
    keypoints: int

    def num_params(self, in_channels: int) -> int:
        """Return how many parameters it has; deconvolutions have no bias."""
        width, count = in_channels, 0
        for channels, kernels, bias in (
            (self.deconv_channels, self.deconv_kernels, 0),
            (self.conv_channels, self.conv_kernels, 1),
            ((self.keypoints,), (self.final_kernel,), 1),
        ):
            for out, kernel in zip(channels, kernels, strict=True):
                count += width * out * kernel**2 + bias * out
                width = out
        return count


@dataclass(frozen=True, kw_only=True)
class Streaming:
    """How a job streams its weights; the names of types are those of PyTorch.

    Attributes:
        vram_budget: MiB for PyTorch; None takes 90% of what is free.
    """

    boundary_dtype: str
    gradient_dtype: str
    moment_dtype: str
    vram_budget: int | None


@dataclass(frozen=True, kw_only=True)
class Checkpoints:
    """What is written of a run, and how much of it is kept.

    Attributes:
        interval: Epochs between two; 0 for never.
        kept: How many of those; all unless positive.
        by_time: How many written by time are kept beside them.
        best: Whether the best weights are kept.
        last: Whether the last epoch is written in any case.
    """

    interval: int
    kept: int
    by_time: int
    best: bool
    last: bool

    def disk(self, *, max_epochs: int, weights: int, full: int) -> dict[str, int]:
        """Return the bytes they take at most, by name.

        A new one is written whole before an old one goes.

        Args:
            max_epochs: Of the job.
            weights: Bytes of the model's weights: the best one has no more.
            full: Bytes of a checkpoint to resume from: weights and moments.
        """
        written = max_epochs // self.interval if self.interval else 0
        written += self.last and (not self.interval or max_epochs % self.interval > 0)
        kept = min(written, self.kept) if self.kept > 0 else written
        replaces = self.by_time > 0 or kept < written
        best = weights if self.best else 0
        return dict(
            checkpoints=kept * full,
            by_time=self.by_time * full,
            best=best,
            being_written=full if replaces else best,
        )


@dataclass(frozen=True, kw_only=True)
class Persons:
    """Persons to train, validate and test on, and where the numbers come from."""

    train: int
    val: int
    test: int
    notes: tuple[str, ...] = ()


@dataclass(frozen=True, kw_only=True)
class TrainingJob:
    """What a config says, as far as memory and time go.

    Attributes:
        name: The config's name.
        arch: The backbone.
        img_size: Input (height, width), px.
        extra_tokens: Tokens beside the patches.
        head: The head.
        batch: Images the loader gives at once.
        accumulation: Loads an optimizer step.
        micro_batch: Images that pass the model together.
        streaming: How weights are streamed; None: they stay on the device.
        precision: ``'auto'``, or the type of matrix products.
        with_cp: Whether layers are computed again in backward (unstreamed jobs).
        frozen_stages: As in ``SapiensBackbone``.
        warmup_epochs: Epochs of the head alone.
        max_epochs: All epochs.
        val_interval: Epochs between validations; None: there are none.
        val_begin: The first epoch after which there may be one.
        val_batch: Images a validation batch.
        test_batch: Images a test batch.
        val_flip: Whether validation flips, at twice the time.
        test_flip: Whether tests do.
        workers: Processes that load images to train on.
        worker_memory: Host memory of all that load, bytes by how they are started.
        checkpoints: What is written.
        persons: The data set.
    """

    name: str
    arch: Architecture
    img_size: tuple[int, int]
    extra_tokens: int
    head: HeadShape
    batch: int
    accumulation: int
    micro_batch: int
    streaming: Streaming | None
    precision: str
    with_cp: bool
    frozen_stages: int
    warmup_epochs: int
    max_epochs: int
    val_interval: int | None
    val_begin: int = 1
    val_batch: int
    test_batch: int
    val_flip: bool
    test_flip: bool
    workers: int
    worker_memory: dict[str, int]
    checkpoints: Checkpoints
    persons: Persons

    @property
    def patches(self) -> int:
        """Patches of an image."""
        height, width = self.img_size
        return (height // PATCH_SIZE) * (width // PATCH_SIZE)

    @property
    def effective_batch(self) -> int:
        """Images an optimizer step."""
        return self.batch * self.accumulation

    @property
    def steps_per_epoch(self) -> int:
        """Optimizer steps an epoch, the last one perhaps smaller."""
        return -(-self.persons.train // self.effective_batch)

    @property
    def trained_blocks(self) -> int:
        """Blocks that train once the warm-up is over."""
        return self.arch.num_layers - max(self.frozen_stages, 0)

    @property
    def validation_epochs(self) -> tuple[int, ...]:
        """After which epochs a run validates: MMEngine adds the last one."""
        if self.val_interval is None:
            return ()
        return tuple(
            epoch
            for epoch in range(max(self.val_begin, 1), self.max_epochs + 1)
            if epoch % self.val_interval == 0 or epoch == self.max_epochs
        )

    def changed(self, **changes) -> 'TrainingJob':
        """Return a job that differs in some fields."""
        return replace(self, **changes)
