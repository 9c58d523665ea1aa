"""A training job in plain numbers."""

from dataclasses import dataclass, replace

from sapiens_plugin.vit.architectures import PATCH_SIZE, Architecture


@dataclass(frozen=True, kw_only=True)
class HeadShape:
    """A heatmap head: deconvolutions that double the grid, convolutions, one more."""

    deconv_channels: tuple[int, ...]
    deconv_kernels: tuple[int, ...]
    conv_channels: tuple[int, ...]
    conv_kernels: tuple[int, ...]
    keypoints: int


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
    """What is written: every how many epochs, how many are kept, and the best one.

    Attributes:
        interval: Epochs; 0 for never.
    """

    interval: int
    kept: int
    best: bool
    last: bool


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
        val_interval: Epochs between validations.
        val_begin: The first epoch after which there may be one.
        val_batch: Images a validation batch.
        test_batch: Images a test batch.
        val_flip: Whether validation flips, at twice the time.
        test_flip: Whether tests do.
        workers: Processes that load images.
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
    val_interval: int
    val_begin: int = 1
    val_batch: int
    test_batch: int
    val_flip: bool
    test_flip: bool
    workers: int
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
    def validations(self) -> int:
        """How often a run validates: MMEngine adds one after the last epoch."""
        return sum(
            epoch % self.val_interval == 0 or epoch == self.max_epochs
            for epoch in range(max(self.val_begin, 1), self.max_epochs + 1)
        )

    def changed(self, **changes) -> 'TrainingJob':
        """Return a job that differs in some fields."""
        return replace(self, **changes)
