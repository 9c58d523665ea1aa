import math
import subprocess
import sys

import pytest
import torch
import torch.nn.functional as F

from sapiens_plugin.core.streaming import precision
from sapiens_plugin.core.streaming.precision import (
    Figure,
    LossScale,
    choose_precision,
    decide,
    measure,
)
from sapiens_plugin.errors import InputError

CPU = torch.device('cpu')
FP32, FP16, BF16 = torch.float32, torch.float16, torch.bfloat16
RIGHT = {FP32: 5e-4, FP16: 6e-4, BF16: 4e-3}


def card(name, capability, fp32, fp16, bf16, **errors):
    """A device by its name, capability and TFLOPS."""
    speeds = {FP32: fp32, FP16: fp16, BF16: bf16}
    wrong = {getattr(torch, dtype): error for dtype, error in errors.items()}
    figures = {d: Figure(speeds[d], wrong.get(d, RIGHT[d])) for d in speeds}
    return dict(name=name, capability=capability, figures=figures)


# The GTX 1650's speeds are reported ones (laptop), the others' of the usual order.
GTX_1650 = card('NVIDIA GeForce GTX 1650', (7, 5), 2.26, 0.34, 1.63)
T4 = card('Tesla T4', (7, 5), 4.1, 24.0, 2.4)
RTX_3060 = card('NVIDIA GeForce RTX 3060', (8, 6), 8.5, 24.0, 25.0)
A100 = card('NVIDIA A100-SXM4-40GB', (8, 0), 18.0, 230.0, 230.0)
P100 = card('Tesla P100-PCIE-16GB', (6, 0), 8.8, 16.0, 4.0)
HOST = dict(name='CPU', capability=None, figures={})


@pytest.fixture(autouse=True)
def nothing_remembered():
    """Measure this device anew, which a test may have made another."""
    precision._measure.cache_clear()
    yield
    precision._measure.cache_clear()


def test_a_device_is_measured_once(monkeypatch):
    measured = []
    monkeypatch.setattr(
        precision,
        '_gemm_tflops',
        lambda device, dtypes: measured.append(device) or dict.fromkeys(dtypes, 1.0),
    )
    first = measure(CPU, FP32, BF16)
    assert (
        choose_precision(CPU, 'bfloat16').figures == first == measure(CPU, FP32, BF16)
    )
    assert measured == [CPU]


@pytest.mark.parametrize(
    'device, dtype, loss_scaling',
    [
        (GTX_1650, FP32, False),
        (T4, FP16, True),
        (RTX_3060, BF16, False),
        (A100, BF16, False),
        (P100, FP32, False),
        (HOST, FP32, False),
        # Wrong values, whoever makes them.
        (card('T4', (7, 5), 4, 24, 2, float16=math.inf), FP32, False),
        (card('T4', (7, 5), 4, 24, 2, float16=0.3), FP32, False),
        (card('A100', (8, 0), 18, 230, 230, bfloat16=0.3), FP16, True),
        # A card that is no faster in 16 bit, or hardly.
        (card('New', (9, 0), 20, 18, 19), FP32, False),
        (card('Old', (7, 0), 10, 14, 2), FP32, False),
        # Fast, but emulated: bfloat16 before capability 8.0.
        (card('Old', (7, 5), 10, 9, 30), FP32, False),
    ],
)
def test_auto(device, dtype, loss_scaling):
    precision = decide('auto', **device)
    assert (precision.dtype, precision.loss_scaling) == (dtype, loss_scaling)
    assert str(dtype).removeprefix('torch.') in precision.reason
    for figure in device['figures'].values():
        assert f'{figure.tflops:.3g} TFLOPS' in precision.reason


