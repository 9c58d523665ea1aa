"""A streamed chain on a CUDA device: nothing is read or overwritten before its time.

Streams, events and pinned memory exist on a CUDA device alone. The same tests run a few
times on the CPU, where copies take the place of transfers, so that they are known to
work before they meet a GPU.
"""

import copy
import gc
import itertools
import json
import os
import subprocess
import sys
import time
import weakref
from random import Random

import pytest
import torch
from torch.nn.attention import SDPBackend, sdpa_kernel
from toy_chain import Net, batch

from sapiens_plugin.core.streaming import courier
from sapiens_plugin.core.streaming.chain import Placement, StreamedChain
from sapiens_plugin.core.streaming.courier import Courier
from sapiens_plugin.core.streaming.host_adamw import HostAdamW
from sapiens_plugin.core.streaming.randomness import (
    kept_generators,
    seed_at,
    seed_generators,
)
from sapiens_plugin.launch import prepare_torch

CPU, CUDA = torch.device('cpu'), torch.device('cuda', 0)
needs_cuda = pytest.mark.skipif(
    not torch.cuda.is_available(),
    reason='there is no CUDA device here to try streams, events and pinned memory on',
)
ADAMW = dict(lr=1e-2, weight_decay=0.1)
# Width, tokens and images at a time: many bytes for little arithmetic, and the reverse.
SIZES = {
    CPU: dict(heavy=(64, 1, 1), light=(8, 64, 2)),
    CUDA: dict(heavy=(768, 1, 1), light=(16, 2048, 2)),
}
DEVICES = [pytest.param(CPU, id='cpu'), pytest.param(CUDA, id='cuda', marks=needs_cuda)]


def on_devices(*, cpu: int, cuda: int):
    """Run a test so many times on each, every time with another seed."""
    runs = [pytest.param(CPU, seed, id=f'cpu-{seed}') for seed in range(cpu)]
    runs += [
        pytest.param(CUDA, seed, id=f'cuda-{seed}', marks=needs_cuda)
        for seed in range(cuda)
    ]
    return pytest.mark.parametrize('device, seed', runs)


@pytest.fixture(autouse=True)
def deterministic(monkeypatch):
    monkeypatch.setenv('CUBLAS_WORKSPACE_CONFIG', ':4096:8')
    torch.use_deterministic_algorithms(True)
    with sdpa_kernel(SDPBackend.MATH):
        yield
    torch.use_deterministic_algorithms(False)


def stall(device, milliseconds):
    """Hold up the current stream, or on the CPU the thread."""
    if device.type == 'cuda':
        torch.cuda._sleep(int(milliseconds * 1.5e6))
    else:
        time.sleep(milliseconds / 1e3)


@pytest.fixture
def hold_up(monkeypatch):
    """Make transfers late, so that what does not wait for them goes wrong.

    Some couriers are slower than others, so that each is at times the last.
    """

    def hold_up(device, delays):
        slowness = {}
        for name in ('_upload', '_download'):
            carry = getattr(Courier, name)

            def late(self, *args, carry=carry):
                most = slowness.setdefault(self, delays.choice([0, 1, 30]))
                with self._api.stream(self._stream):
                    stall(device, most * delays.random())
                return carry(self, *args)

            monkeypatch.setattr(Courier, name, late)

    return hold_up


def stages_of(net, device, delays=None):
    """Return the stages of a net, some of them late."""
    stem, blocks, tail = net.stages()
    for stage in (stem, *blocks) if delays else ():

        def late(x, run=stage.run):
            stall(device, delays.random())
            return run(x)

        stage.run = late
    return stem, blocks, tail


def accumulate(net, inputs, targets, *, seed, device):
    """Ordinary accumulation on a device, with the same keys for what is random."""
    with kept_generators(device):
        for j, (x, target) in enumerate(zip(inputs, targets, strict=True)):
            for i, run in enumerate([net.stem, *net.blocks]):
                seed_generators(device, seed_at(seed, i, j))
                x = run(x)
            seed_generators(device, seed_at(seed, len(net.blocks) + 1, j))
            (net.loss(x, target) / len(inputs)).backward()


def clip_factor(norms):
    total = torch.linalg.vector_norm(torch.stack(norms)).cpu()
    return (1.0 / (total + 1e-6)).clamp(max=1.0)


class Reference:
    """Ordinary training: the model on the device, stock AdamW on the host."""

    def __init__(self, net, device):
        self.host, self.device = copy.deepcopy(net), device
        self.model = copy.deepcopy(net).to(device)
        self.optimizer = torch.optim.AdamW(self.host.parameters(), fused=True, **ADAMW)

    def gradients(self, inputs, targets, *, seed):
        self.model.load_state_dict(self.host.state_dict())
        self.model.zero_grad()
        accumulate(self.model, inputs, targets, seed=seed, device=self.device)
        grads = [param.grad for param in self.model.parameters()]
        self.factor = clip_factor([torch.linalg.vector_norm(grad) for grad in grads])
        return [grad.cpu() for grad in grads]

    def update(self, grads):
        for param, grad in zip(self.host.parameters(), grads, strict=True):
            param.grad = grad * self.factor
        self.optimizer.step()


