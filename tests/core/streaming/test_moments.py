import pytest
import torch

from sapiens_plugin.core.streaming import moments
from sapiens_plugin.core.streaming.moments import (
    BLOCK,
    CHUNK,
    ENCODINGS,
    encoding_of,
    get_encoding,
    moment_bytes,
)
from sapiens_plugin.errors import InputError

BETA1, BETA2 = 0.9, 0.999


class Track:
    """Moments of one tensor through an encoding, beside the exact ones."""

    def __init__(self, moment_dtype: str, numel: int):
        self.encoding = get_encoding(moment_dtype)
        self.state = self.encoding.allocate(torch.empty(numel))
        self.exact = torch.zeros(numel), torch.zeros(numel)
        self.step = 0

    def decode(self) -> tuple[torch.Tensor, torch.Tensor]:
        buffers = torch.zeros(2, self.exact[0].numel())
        self.encoding.decode(next(iter(self.encoding.chunks(self.state))), *buffers)
        return tuple(buffers)

    def feed(self, grad: torch.Tensor) -> None:
        self.step += 1
        stored = self.decode()
        for exp_avg, exp_avg_sq in (self.exact, stored):
            exp_avg.lerp_(grad, 1 - BETA1)
            exp_avg_sq.mul_(BETA2).addcmul_(grad, grad, value=1 - BETA2)
        self.encoding.encode(
            next(iter(self.encoding.chunks(self.state))),
            *stored,
            index=0,
            step=self.step,
            decay=BETA2,
        )

    def relative_root(self) -> torch.Tensor:
        """The stored root of the second moment over the exact one."""
        return (self.decode()[1] / self.exact[1]).sqrt()

    def update_error(self) -> float:
        """The error of exp_avg / sqrt(exp_avg_sq), relative to its norm."""
        (m, v), (exact_m, exact_v) = self.decode(), self.exact
        exact = exact_m / exact_v.sqrt()
        return ((m / v.sqrt() - exact).norm() / exact.norm()).item()


def test_bytes_are_those_of_the_tensors():
    assert moment_bytes(10**9, 'float32') == 8 * 10**9
    assert moment_bytes(10**9, 'bfloat16') == 4 * 10**9
    assert moment_bytes(1280, 'int8') == 2 * 1280 + 2 * 10 * 4
    assert moment_bytes(1281, 'int8') == moment_bytes(1408, 'int8')


def test_an_unknown_moment_type_is_refused_by_name():
    with pytest.raises(InputError, match=r"'fp8'.*float32, bfloat16, int8"):
        moment_bytes(1, 'fp8')


@pytest.mark.parametrize('moment_dtype', ENCODINGS)
def test_the_encoding_of_a_state_is_recognised(moment_dtype):
    encoding = ENCODINGS[moment_dtype]
    assert encoding_of(encoding.allocate(torch.empty(3))) == encoding


@pytest.mark.parametrize('moment_dtype', ENCODINGS)
def test_chunks_cover_a_tensor_that_ends_within_a_block(moment_dtype):
    numel = CHUNK + BLOCK + 7
    encoding = ENCODINGS[moment_dtype]
    state = encoding.allocate(torch.empty(numel))
    generator = torch.Generator().manual_seed(0)
    given = torch.rand(2, numel, generator=generator) + 0.5
    sizes = [CHUNK, 2 * BLOCK]
    for index, chunk in enumerate(encoding.chunks(state)):
        buffers = torch.zeros(2, sizes[index])
        part = given[:, index * CHUNK :][:, : sizes[index]]
        buffers[:, : part.shape[1]] = part
        encoding.encode(chunk, *buffers, index=index, step=1, decay=1.0)
    assert index == 1
    for index, chunk in enumerate(encoding.chunks(state)):
        buffers = torch.zeros(2, sizes[index])
        encoding.decode(chunk, *buffers)
        part = given[:, index * CHUNK :][:, : sizes[index]]
        torch.testing.assert_close(
            buffers[:, : part.shape[1]], part, rtol=0.03, atol=0.01
        )


@pytest.mark.parametrize('moment_dtype, bound', [('bfloat16', 0.03), ('int8', 0.1)])
def test_errors_stay_small_over_thousands_of_steps(moment_dtype, bound):
    generator = torch.Generator().manual_seed(0)
    numel = 8 * BLOCK
    spread = torch.exp(0.5 * torch.randn(numel, generator=generator))
    track = Track(moment_dtype, numel)
    for _ in range(3000):
        track.feed(torch.randn(numel, generator=generator) * spread)
    root = track.relative_root()
    assert abs(root.mean().item() - 1) < 0.01  # no drift to one side
    assert root.std().item() < bound
    assert track.update_error() < bound


