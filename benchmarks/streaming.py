"""Time a training step of Sapiens, streamed through little GPU memory, beside others.

Needs this repository and PyTorch; torchao and DeepSpeed are compared with where they
are installed. Everything is measured in fresh processes, which take turns::

    python benchmarks/streaming.py --json streaming.json

trains Sapiens-1B at 384×288, 16 micro-batches of 2: *resident* with everything in GPU
memory and no limit, recomputing each block in backward; *streamed* within ``--budget``,
with PyTorch kept below ``--cap``; the others at the smallest cap at which they run. The
ratio is to *resident*. *Memory* is ``torch.cuda.max_memory_reserved``, the CUDA context
not included, and *predicted* what the memory model says of it.

``--device cpu`` measures what the engine itself costs: the same step computed in place,
block by block, over a loop that recomputes each block in the ordinary way, in turns in
one process. Streaming does not recompute the last block; so a second loop keeps that
one's activations too, and is the one to compare with.
"""

import argparse
import json
import os
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass, replace
from itertools import pairwise
from pathlib import Path

import torch
import torch.nn.functional as F
from streaming_rivals import RIVALS
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from sapiens_plugin.core.streaming import memory
from sapiens_plugin.core.streaming.chain import Placement, StreamedChain
from sapiens_plugin.core.streaming.host_adamw import HostAdamW
from sapiens_plugin.core.streaming.precision import CHOICES, LossScale, choose_precision
from sapiens_plugin.core.streaming.stage import Stage, owners_of
from sapiens_plugin.core.vit.architectures import get_architecture
from sapiens_plugin.core.vit.model import SapiensViT, patch_grid

KEYPOINTS = 17
HEAD_WIDTH = 768
ADAMW = dict(lr=1e-4, betas=(0.9, 0.999), eps=1e-8, weight_decay=0.1)
MAX_NORM = 1.0
WARM_UP = 2  # steps: the first one allocates, the second makes the first update
CAP_STEP = 256  # MiB, how finely the smallest cap is sought
CPU_ARCH = dict(
    embed_dims=1024, num_layers=6, num_heads=16, feedforward_channels=4096
)  # a quarter of the 0.3B


@dataclass(frozen=True, kw_only=True)
class Work:
    """What a process has to do."""

    device: str
    arch: str | dict
    img_size: tuple[int, int]
    batch: int
    micro_batch: int
    precision: str
    budget: int
    steps: int
    cap: int | None = None

    @property
    def compute_dtype(self) -> torch.dtype:
        """The type of matrix products."""
        return getattr(torch, self.precision)

    def autocast(self) -> torch.autocast:
        """Return the context to compute a loss in."""
        return torch.autocast(
            self.device.partition(':')[0],
            self.compute_dtype,
            enabled=self.compute_dtype != torch.float32,
        )


class Pose(nn.Module):
    """A Sapiens ViT with a head of the published size; called, it returns the loss."""

    def __init__(self, work: Work):
        super().__init__()
        self.grid = patch_grid(*work.img_size)
        self.keeps_last = False
        with torch.device('meta'):
            self.backbone = SapiensViT(work.arch, img_size=work.img_size)
            self.head = _head(self.backbone.arch.embed_dims)
        self.to_empty(device='cpu')
        _fill(self)

    def forward(self, images: Tensor, heatmaps: Tensor) -> Tensor:
        """Return the loss, recomputing blocks in backward."""
        x = self.backbone.embed(images)
        *layers, last = self.backbone.layers
        for layer in layers:
            x = checkpoint(layer, x, use_reentrant=False)
        x = last(x) if self.keeps_last else checkpoint(last, x, use_reentrant=False)
        return self.loss(x, heatmaps)

    def predict(self, x: Tensor) -> Tensor:
        """Turn tokens (b, N, D) into heatmaps."""
        return self.head(self.backbone.to_map(x, self.grid)).float()

    def loss(self, x: Tensor, heatmaps: Tensor) -> Tensor:
        """Compare the heatmaps of tokens (b, N, D) with others."""
        return F.mse_loss(self.predict(x), heatmaps)

    def stages(self) -> tuple[Stage, list[Stage], Stage]:
        """Take the model apart for streaming."""
        vit = self.backbone
        return (
            Stage(vit.embed, [(vit, 'pos_embed'), *owners_of(vit.patch_embed)]),
            [Stage(layer, owners_of(layer)) for layer in vit.layers],
            Stage(self.loss, owners_of(vit.ln1, self.head)),
        )


