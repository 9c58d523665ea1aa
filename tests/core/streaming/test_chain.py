"""Gradients of a streamed chain against ordinary accumulation, bit for bit."""

import copy
import itertools
import random
import time

import pytest
import torch
from toy_chain import CPU, Net, accumulate, batch, streamed

from sapiens_plugin.core.streaming.chain import Placement, StreamedChain
from sapiens_plugin.core.streaming.courier import Courier
from sapiens_plugin.core.streaming.memory import track_peak
from sapiens_plugin.core.streaming.stage import Stage, owners_of
from sapiens_plugin.errors import InputError

EQUAL, UNEQUAL = [2] * 6, [2, 2, 2, 1]
PLACEMENTS = {
    'in place': dict(),
    'in place, every 2': dict(spacing=2),
    'in place, every 3': dict(spacing=3),
    'in place, all': dict(spacing=5),
    'fully streamed': dict(slots=2),
    'streamed, every 2': dict(spacing=2, slots=4),
    'half resident': dict(spacing=1, slots=3),
    'resident': dict(spacing=2, slots=5),
    'host boundaries': dict(spacing=2, slots=4, boundaries_on_host=True),
}


def compare(net, sizes, **placement):
    reference = copy.deepcopy(net)
    inputs, targets = batch(sizes)
    expected = accumulate(reference, inputs, targets, seed=7)
    losses, norms = streamed(net, inputs, targets, seed=7, **placement)
    assert losses == expected
    compared = 0
    for (name, param), other in zip(
        net.named_parameters(), reference.parameters(), strict=True
    ):
        if other.grad is None:
            assert param.grad is None, name
            continue
        assert torch.equal(param.grad, other.grad), name
        assert torch.equal(norms[param], torch.linalg.vector_norm(other.grad)), name
        compared += 1
    assert compared == sum(p.requires_grad for p in net.parameters()) > 0


@pytest.mark.parametrize('placement', PLACEMENTS.values(), ids=PLACEMENTS)
@pytest.mark.parametrize('sizes', [EQUAL, UNEQUAL, [3] * 3], ids=str)
def test_gradients_are_those_of_accumulation(placement, sizes):
    compare(Net(depth=5, drop=0.3), sizes, **placement)


@pytest.mark.parametrize('frozen', [1, 2, 3, 5, 6])
@pytest.mark.parametrize('placement', PLACEMENTS.values(), ids=PLACEMENTS)
def test_frozen_prefix(placement, frozen):
    net = Net(depth=5, drop=0.3)
    net.freeze(frozen)
    compare(net, EQUAL, **placement)


def test_frozen_in_the_middle_passes_gradients_on():
    net = Net(depth=4)
    net.blocks[2].requires_grad_(False)
    net.norm.requires_grad_(False)
    compare(net, EQUAL, spacing=2, slots=4)


@pytest.mark.parametrize('depth, spacing', [*itertools.product([1, 2, 7], [1, 2, 4])])
def test_depths(depth, spacing):
    compare(Net(depth=depth, drop=0.2), EQUAL, spacing=spacing, slots=2 * spacing)


def test_a_second_step_uses_the_new_weights():
    """Weights that stayed on the device are fetched again when they have changed."""
    net = Net(depth=3)
    inputs, targets = batch(EQUAL)
    chain = StreamedChain(*net.stages(), device=CPU, placement=Placement(slots=3))
    try:
        for step in range(3):
            reference = copy.deepcopy(net)
            reference.zero_grad()
            accumulate(reference, inputs, targets, seed=step)
            chain.accumulate(inputs, lambda x, j: net.loss(x, targets[j]), seed=step)
            with torch.no_grad():
                for param, other in zip(
                    net.parameters(), reference.parameters(), strict=True
                ):
                    assert torch.equal(param.grad, other.grad)
                    param -= 0.1 * param.grad
                    param.grad = None
    finally:
        chain.close()


def test_inference_streams_and_sees_loaded_weights():
    net, other = Net(depth=4, drop=0.5).eval(), Net(depth=4, seed=5)
    inputs, _ = batch(EQUAL)
    chain = StreamedChain(*net.stages(), device=CPU, placement=Placement(slots=2))
    try:
        for state in (net.state_dict(), other.state_dict()):
            net.load_state_dict(state)
            with torch.no_grad():
                for x, y in zip(inputs, chain.forward(inputs), strict=True):
                    expected = net.stem(x)
                    for block in net.blocks:
                        expected = block(expected)
                    assert torch.equal(y, expected)
                    with chain.tail_in_place():
                        assert torch.equal(net.head(y), net.head(expected))
    finally:
        chain.close()