@pytest.mark.parametrize(
    'name, knows_float16',
    [
        ('NVIDIA GeForce GTX 1630', False),
        ('NVIDIA GeForce GTX 1650 with Max-Q Design', False),
        ('NVIDIA GeForce GTX 1660 SUPER', False),
        ('NVIDIA T400 4GB', False),
        ('NVIDIA T500', False),
        ('NVIDIA T550 Laptop GPU', False),
        ('NVIDIA T600 Laptop GPU', False),
        ('Quadro T1000 with Max-Q Design', False),
        ('NVIDIA T1200 Laptop GPU', False),
        ('Quadro T2000', False),
        ('NVIDIA GeForce MX450', False),
        ('NVIDIA GeForce MX550', False),
        ('Tesla T4', True),
        ('Tesla T40 24GB', True),
        ('Quadro RTX 4000', True),
        ('NVIDIA GeForce RTX 2060', True),
    ],
)
def test_cards_without_tensor_cores_are_known_by_name(name, knows_float16):
    device = card(name, (7, 5), 4.0, 24.0, 2.0)
    assert (decide('auto', **device).dtype == FP16) is knows_float16
    if not knows_float16:
        with pytest.raises(InputError, match='no tensor cores') as info:
            decide('float16', **device)
        assert name in str(info.value) and '24 TFLOPS' in str(info.value)


@pytest.mark.parametrize('dtype, error', [('float16', math.inf), ('bfloat16', 0.25)])
def test_a_broken_type_is_refused_with_the_numbers(dtype, error):
    device = card('Some GPU', (8, 6), 8.5, 24.0, 25.0, **{dtype: error})
    with pytest.raises(InputError) as info:
        decide(dtype, **device)
    message = str(info.value)
    assert f"precision='{dtype}'" in message and 'Some GPU' in message
    assert f'differ from a float64 reference by {error:.2g}' in message
    assert '8.5 TFLOPS' in message and "'auto'" in message


def test_a_slower_type_is_allowed_with_a_warning():
    precision = decide('bfloat16', **GTX_1650)
    assert (precision.dtype, precision.loss_scaling) == (BF16, False)
    assert 'slower' in precision.reason and '1.63 TFLOPS' in precision.reason
    assert 'slower' not in decide('bfloat16', **A100).reason


def test_a_requested_type_is_taken_where_it_is_right():
    for requested, dtype in (('float32', FP32), ('float16', FP16), ('bfloat16', BF16)):
        precision = decide(requested, **A100)
        assert precision.dtype == dtype
        assert precision.loss_scaling is (dtype == FP16)
        assert precision.figures == A100['figures']


def test_float16_needs_a_gpu():
    with pytest.raises(InputError, match='needs a GPU'):
        choose_precision(CPU, 'float16')


def test_unknown_precision():
    with pytest.raises(InputError, match=r'half.*auto, float32, float16, bfloat16'):
        choose_precision(CPU, 'half')


def test_the_cpu_by_default_is_not_measured():
    for requested in ('auto', 'float32'):
        precision = choose_precision(CPU, requested)
        assert precision.dtype == FP32 and not precision.figures


def test_bfloat16_on_the_cpu_is_measured():
    precision = choose_precision(CPU, 'bfloat16')
    assert (precision.dtype, precision.loss_scaling) == (BF16, False)
    assert precision.figures.keys() == {FP32, BF16}


def test_rounding_errors_are_within_what_is_expected():
    state = torch.get_rng_state()
    figures = measure(CPU, FP32, FP16, BF16)
    assert torch.equal(torch.get_rng_state(), state)
    for dtype, figure in figures.items():
        eps = torch.finfo(dtype).eps
        assert eps / 4 < figure.error < 8 * eps
        assert figure.tflops > 0