def _head(dims: int) -> nn.Sequential:
    """Make a head as published: two deconvolutions, three 1×1 convolutions."""
    layers = []
    for width, following in pairwise([dims, HEAD_WIDTH, HEAD_WIDTH]):
        up = nn.ConvTranspose2d(width, following, 4, 2, padding=1, bias=False)
        layers += [up, nn.InstanceNorm2d(following), nn.SiLU(inplace=True)]
    for _ in range(2):
        same = nn.Conv2d(HEAD_WIDTH, HEAD_WIDTH, 1)
        layers += [same, nn.InstanceNorm2d(HEAD_WIDTH), nn.SiLU(inplace=True)]
    return nn.Sequential(*layers, nn.Conv2d(HEAD_WIDTH, KEYPOINTS, 1))


def _fill(model: nn.Module) -> None:
    """Draw small weights, the same every time and faster than a usual random start."""
    noise = 0.02 * torch.randn(2**22, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        for param in model.parameters():
            for piece in param.view(-1).split(len(noise)):
                piece.copy_(noise[: len(piece)])
    for module in model.modules():
        if isinstance(module, nn.LayerNorm):
            module.reset_parameters()


def draw_batch(work: Work) -> list[tuple[Tensor, Tensor]]:
    """Return random images and heatmaps, on the device, in micro-batches."""
    generator = torch.Generator().manual_seed(1)
    rows, columns = (side // 4 for side in work.img_size)
    shapes = (3, *work.img_size), (KEYPOINTS, rows, columns)
    tensors = (
        torch.rand(work.batch, *shape, generator=generator).to(work.device)
        for shape in shapes
    )
    return list(zip(*(x.split(work.micro_batch) for x in tensors), strict=True))


# ---- what is measured: each returns a step and what else there is to say


def resident(work: Work, *, keeps_last: bool = False) -> tuple[Callable, dict]:
    """Ordinary accumulation with all on the device."""
    batch = draw_batch(work)
    model = Pose(work).to(work.device)
    model.keeps_last = keeps_last
    optimizer = torch.optim.AdamW(model.parameters(), fused=True, **ADAMW)
    scaler = torch.amp.GradScaler(enabled=work.compute_dtype == torch.float16)

    def step() -> None:
        for images, heatmaps in batch:
            with work.autocast():
                loss = model(images, heatmaps) / len(batch)
            scaler.scale(loss).backward()
        scaler.unscale_(optimizer)
        nn.utils.clip_grad_norm_(model.parameters(), MAX_NORM)
        scaler.step(optimizer)
        scaler.update()
        optimizer.zero_grad()

    return step, {}


def streamed(
    work: Work,
    *,
    boundary_dtype: torch.dtype = torch.float32,
    gradient_dtype: torch.dtype = torch.float32,
    moment_dtype: str = 'float32',
    frozen: bool = False,
    budget: int | None,
    in_place: bool = False,
) -> tuple[Callable, dict]:
    """Train block by block; updates are made during the next step's forward."""
    batch = draw_batch(work)
    model = Pose(work)
    model.backbone.requires_grad_(not frozen)
    dtypes = dict(boundary_dtype=boundary_dtype, gradient_dtype=gradient_dtype)
    if in_place:
        layout, info = {}, {}
    else:
        job = _memory_job(model, work, **dtypes)
        chosen = memory.plan_layout(job, budget_mib=budget)
        layout, info = vars(chosen), _said(chosen, memory.training_memory(job, chosen))
    chain = _chain(model, work, **layout, **dtypes)
    params = [param for param in model.parameters() if param.requires_grad]
    optimizer = HostAdamW(params, moment_dtype=moment_dtype, **ADAMW)
    chain.before_use(optimizer.flush)
    scale = LossScale() if work.compute_dtype == torch.float16 else None

    def step() -> None:
        norms = chain.accumulate(
            [images for images, _ in batch],
            lambda x, j: model.loss(x, batch[j][1]),
            seed=0,
            loss_scale=scale.scale if scale else 1.0,
        )
        ordered = torch.stack([norms[param] for param in params])
        norm = torch.linalg.vector_norm(ordered).cpu()
        if scale:
            scale.update(overflow=not norm.isfinite())
        if norm.isfinite():
            factor = (MAX_NORM / (norm + 1e-6)).clamp(max=1.0)
            optimizer.schedule(grad_factor=factor)
        else:
            optimizer.zero_grad()

    return step, info


def streamed_inference(work: Work) -> tuple[Callable, dict]:
    """Compute heatmaps only."""
    batch = draw_batch(work)
    model = Pose(work)
    job = _memory_job(model, work)
    layout = memory.plan_layout(job, budget_mib=work.budget, training=False)
    chain = _chain(model, work, **vars(layout))

    def step() -> None:
        with torch.no_grad(), chain.tail_in_place():
            for x in chain.forward([images for images, _ in batch]):
                model.predict(x)

    return step, _said(layout, memory.inference_memory(job, layout))


def rival(work: Work, name: str) -> tuple[Callable, dict]:
    """Train in the way of another library."""
    dtype = torch.float32 if work.precision == 'float32' else torch.bfloat16
    batch = draw_batch(work)
    return RIVALS[name](Pose(work), batch, dtype=dtype, adamw=ADAMW), {}


COMPACT = dict(
    boundary_dtype=torch.float16, gradient_dtype=torch.bfloat16, moment_dtype='int8'
)
SUBJECTS: dict[str, Callable[[Work], tuple[Callable, dict]]] = {
    'resident': resident,
    'streamed exact': lambda work: streamed(work, budget=work.budget),
    'streamed compact': lambda work: streamed(work, budget=work.budget, **COMPACT),
    'streamed compact, frozen trunk': lambda work: streamed(
        work, budget=work.budget, frozen=True, **COMPACT
    ),
    'streamed inference': streamed_inference,
    'streamed exact, no limit': lambda work: streamed(work, budget=None),
}
UNCAPPED = 'resident', 'streamed exact, no limit'
CPU_SUBJECTS = {
    'recomputing every block': resident,
    'recomputing all but the last': lambda work: resident(work, keeps_last=True),
    'streamed in place': lambda work: streamed(work, budget=None, in_place=True),
}


def _chain(model: Pose, work: Work, **placement) -> StreamedChain:
    return StreamedChain(
        *model.stages(),
        device=torch.device(work.device),
        placement=Placement(compute_dtype=work.compute_dtype, **placement),
    )


def _memory_job(model: Pose, work: Work, **dtypes) -> memory.Job:
    """Describe the step to the memory model."""
    tokens, dims = model.grid[0] * model.grid[1], model.backbone.arch.embed_dims
    heatmap = KEYPOINTS * 16 * tokens  # 4 × 4 positions a patch

    def meta(*shape: int, **kwargs) -> Tensor:
        return torch.empty(work.micro_batch, *shape, device='meta', **kwargs)

    def measure(run: Callable, *inputs: Tensor) -> memory.StageWork:
        return memory.measure_stage(run, *inputs, compute_dtype=work.compute_dtype)

    stem, blocks, tail = stages = model.stages()
    sizes = [sum(p.nbytes for p in stage.params) for stage in (stem, blocks[0], tail)]
    x = meta(tokens, dims, requires_grad=True)
    heatmaps = meta(KEYPOINTS, *(4 * side for side in model.grid))
    in_order = [stages[0], *blocks, tail]
    return memory.Job(
        batch=work.batch,
        micro_batch=work.micro_batch,
        input_bytes=4 * (3 * work.img_size[0] * work.img_size[1] + heatmap),
        token_bytes=4 * tokens * dims,
        stem_bytes=sizes[0],
        block_bytes=sizes[1],
        tail_bytes=sizes[2],
        num_blocks=len(blocks),
        first_trainable=[stage.trains for stage in in_order].index(True),
        stem=measure(model.backbone.embed, meta(3, *work.img_size)),
        block=measure(blocks[0].run, x),
        tail=measure(model.loss, x, heatmaps),
        **dtypes,
    )


def _said(layout: memory.Layout, prediction: memory.DeviceMemory) -> dict:
    return dict(
        layout=f'{layout.slots} slots, boundaries every {layout.spacing}'
        + (' in host memory' if layout.boundaries_on_host else ''),
        predicted=prediction.total / memory.MIB,
    )


# ---- one process


def measure_subject(name: str, work: Work) -> dict:
    """Time steps, and read what memory they took."""
    device = torch.device(work.device)
    torch.cuda.set_device(device)
    if work.cap is not None:
        total = torch.cuda.get_device_properties(device).total_memory
        torch.cuda.set_per_process_memory_fraction(
            min(work.cap * memory.MIB / total, 1.0), device
        )
    try:
        step, info = SUBJECTS[name](work) if name in SUBJECTS else rival(work, name)
        seconds = [_timed(step, device) for _ in range(WARM_UP + work.steps)]
    except ImportError as error:
        return dict(skipped=f'not installed ({error})')
    except torch.OutOfMemoryError:
        return dict(skipped='out of memory', out_of_memory=True)
    return dict(
        seconds=seconds[WARM_UP:],
        reserved=torch.cuda.max_memory_reserved(device) / memory.MIB,
        host=_peak_host_mib(),
        **info,
    )


def measure_on_cpu(work: Work) -> dict:
    """Time the CPU's subjects in turns; they do the same arithmetic."""
    steps = {name: make(work)[0] for name, make in CPU_SUBJECTS.items()}
    results = {name: dict(seconds=[], cpu_seconds=[]) for name in steps}
    for turn in range(WARM_UP + work.steps):
        for name in list(steps)[:: 1 if turn % 2 else -1]:
            # Processor time suffers less from other programs on the machine.
            start = time.process_time()
            seconds = _timed(steps[name], torch.device('cpu'))
            if turn >= WARM_UP:
                results[name]['seconds'].append(seconds)
                results[name]['cpu_seconds'].append(time.process_time() - start)
    return results


def describe_device(work: Work) -> dict:
    """Say what there is, and choose the precision."""
    device = torch.device(work.device)
    precision = choose_precision(device, work.precision)
    name = 'CPU'
    if device.type == 'cuda':
        properties = torch.cuda.get_device_properties(device)
        name = f'{properties.name}, {properties.total_memory / memory.MIB:.0f} MiB'
    return dict(
        name=name,
        precision=str(precision.dtype).removeprefix('torch.'),
        reason=precision.reason,
    )


def _timed(step: Callable, device: torch.device) -> float:
    start = time.perf_counter()
    step()
    if device.type == 'cuda':
        torch.cuda.synchronize(device)
    return time.perf_counter() - start


def _peak_host_mib() -> float | None:
    """Return the process's largest resident set, where Linux tells."""
    status = Path('/proc/self/status')
    if not status.is_file():
        return None
    fields = dict(
        line.split(':', 1) for line in status.read_text(encoding='utf-8').splitlines()
    )
    return int(fields['VmHWM'].split()[0]) / 1024


# ---- all processes


def in_fresh_process(task: str, work: Work) -> dict:
    """Do a task in a process of its own; a failure becomes a reason to skip it."""
    done = subprocess.run(
        [sys.executable, __file__, '--task', task, '--work', json.dumps(asdict(work))],
        capture_output=True,
        encoding='utf-8',
        env={**os.environ, 'OMP_WAIT_POLICY': 'PASSIVE'},
    )
    if done.returncode:
        print(done.stderr, file=sys.stderr)
        last = (done.stderr.strip().splitlines() or ['no message'])[-1]
        full = 'out of memory' in done.stderr.lower()
        return dict(skipped=last, out_of_memory=full)
    return json.loads(done.stdout.splitlines()[-1])


def smallest_cap(name: str, work: Work, *, lowest: int, highest: int) -> int | None:
    """Find the smallest cap in MiB at which a rival makes a step."""
    trial = replace(work, steps=1)
    if 'seconds' not in in_fresh_process(name, replace(trial, cap=highest)):
        return None
    while highest - lowest > CAP_STEP:
        middle = (lowest + highest) // 2
        answer = in_fresh_process(name, replace(trial, cap=middle))
        if 'seconds' in answer:
            highest = middle
        elif answer.get('out_of_memory'):
            lowest = middle
        else:
            return None
    return highest


def measure_all(work: Work, *, repeats: int, cap: int, total: int) -> dict[str, dict]:
    """Measure everything on a GPU, ``repeats`` times in turns."""
    works = {
        name: replace(work, cap=None if name in UNCAPPED else cap) for name in SUBJECTS
    }
    for name in RIVALS:
        # The first trial tells whether it runs at all.
        answer = in_fresh_process(name, replace(work, steps=1))
        found = None
        if 'seconds' in answer:
            found = smallest_cap(name, work, lowest=512, highest=total)
        works[name] = replace(work, cap=found)
        if found is None:
            print(f'{name}: {answer.get("skipped", "runs at no cap")}', flush=True)
            del works[name]
    results: dict[str, dict] = {}
    for _ in range(repeats):
        for name, one in works.items():
            result = in_fresh_process(name, one) | dict(cap=one.cap)
            print(f'{name}: {_brief(result)}', file=sys.stderr, flush=True)
            earlier = results.get(name, {})
            if 'seconds' in earlier and 'seconds' in result:
                result['seconds'] = earlier['seconds'] + result['seconds']
                result['reserved'] = max(earlier['reserved'], result['reserved'])
            results[name] = result
    return results


def _brief(result: dict) -> str:
    if 'seconds' not in result:
        return result['skipped']
    return ', '.join(f'{seconds:.3f} s' for seconds in result['seconds'])


def gpu_table(results: dict[str, dict]) -> Iterator[str]:
    """Yield the lines of the table, in Markdown."""
    yield (
        '| | cap, MiB | s a step | ratio | memory, MiB | predicted | ratio '
        '| host, MiB | |'
    )
    yield '|---|' + '---|' * 8
    base = results['resident'].get('seconds')
    for name, result in results.items():
        if 'seconds' not in result:
            yield (
                f'| {name} | {result["cap"] or "–"} |'
                + ' – |' * 6
                + (f' {result["skipped"]} |')
            )
            continue
        median = statistics.median(result['seconds'])
        ratio = f'{median / statistics.median(base):.3f}' if base else '–'
        predicted, host = result.get('predicted'), result['host']
        cells = [
            name,
            result['cap'] or '–',
            f'{median:.3f}',
            ratio,
            f'{result["reserved"]:.0f}',
            f'{predicted:.0f}' if predicted else '–',
            f'{predicted / result["reserved"]:.3f}' if predicted else '–',
            f'{host:.0f}' if host else '–',
            result.get('layout', ''),
        ]
        yield '| ' + ' | '.join(map(str, cells)) + ' |'


def cpu_table(results: dict[str, dict]) -> Iterator[str]:
    """Yield the lines of the table, in Markdown."""
    medians = {
        name: [statistics.median(result[kind]) for kind in ('seconds', 'cpu_seconds')]
        for name, result in results.items()
    }
    ours = medians['streamed in place']
    yield '| | s a step | streamed over it | processor s | streamed over it |'
    yield '|---|---|---|---|---|'
    for name, figures in medians.items():
        pairs = (
            f'{figure:.3f} | {own / figure:.3f}'
            for figure, own in zip(figures, ours, strict=True)
        )
        yield f'| {name} | ' + ' | '.join(pairs) + ' |'


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument('--device', choices=['cuda', 'cpu'], default='cuda')
    parser.add_argument('--arch', help='a published name, or a JSON object')
    parser.add_argument('--img-size', type=int, nargs=2, metavar=('H', 'W'))
    parser.add_argument('--batch', type=int, help='images a step')
    parser.add_argument('--micro-batch', type=int, default=2)
    parser.add_argument('--budget', type=int, default=3200, help='MiB')
    parser.add_argument('--cap', type=int, default=3937, help='MiB')
    parser.add_argument('--precision', choices=CHOICES, default='auto')
    parser.add_argument('--steps', type=int, default=5, help='timed, in each process')
    parser.add_argument('--repeats', type=int, default=3, help='of all processes')
    parser.add_argument('--json', type=Path, help='write all figures here')
    parser.add_argument('--task', help=argparse.SUPPRESS)  # for the processes
    parser.add_argument('--work', type=json.loads, help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.task:
        work = Work(**args.work)
        tasks = dict(describe=describe_device, cpu=measure_on_cpu)
        run = tasks.get(args.task)
        answer = run(work) if run else measure_subject(args.task, work)
        print(json.dumps(answer))
        return

    on_cpu = args.device == 'cpu'
    if not on_cpu and not torch.cuda.is_available():
        parser.error('PyTorch finds no CUDA device; --device cpu measures on the CPU.')
    arch = args.arch or (CPU_ARCH if on_cpu else 'sapiens_1b')
    if isinstance(arch, str) and arch.startswith('{'):
        arch = json.loads(arch)
    work = Work(
        device='cpu' if on_cpu else 'cuda:0',
        arch=asdict(get_architecture(arch)),
        img_size=tuple(args.img_size or ((256, 192) if on_cpu else (384, 288))),
        batch=args.batch or (8 if on_cpu else 32),
        micro_batch=args.micro_batch,
        precision=args.precision,
        budget=args.budget,
        steps=args.steps,
    )
    if work.batch % work.micro_batch:
        parser.error(f'--batch {work.batch} is no multiple of --micro-batch.')
    device = in_fresh_process('describe', work)
    if 'skipped' in device:
        sys.exit(f'{work.device} cannot be used: {device["skipped"]}')
    work = replace(work, precision=device['precision'])
    threads = f', {torch.get_num_threads()} threads' if on_cpu else ''
    print(f'{device["name"]}{threads}; PyTorch {torch.__version__}')
    print(f'Precision: {device["reason"]}')
    print(f'Arch {arch}, {work.img_size[0]}×{work.img_size[1]} px, ', end='')
    print(f'{work.batch} images a step, {work.micro_batch} at a time')
    if allocator := os.environ.get('PYTORCH_CUDA_ALLOC_CONF'):
        print(f'PYTORCH_CUDA_ALLOC_CONF={allocator}')
    print(flush=True)
    if on_cpu:
        results = in_fresh_process('cpu', work)
        lines = cpu_table(results)
    else:
        total = int(device['name'].split()[-2])
        results = measure_all(work, repeats=args.repeats, cap=args.cap, total=total)
        lines = gpu_table(results)
    for line in lines:
        print(line)
    if args.json:
        report = dict(device=device, torch=torch.__version__, work=asdict(work))
        text = json.dumps(report | dict(results=results), indent=1)
        args.json.write_text(text, encoding='utf-8')


if __name__ == '__main__':
    main()