def test_int8_keeps_small_gradients_beside_large_ones():
    generator = torch.Generator().manual_seed(0)
    spread = torch.logspace(-3, 0, BLOCK)  # within one block
    track = Track('int8', BLOCK)
    for _ in range(1000):
        track.feed(torch.randn(BLOCK, generator=generator) * spread)
    root = track.relative_root()
    assert 0.3 < root.min().item() and root.max().item() < 3
    assert track.update_error() < 0.3


@pytest.mark.parametrize('moment_dtype', ['bfloat16', 'int8'])
def test_the_second_moment_fades_when_gradients_vanish(moment_dtype):
    generator = torch.Generator().manual_seed(0)
    track = Track(moment_dtype, 4 * BLOCK)
    for _ in range(100):
        track.feed(torch.randn(4 * BLOCK, generator=generator))
    before = track.decode()[1].mean()
    for _ in range(5000):
        track.feed(torch.zeros(4 * BLOCK))
    m, v = track.decode()
    assert (v.mean() / before).item() == pytest.approx(BETA2**5000, rel=0.2)
    assert m.abs().max().item() < 1e-3


def test_int8_codes_of_the_second_moment_rest_between_gradients():
    generator = torch.Generator().manual_seed(0)
    track = Track('int8', 4 * BLOCK)
    for _ in range(20):
        track.feed(torch.randn(4 * BLOCK, generator=generator))
    codes = track.state['exp_avg_sq_uint8'].clone()
    for _ in range(50):
        track.feed(torch.zeros(4 * BLOCK))
    assert torch.equal(track.state['exp_avg_sq_uint8'], codes)


def test_int8_fades_for_some_elements_of_a_block_while_others_go_on():
    generator = torch.Generator().manual_seed(0)
    alive = torch.arange(BLOCK) % 2 == 0
    track = Track('int8', BLOCK)
    for step in range(4000):
        grad = torch.randn(BLOCK, generator=generator)
        track.feed(grad if step < 500 else grad * alive)
    m, v = track.decode()
    assert v[~alive].max() < 0.1 * v[alive].min()
    # What is left of the first moment must not push the weights.
    assert (m / v.sqrt())[~alive].abs().mean() < 0.02


@pytest.mark.parametrize('moment_dtype', ['bfloat16', 'int8'])
def test_a_first_gradient_after_none_gives_a_first_moment_of_its_size(moment_dtype):
    track = Track(moment_dtype, 2 * BLOCK)
    for _ in range(50):
        track.feed(torch.zeros(2 * BLOCK))
    m, v = track.decode()
    assert not m.any() and v.max().item() < 1e-25
    grad = torch.zeros(2 * BLOCK)
    grad[5] = 3.0
    track.feed(grad)
    m, v = track.decode()
    assert torch.isfinite(m).all() and torch.isfinite(v).all()
    assert m[5].item() == pytest.approx(0.3, rel=0.03)
    assert v[5].sqrt().item() == pytest.approx(3 * 0.001**0.5, rel=0.03)
    assert not m[:5].any() and not m[6:].any()


def test_int8_never_decodes_a_second_moment_to_zero():
    track = Track('int8', BLOCK)
    grad = torch.full((BLOCK,), 1e-12)
    grad[0] = 1.0
    for _ in range(20):
        track.feed(grad)
    m, v = track.decode()
    assert v.min().item() > 0
    assert (m / v.sqrt()).abs().max().item() < 7.3  # the bound of exact moments


@pytest.mark.parametrize('moment_dtype', ['bfloat16', 'int8'])
def test_rounding_depends_on_the_step_and_the_place_alone(moment_dtype):
    generator = torch.Generator().manual_seed(0)
    given = torch.rand(2, BLOCK, generator=generator)

    def encoded(index: int, step: int) -> dict[str, torch.Tensor]:
        encoding = ENCODINGS[moment_dtype]
        state = encoding.allocate(torch.empty(BLOCK))
        torch.manual_seed(step)
        encoding.encode(
            next(iter(encoding.chunks(state))),
            *given.clone(),
            index=index,
            step=step,
            decay=1.0,
        )
        return state

    def same(a: dict, b: dict) -> bool:
        return all(torch.equal(a[key], b[key]) for key in a)

    first = encoded(0, 1)
    encoded(1, 2)
    assert same(first, encoded(0, 1))
    assert not same(first, encoded(1, 1))
    assert not same(first, encoded(0, 2))


def test_noise_has_room_for_every_offset():
    for draw in range(0, 200_000, 997):
        assert moments._noise[moments._noise_span(3, draw, CHUNK)].numel() == CHUNK
