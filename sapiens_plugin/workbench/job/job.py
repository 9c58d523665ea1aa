"""A job in plain numbers: what its config says, as far as planning and checks go."""

from dataclasses import dataclass, replace
from pathlib import Path

from sapiens_plugin.core.streaming.modes import Streaming
from sapiens_plugin.core.streaming.moments import moment_bytes
from sapiens_plugin.core.vit.architectures import PATCH_SIZE, Architecture

_BUFFERED_BATCHES = 2  # that a worker of PyTorch's loader makes ahead
_FLOAT = 4  # bytes


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


@dataclass(frozen=True, kw_only=True)
class Persons:
    """Persons to train, validate and test on, and where the numbers come from."""

    train: int
    val: int
    test: int
    notes: tuple[str, ...] = ()


@dataclass(frozen=True)
class DataSource:
    """A data set that a job reads.

    Attributes:
        split: ``'train'``, ``'val'`` or ``'test'``.
        root: The folder that the other paths are under.
        annotations: The COCO file.
        images: The folder of its images.
        detections: The file of person detections, if boxes come from one.
        counted: Whether its persons are those that ``CocoDataset`` finds.
    """

    split: str
    root: Path
    annotations: Path
    images: Path
    detections: Path | None
    counted: bool = True


@dataclass(frozen=True, kw_only=True)
class Job:
    """What a config says.

    Attributes:
        config: Its file.
        options: Changes to it, as ``--cfg-options`` takes them.
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
        max_epochs: All epochs; None: the job counts iterations.
        val_interval: Epochs between validations; None: there are none.
        val_begin: The first epoch after which there may be one.
        val_batch: Images a validation batch.
        test_batch: Images a test batch.
        val_flip: Whether validation flips, at twice the time.
        test_flip: Whether tests do.
        loading: Processes that load each split.
        worker_memory: Host memory of all that load while it trains, bytes by how they
            are started.
        checkpoints: What is written.
        backbone_weights: The file that the backbone starts from.
        whole_weights: The checkpoint that the whole model starts from.
        sources: The data.
        work_dir: Where checkpoints and logs go.
        other_dirs: More folders that it writes to.
        persons: How many persons the data has; None: not counted.
        other_params: Those of a neck, or of another head, beyond what ``head`` says.
    """

    config: Path
    options: tuple[str, ...] = ()
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
    max_epochs: int | None
    val_interval: int | None
    val_begin: int = 1
    val_batch: int
    test_batch: int
    val_flip: bool
    test_flip: bool
    loading: dict[str, int]
    worker_memory: dict[str, int]
    checkpoints: Checkpoints
    backbone_weights: str | None = None
    whole_weights: str | None = None
    sources: tuple[DataSource, ...] = ()
    work_dir: Path = Path('work_dirs')
    other_dirs: tuple[Path, ...] = ()
    persons: Persons | None = None
    other_params: int = 0

    @property
    def name(self) -> str:
        """The config's name."""
        return self.config.stem

    @property
    def patches(self) -> int:
        """Patches of an image."""
        height, width = self.img_size
        return (height // PATCH_SIZE) * (width // PATCH_SIZE)

    @property
    def workers(self) -> int:
        """Processes that load images to train on."""
        return self.loading['train']

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

    def shared_bytes(self, split: str) -> int:
        """Return what a loader has in shared memory: batches ahead, and one in use."""
        batch = dict(train=self.batch, val=self.val_batch, test=self.test_batch)[split]
        pixels = self.img_size[0] * self.img_size[1]
        # Three bytes each, and a float for each 4 × 4 of them in a heatmap.
        sample = 3 * pixels + _FLOAT * self.head.keypoints * pixels // 16
        return (_BUFFERED_BATCHES * self.loading[split] + 1) * batch * sample

    @property
    def num_params(self) -> int:
        """Parameters of backbone and head."""
        return self._params(self.arch.num_layers, stem=True, norm=True)

    def num_trained(self, *, warmup: bool = False) -> int:
        """Return how many of them train: in the warm-up, or of all that ever will."""
        if warmup:
            return self._params(0, stem=False, norm=False)
        return self._params(
            self.trained_blocks,
            stem=self.frozen_stages < 0,
            norm=self.frozen_stages < self.arch.num_layers,
        )

    def _params(self, blocks: int, *, stem: bool, norm: bool) -> int:
        dims, wide = self.arch.embed_dims, self.arch.feedforward_channels
        # Two norms, query, key, value and projection, and the two layers of the FFN.
        block = 4 * dims + 4 * dims * (dims + 1) + 2 * dims * wide + wide + dims
        # Patches with their bias, positions, and tokens that are no patches.
        rows = 3 * PATCH_SIZE**2 + 1 + self.patches + 2 * self.extra_tokens
        backbone = blocks * block + stem * rows * dims + norm * 2 * dims
        return backbone + self.head.num_params(dims) + self.other_params

    def disk_use(self, *, warmup: bool = False) -> dict[str, int]:
        """Return what checkpoints take of the disk at most, bytes by name.

        A new one is written whole before an old one goes.

        Args:
            warmup: Whether the head trains alone to the end, and alone has moments.
        """
        plan, epochs = self.checkpoints, self.max_epochs or 1
        weights = _FLOAT * self.num_params
        moment_dtype = self.streaming.moment_dtype if self.streaming else 'float32'
        full = weights + moment_bytes(self.num_trained(warmup=warmup), moment_dtype)
        written = epochs // plan.interval if plan.interval else 0
        written += plan.last and (not plan.interval or epochs % plan.interval > 0)
        kept = min(written, plan.kept) if plan.kept > 0 else written
        replaces = plan.by_time > 0 or kept < written
        best = weights if plan.best else 0
        return dict(
            checkpoints=kept * full,
            by_time=plan.by_time * full,
            best=best,
            being_written=full if replaces else best,
        )

    def changed(self, **changes) -> 'Job':
        """Return a job that differs in some fields."""
        return replace(self, **changes)