@pytest.mark.parametrize('placement', PLACEMENTS.values(), ids=PLACEMENTS)
def test_under_autocast(placement):
    """The 16-bit copies of weights are made once a visit, and give the same bits."""
    net = Net(depth=5, drop=0.3)
    reference = copy.deepcopy(net)
    inputs, targets = batch(EQUAL)
    bf16 = torch.bfloat16
    expected = accumulate(reference, inputs, targets, seed=7, compute_dtype=bf16)
    losses, _ = streamed(net, inputs, targets, seed=7, compute_dtype=bf16, **placement)
    assert losses == expected
    for param, other in zip(net.parameters(), reference.parameters(), strict=True):
        assert torch.equal(param.grad, other.grad)


def test_narrow_copies_of_weights_go_with_the_visit():
    """Autocast keeps them until its outermost context ends: here, that of the tail."""
    net = Net(depth=12)
    inputs, _ = batch(EQUAL)
    chain = chain_of(net, slots=2, compute_dtype=torch.bfloat16)
    chain.forward(inputs)
    with track_peak() as alone:
        chain.forward(inputs)
    with track_peak() as nested, chain.tail_in_place():
        chain.forward(inputs)
    chain.close()
    assert nested.peak < 2 * alone.peak


def test_whatever_the_transfers_take(monkeypatch):
    """No copy is read, or its target overwritten, before it is time."""
    delays = random.Random(0)
    for name in ('_upload', '_download'):
        carry = getattr(Courier, name)

        def late(self, *args, carry=carry):
            time.sleep(delays.random() * 4e-3)
            return carry(self, *args)

        monkeypatch.setattr(Courier, name, late)
    for placement in PLACEMENTS.values():
        for _ in range(4 if placement.get('slots') else 1):
            compare(Net(depth=5, drop=0.3), EQUAL, **placement)


def test_pieces_of_large_tensors(monkeypatch):
    monkeypatch.setattr('sapiens_plugin.core.streaming.courier.CHUNK_BYTES', 1000)
    compare(Net(depth=3), EQUAL, slots=2, boundaries_on_host=True)


def relative_error(sizes, **placement):
    net = Net(depth=6)
    reference = copy.deepcopy(net)
    inputs, targets = batch(sizes)
    accumulate(reference, inputs, targets, seed=0)
    streamed(net, inputs, targets, seed=0, **placement)
    largest = max(p.grad.norm() for p in reference.parameters())
    return max(
        ((p.grad.float() - q.grad).norm() / max(q.grad.norm(), 1e-4 * largest)).item()
        for p, q in zip(net.parameters(), reference.parameters(), strict=True)
    )


@pytest.mark.parametrize(
    'dtype, least, most',
    [(torch.float16, 1e-5, 1e-3), (torch.bfloat16, 1e-4, 1e-2)],
)
@pytest.mark.parametrize('on_host', [False, True])
def test_narrow_boundaries(dtype, least, most, on_host):
    error = relative_error(EQUAL, boundary_dtype=dtype, boundaries_on_host=on_host)
    assert least < error < most


@pytest.mark.parametrize('slots', [None, 2, 6])
def test_narrow_gradients_are_rounded_once(slots):
    net = Net(depth=6)
    reference = copy.deepcopy(net)
    inputs, targets = batch(EQUAL)
    accumulate(reference, inputs, targets, seed=0)
    streamed(net, inputs, targets, seed=0, slots=slots, gradient_dtype=torch.bfloat16)
    for param, other in zip(net.parameters(), reference.parameters(), strict=True):
        assert torch.equal(param.grad, other.grad.bfloat16())


def test_loss_scale_leaves_the_gradients_as_they_are():
    net = Net(depth=3)
    reference = copy.deepcopy(net)
    inputs, targets = batch(EQUAL)
    accumulate(reference, inputs, targets, seed=0)
    chain = StreamedChain(*net.stages(), device=CPU, placement=Placement())
    chain.accumulate(
        inputs, lambda x, j: net.loss(x, targets[j]), seed=0, loss_scale=2.0**10
    )
    for param, other in zip(net.parameters(), reference.parameters(), strict=True):
        assert torch.equal(param.grad, other.grad)


