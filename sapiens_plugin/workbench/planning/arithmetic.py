"""How much a step computes.

An operation is counted as PyTorch's ``FlopCounterMode`` does: two for each
multiplication and addition of a matrix product or convolution, none for the rest. The
rest – norms, activations, sums – goes over memory: it is counted in bytes.
"""

from dataclasses import dataclass

from sapiens_plugin.workbench.job.job import Job

_FLOAT = 4  # bytes; also under autocast norms and sums are float32
# In units of the tokens: two norms read and write (4), two sums read twice and write
# (6). The FFN's activation reads and writes its width.
_BLOCK_PASSES = 10
# An instance norm reads twice and writes, the activation reads and writes.
_HEAD_PASSES = 5


@dataclass(frozen=True)
class Work:
    """What a computation takes of a device.

    Attributes:
        flop: Of matrix products and convolutions.
        passes: Bytes that the operations between them read and write.
    """

    flop: float = 0.0
    passes: float = 0.0

    def __add__(self, other: 'Work') -> 'Work':
        return Work(self.flop + other.flop, self.passes + other.passes)

    def __mul__(self, times: float) -> 'Work':
        return Work(self.flop * times, self.passes * times)

    __rmul__ = __mul__


def stem_work(job: Job) -> Work:
    """Return what cutting one image into patches takes."""
    dims = job.arch.embed_dims
    return Work(2 * job.patches * 768 * dims, 3 * _FLOAT * job.patches * dims)


def block_work(job: Job) -> Work:
    """Return what one block takes for one image, forward."""
    dims, ffn = job.arch.embed_dims, job.arch.feedforward_channels
    tokens = job.patches + job.extra_tokens
    products = tokens * (4 * dims * dims + 2 * dims * ffn) + 2 * tokens * tokens * dims
    return Work(2 * products, _FLOAT * tokens * (_BLOCK_PASSES * dims + 2 * ffn))


def head_work(job: Job) -> Work:
    """Return what the head takes for one image, forward."""
    products = outputs = 0
    for product, output in _head_layers(job):
        products += product
        outputs += output
    return Work(2 * products, _FLOAT * _HEAD_PASSES * outputs)


def trunk_work(job: Job) -> Work:
    """Return what the backbone takes for one image, forward."""
    return stem_work(job) + job.arch.num_layers * block_work(job)


def person_work(job: Job, *, flip: bool) -> Work:
    """Return what predicting one person takes."""
    return (2 if flip else 1) * (trunk_work(job) + head_work(job))


def training_work(job: Job, *, warmup: bool, recomputed: int) -> Work:
    """Return what training on one image takes.

    Args:
        job: The job.
        warmup: Whether the head trains alone.
        recomputed: Blocks that are computed again in backward.
    """
    trained = 0 if warmup else job.trained_blocks
    stem_trains = not warmup and job.frozen_stages < 0
    (first, _), *_ = _head_layers(job)
    return (
        trunk_work(job)
        + 2 * trained * block_work(job)
        + recomputed * _recomputing_work(job)
        + 3 * head_work(job)
        # Nothing is differentiated with respect to images, or to a frozen backbone.
        + (stem_work(job) if stem_trains else Work())
        + (Work() if trained or _norm_trains(job, warmup) else Work(-2 * first))
    )


def _recomputing_work(job: Job) -> Work:
    """Return what computing a block again takes."""
    if job.streaming is not None:
        return block_work(job)
    # torch.utils.checkpoint stops when it has what backward needs: all but the last
    # product.
    tokens = job.patches + job.extra_tokens
    dims, ffn = job.arch.embed_dims, job.arch.feedforward_channels
    return block_work(job) + Work(-2 * tokens * dims * ffn)


def _norm_trains(job: Job, warmup: bool) -> bool:
    return not warmup and job.frozen_stages < job.arch.num_layers


def _head_layers(job: Job) -> list[tuple[int, int]]:
    """Return multiplications and outputs of each layer of the head."""
    head, channels, places = job.head, job.arch.embed_dims, job.patches
    layers = []
    for out, kernel in zip(head.deconv_channels, head.deconv_kernels, strict=True):
        layers.append((places * kernel**2 * channels * out, 4 * places * out))
        channels, places = out, 4 * places
    for out, kernel in zip(
        (*head.conv_channels, head.keypoints), (*head.conv_kernels, 1), strict=True
    ):
        layers.append((places * kernel**2 * channels * out, places * out))
        channels = out
    return layers