@pytest.mark.parametrize('device', [GTX_1650, RTX_3060, A100])
def test_no_card_is_too_fast_for_the_product_that_rates_it(monkeypatch, device):
    """Launching one takes 10 µs, and what a small one tells is up to 25% short."""
    figures, sizes = device['figures'], []

    def seconds(_, dtypes, size):
        sizes.append(size)
        return {d: 1e-5 + 2 * size**3 / (figures[d].tflops * 1e12) for d in dtypes}

    module = 'sapiens_plugin.core.streaming.precision'
    monkeypatch.setattr(f'{module}._GEMM_SIZE', dict(cpu=1536))
    monkeypatch.setattr(f'{module}._gemm_seconds', seconds)
    for dtype, figure in measure(CPU, *figures).items():
        assert figure.tflops == pytest.approx(figures[dtype].tflops, rel=0.03)
    assert 16 * sizes[-1] ** 2 <= (64 if device is GTX_1650 else 640) * 2**20


def wrong_from_seven_samples_on(make_wrong):
    right = F.conv2d

    def conv2d(x, *args, **kwargs):
        y = right(x, *args, **kwargs)
        return make_wrong(y) if len(x) >= 7 and y.dtype == BF16 else y

    return conv2d


@pytest.mark.parametrize(
    'make_wrong',
    [
        lambda y: y * math.nan,
        lambda y: torch.cat([y[:-1], 2 * y[-1:]]),
        lambda y: y.detach() + y * 0,  # right forward, no gradient
    ],
    ids=['nan', 'one sample', 'backward'],
)
def test_convolutions_that_fail_on_larger_batches_are_found(monkeypatch, make_wrong):
    monkeypatch.setattr(F, 'conv2d', wrong_from_seven_samples_on(make_wrong))
    with pytest.raises(InputError, match='bfloat16 results differ'):
        choose_precision(CPU, 'bfloat16')


@pytest.mark.skipif(not torch.cuda.is_available(), reason='needs a CUDA GPU')
def test_the_probe_gives_its_memory_back():
    device = torch.device('cuda')
    # cuBLAS keeps a workspace for this thread, and one for autograd's.
    x = torch.ones(8, 8, device=device, requires_grad=True)
    torch.mm(x, x).sum().backward()
    del x
    before = torch.cuda.memory_allocated()
    torch.cuda.reset_peak_memory_stats()
    precision = choose_precision(device)
    assert precision.dtype in precision.figures
    _, card = torch.cuda.mem_get_info()
    assert torch.cuda.max_memory_allocated() - before <= card / 16
    assert torch.cuda.memory_allocated() - before <= 2**20


def test_float32_is_float32_for_products_and_convolutions():
    """In a process of its own: such settings hold for a whole process."""
    script = """
import torch
from sapiens_plugin.core.streaming import precision
from sapiens_plugin.core.streaming.precision import turn_tf32_off

backends = torch.backends
backends.fp32_precision = 'tf32'  # a general wish
assert backends.cudnn.conv.fp32_precision == 'tf32'
turn_tf32_off()
assert torch.get_float32_matmul_precision() == 'highest'
assert not backends.cuda.matmul.allow_tf32 and not backends.cudnn.allow_tf32
assert backends.cuda.matmul.fp32_precision == 'ieee'
assert backends.cudnn.conv.fp32_precision == 'ieee'
"""
    subprocess.run([sys.executable, '-c', script], check=True, timeout=120)


def test_loss_scale_halves_on_overflow_down_to_one():
    scale = LossScale(4.0)
    history = []
    for _ in range(4):
        scale.update(overflow=True)
        history.append(scale.scale)
    assert history == [2, 1, 1, 1]


def test_loss_scale_doubles_after_2000_good_steps_in_a_row():
    scale = LossScale()
    assert scale.scale == 2**16
    for overflow in [False] * 1999 + [True] + [False] * 1999:
        scale.update(overflow=overflow)
    assert scale.scale == 2**15
    scale.update(overflow=False)
    assert scale.scale == 2**16
    for _ in range(2000):
        scale.update(overflow=False)
    assert scale.scale == 2**17


def test_loss_scale_resumes_where_it_was():
    first, second = LossScale(), LossScale(1.0)
    for _ in range(1500):
        first.update(overflow=False)
    second.load_state_dict(first.state_dict())
    for _ in range(500):
        second.update(overflow=False)
    assert second.scale == 2**17