def draw_placement(draw, depth):
    spacing = draw.choice([1, 1, 2, 3, 4])
    least = min(2 * spacing, depth)
    return Placement(
        spacing=spacing,
        slots=draw.choice([least, draw.randint(least, depth), depth]),
        boundaries_on_host=draw.random() < 0.5,
    )


@on_devices(cpu=10, cuda=50)
def test_training_is_that_of_accumulation(device, seed, hold_up, monkeypatch):
    """Steps with deferred, clipped updates, in a layout and with delays that vary."""
    draw = Random(seed)
    kind = draw.choice(['heavy', 'light'])
    dims, tokens, size = SIZES[device][kind]
    small_chunk = 2**16 if kind == 'heavy' else 2**10
    monkeypatch.setattr(courier, 'CHUNK_BYTES', draw.choice([small_chunk, 2**24]))
    late = draw.choice(['transfers', 'computation', 'both'])
    if late != 'computation':
        hold_up(device, Random(seed))
    depth = draw.randint(3, 9)
    placement = draw_placement(draw, depth)
    # Shown with a failure:
    print(f'{kind=} {late=} {depth=} {courier.CHUNK_BYTES=} {placement}')

    net = Net(depth=depth, drop=0.3, dims=dims)
    reference = Reference(net, device)
    params = list(net.parameters())
    optimizer = HostAdamW(params, **ADAMW)
    chain = StreamedChain(
        *stages_of(net, device, Random(seed) if late != 'transfers' else None),
        device=device,
        placement=placement,
    )
    chain.before_use(optimizer.flush)
    try:
        for step in range(3):
            inputs, targets = (
                [x.to(device) for x in parts]
                for parts in batch([size] * 4, tokens=tokens, seed=step)
            )
            expected = reference.gradients(inputs, targets, seed=step)
            norms = chain.accumulate(
                inputs,
                lambda x, j, targets=targets: net.loss(x, targets[j]),
                seed=step,
            )
            for (name, param), grad in zip(
                net.named_parameters(), expected, strict=True
            ):
                assert torch.equal(param.grad, grad), (step, name)
            factor = clip_factor([norms[param] for param in params])
            assert torch.equal(factor, reference.factor)
            optimizer.schedule(grad_factor=factor)
            reference.update(expected)
    finally:
        chain.close()
    assert optimizer.has_pending
    optimizer.flush()
    for (name, param), other in zip(
        net.named_parameters(), reference.host.parameters(), strict=True
    ):
        assert torch.equal(param, other), name


@on_devices(cpu=2, cuda=20)
def test_inference_is_that_of_the_net(device, seed, hold_up):
    draw = Random(seed)
    dims, tokens, size = SIZES[device][draw.choice(['heavy', 'light'])]
    hold_up(device, Random(seed))
    net = Net(depth=6, dims=dims).eval()
    whole = copy.deepcopy(net).to(device)
    chain = StreamedChain(
        *stages_of(net, device, Random(seed)),
        device=device,
        placement=Placement(slots=draw.randint(2, 6)),
    )
    try:
        for turn in range(4):
            inputs = [
                x.to(device) for x in batch([size] * 3, tokens=tokens, seed=turn)[0]
            ]
            with torch.no_grad(), chain.tail_in_place():
                for x, y in zip(inputs, chain.forward(inputs), strict=True):
                    expected = whole.stem(x)
                    for block in whole.blocks:
                        expected = block(expected)
                    assert torch.equal(y, expected)
                    assert torch.equal(net.head(y), whole.head(expected))
    finally:
        chain.close()


@on_devices(cpu=3, cuda=20)
def test_an_error_leaves_no_transfer_behind(device, seed, hold_up):
    """A failed step can be tried again; what it gives back is not written to."""
    draw = Random(seed)
    dims, tokens, size = SIZES[device]['heavy']
    hold_up(device, Random(seed))
    net = Net(depth=6, dims=dims)
    reference = Reference(net, device)
    stem, blocks, tail = stages_of(net, device, Random(seed))
    failing = blocks[draw.randrange(6)]
    # Each block runs four times forward; most run another four before backward.
    most = 4 if failing in blocks[4:] else 8
    run, calls = failing.run, itertools.count(-draw.randrange(most))

    def run_or_fail(x):
        if next(calls) == 0:
            raise torch.OutOfMemoryError('full')
        return run(x)

    chain = StreamedChain(
        stem,
        blocks,
        tail,
        device=device,
        placement=Placement(spacing=2, slots=4, boundaries_on_host=True),
    )
    inputs, targets = (
        [x.to(device) for x in parts] for parts in batch([size] * 4, tokens=tokens)
    )

    def accumulate_in(chain):
        chain.accumulate(inputs, lambda x, j: net.loss(x, targets[j]), seed=0)

    try:
        failing.run = run_or_fail
        with pytest.raises(torch.OutOfMemoryError):
            accumulate_in(chain)
        accumulate_in(chain)
        expected = reference.gradients(inputs, targets, seed=0)
        for param, grad in zip(net.parameters(), expected, strict=True):
            assert torch.equal(param.grad, grad)
        calls = itertools.count()
        with pytest.raises(torch.OutOfMemoryError):
            accumulate_in(chain)
    finally:
        chain.close()
    gone = weakref.ref(chain)
    del chain
    gc.collect()
    assert gone() is None
    # These take the place of the slots.
    tensors = [
        torch.full_like(param, 7, device=device)
        for block in net.blocks
        for param in block.parameters()
    ]
    if device.type == 'cuda':
        torch.cuda.synchronize()
    assert all(bool((tensor == 7).all()) for tensor in tensors)