@pytest.mark.parametrize('placement', PLACEMENTS.values(), ids=PLACEMENTS)
@pytest.mark.parametrize('fails_at', [0, 3, 20, 39])
def test_an_error_leaves_nothing_behind(placement, fails_at):
    """Memory may run out anywhere; the step is tried again and comes out the same."""
    net = Net(depth=5, drop=0.3)
    reference = copy.deepcopy(net)
    inputs, targets = batch(EQUAL)
    expected = accumulate(reference, inputs, targets, seed=3)
    calls = itertools.count()
    losses = {}

    stem, blocks, tail = net.stages()

    def failing(run):
        def run_or_fail(x):
            if next(calls) == fails_at:
                raise torch.OutOfMemoryError('full')
            return run(x)

        return run_or_fail

    def loss_of(x, j):
        loss = net.loss(x, targets[j])
        losses[j] = loss.detach()
        return loss

    for stage in (stem, *blocks):
        stage.run = failing(stage.run)
    chain = StreamedChain(
        stem, blocks, tail, device=CPU, placement=Placement(**placement)
    )
    state = torch.get_rng_state()
    try:
        with pytest.raises(torch.OutOfMemoryError):
            chain.accumulate(inputs, loss_of, seed=3)
        assert all(param.grad is None for param in net.parameters())
        assert all(type(p) is torch.nn.Parameter for p in net.parameters())
        assert torch.equal(torch.get_rng_state(), state)
        chain.accumulate(inputs, loss_of, seed=3)
    finally:
        chain.close()
    assert [losses[j] for j in range(len(inputs))] == expected
    for param, other in zip(net.parameters(), reference.parameters(), strict=True):
        assert torch.equal(param.grad, other.grad)


def count_fetches(monkeypatch, chain):
    fetched = []
    fetch = chain._weights._fetch

    def counting(index, slot, now):
        fetched.append(index)
        return fetch(index, slot, now)

    monkeypatch.setattr(chain._weights, '_fetch', counting)
    return fetched


@pytest.mark.parametrize('slots', [2, 6, 10, 12])
def test_inference_again_fetches_what_does_not_stay(monkeypatch, slots):
    net = Net(depth=12)
    inputs, _ = batch(EQUAL)
    chain = chain_of(net, slots=slots)
    for _ in range(3):
        chain.forward(inputs)
    fetched = count_fetches(monkeypatch, chain)
    chain.forward(inputs)
    assert 12 - slots <= len(fetched) <= 12 - slots + 3


@pytest.mark.parametrize('slots, back', [(2, 10), (8, 4), (12, 0)])
def test_backward_starts_with_what_forward_left(monkeypatch, slots, back):
    """Stem, 12 blocks and tail are fetched forward; backward what has gone since."""
    net = Net(depth=12)
    inputs, targets = batch(EQUAL)
    chain = chain_of(net, slots=slots)
    fetched = count_fetches(monkeypatch, chain)
    for step in range(2):
        fetched.clear()
        chain.accumulate(inputs, lambda x, j: net.loss(x, targets[j]), seed=step)
        assert fetched[:14] == list(range(14))
        assert fetched[14:] == list(range(back, 0, -1))


def chain_of(net, **placement):
    return StreamedChain(*net.stages(), device=CPU, placement=Placement(**placement))


def test_too_few_slots():
    with pytest.raises(InputError, match=r'3 slots .* every 2 blocks: 4 are needed'):
        chain_of(Net(depth=5), spacing=2, slots=3)


def test_nothing_to_train():
    net = Net(depth=2).requires_grad_(False)
    inputs, _ = batch(EQUAL)
    with pytest.raises(InputError, match='nothing to train'):
        chain_of(net).accumulate(inputs, lambda x, j: x.sum(), seed=0)


def test_tied_weights():
    net = Net(depth=2)
    net.blocks[1].fc1.weight = net.blocks[0].fc1.weight
    with pytest.raises(InputError, match=r'Stage 2 .* shares a parameter'):
        chain_of(net)


def test_running_statistics_in_a_block():
    net = Net(depth=2)
    net.blocks[0].ln1 = torch.nn.BatchNorm1d(12)
    with pytest.raises(InputError, match=r'Stage 1 .* buffer \(BatchNorm1d.running'):
        chain_of(net)


def test_stage_gives_the_parameters_back_after_an_error():
    linear = torch.nn.Linear(2, 2)
    weight = linear.weight
    stage = Stage(linear, owners_of(linear))
    with pytest.raises(ZeroDivisionError), stage.running_on([torch.ones(2, 2)] * 2):
        assert linear.weight is not weight
        raise ZeroDivisionError
    assert linear.weight is weight