@pytest.mark.parametrize('device', DEVICES)
@pytest.mark.parametrize('dtype', [torch.float32, torch.bfloat16])
def test_gradients_repeat_in_every_layout(device, dtype):
    """Layouts differ in what is computed when, not in what comes out."""
    first = None
    for placement in (
        dict(spacing=1, slots=2),
        dict(spacing=2, slots=4, boundaries_on_host=True),
        dict(spacing=3, slots=6),
    ):
        net = Net(depth=6, dims=32, drop=0.3)
        chain = StreamedChain(
            *net.stages(),
            device=device,
            placement=Placement(compute_dtype=dtype, **placement),
        )
        inputs, targets = ([x.to(device) for x in parts] for parts in batch([2] * 4))
        try:
            chain.accumulate(
                inputs,
                lambda x, j, n=net, t=targets: n.loss(x.float(), t[j]),
                seed=0,
            )
        finally:
            chain.close()
        grads = [param.grad for param in net.parameters()]
        first = first or grads
        for grad, other in zip(grads, first, strict=True):
            assert torch.equal(grad, other)


@needs_cuda
@pytest.mark.parametrize('ends', ['closed', 'forgotten'])
def test_pinned_memory_is_registered_and_let_go(ends):
    for _ in range(3):  # where memory is still registered it cannot be again
        courier_ = Courier(CUDA)
        chunks = [chunk for chunk, _ in courier_._ring]
        assert all(chunk.is_pinned() for chunk in chunks)
        if ends == 'closed':
            courier_.close()
        else:
            del courier_
            gc.collect()
        if sys.platform != 'win32':
            assert not any(chunk.is_pinned() for chunk in chunks)


@needs_cuda
def test_loader_workers_are_forked_beside_a_chain():
    """What CUDA has registered is not in them, and transfers go on meanwhile."""
    net = Net(depth=6, dims=256)
    reference = Reference(net, CUDA)
    chain = StreamedChain(*net.stages(), device=CUDA, placement=Placement(slots=2))
    try:
        for turn in range(3):
            loader = torch.utils.data.DataLoader(list(range(8)), num_workers=2)
            inputs, targets = (
                [x.to(CUDA) for x in parts] for parts in batch([2] * 4, seed=turn)
            )
            workers = iter(loader)
            chain.accumulate(
                inputs, lambda x, j, t=targets: net.loss(x, t[j]), seed=turn
            )
            assert torch.cat(list(workers)).tolist() == list(range(8))
            expected = reference.gradients(inputs, targets, seed=turn)
            for param, grad in zip(net.parameters(), expected, strict=True):
                assert torch.equal(param.grad, grad)
    finally:
        chain.close()


@needs_cuda
@pytest.mark.parametrize(
    'subject',
    [
        'streamed exact',
        'streamed compact',
        'streamed compact, frozen trunk',
        'streamed inference',
    ],
)
def test_memory_is_as_predicted_and_within_the_budget(subject, repo):
    """In a process of its own: what others left in the allocator would count.

    Nothing keeps it from taking more; the allocator is set as tools/train.py sets it.
    """
    work = dict(
        device='cuda:0',
        arch=dict(
            embed_dims=1024, num_layers=12, num_heads=16, feedforward_channels=4096
        ),
        img_size=[384, 288],
        batch=16,
        micro_batch=2,
        precision='float32',
        budget=1100,
        steps=2,
    )
    environment = dict(os.environ)
    prepare_torch(environment)
    done = subprocess.run(
        [
            sys.executable,
            str(repo / 'benchmarks' / 'streaming.py'),
            *('--task', subject, '--work', json.dumps(work)),
        ],
        capture_output=True,
        encoding='utf-8',
        timeout=600,
        env=environment,
    )
    assert done.returncode == 0, done.stderr
    answer = json.loads(done.stdout.splitlines()[-1])
    assert 'seconds' in answer, answer
    assert answer['reserved'] <= work['budget']
    assert answer['reserved'] == pytest.approx(answer['predicted'], rel=0.05)
