"""Time a training step of Sapiens, streamed through little GPU memory, beside others.

Needs this repository and PyTorch; the libraries of streaming_rivals.py are compared
with where they are installed, and the table says why one does not run. Everything is
measured in fresh processes, which take turns::

    python benchmarks/streaming.py --json streaming.json

trains Sapiens-1B at 384×288, 16 micro-batches of 2: *resident* with everything in GPU
memory and no limit, recomputing each block in backward, or nothing; *streamed* within
``--budget``, with PyTorch kept below what it could have of a card of 4 GB: ``--card``
less the CUDA context. The libraries get all memory, and then the least they run in. All
compute in the type that suits the device. The ratio is to *resident*. *Memory* is
``torch.cuda.max_memory_reserved``, the CUDA context not included, and *predicted* what
the memory model says of it. *Host* is the peak of the process and all it started
(Linux).

``--device cpu`` does the same without a GPU, streaming in place. Then it measures what
the engine itself costs: the step beside loops that recompute every block, all but the
last, or none, in turns in one process. The engine does not recompute the last block;
the loop that does not either is the one to compare with.
"""

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass, replace
from itertools import pairwise
from pathlib import Path

import torch
import torch.nn.functional as F
from arch_option import add_arch
from streaming_rivals import MAX_NORM, RIVALS
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint
from tree_memory import watched

from sapiens_plugin.core.streaming import memory
from sapiens_plugin.core.streaming.chain import Placement, StreamedChain
from sapiens_plugin.core.streaming.host_adamw import HostAdamW
from sapiens_plugin.core.streaming.modes import CHOICES
from sapiens_plugin.core.streaming.precision import (
    LossScale,
    capability_of,
    choose_precision,
    turn_tf32_off,
)
from sapiens_plugin.core.streaming.stage import Stage, owners_of
from sapiens_plugin.core.vit.architectures import get_architecture
from sapiens_plugin.core.vit.model import SapiensViT, patch_grid
from sapiens_plugin.launch import prepare_torch

KEYPOINTS = 17
HEAD_WIDTH = 768
ADAMW = dict(lr=1e-4, betas=(0.9, 0.999), eps=1e-8, weight_decay=0.1)
WARM_UP = 2  # steps: the first one allocates, the second makes the first update
CONTEXT = 450  # MiB of a CUDA context, assumed where it cannot be measured
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
    """A Sapiens ViT with a head of the published size; called, it returns the loss.

    Attributes:
        kept (int): How many of the last blocks keep their activations for backward. The
            others are recomputed.
    """

    def __init__(self, work: Work):
        super().__init__()
        self.grid = patch_grid(*work.img_size)
        self.kept = 0
        with torch.device('meta'):
            self.backbone = SapiensViT(work.arch, img_size=work.img_size)
            self.head = _head(self.backbone.arch.embed_dims)
        self.to_empty(device='cpu')
        fill(self)

    def forward(self, images: Tensor, heatmaps: Tensor) -> Tensor:
        """Return the loss."""
        x = self.backbone.embed(images)
        recomputed = len(self.backbone.layers) - self.kept
        for i, layer in enumerate(self.backbone.layers):
            x = (
                checkpoint(layer, x, use_reentrant=False)
                if i < recomputed
                else layer(x)
            )
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


def fill(model: nn.Module) -> None:
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


def resident(work: Work, *, kept: int = 0) -> tuple[Callable, dict]:
    """Accumulate in the ordinary way, with all on the device."""
    batch = draw_batch(work)
    model = Pose(work).to(work.device)
    model.kept = kept
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
        job = memory_step(model, work, **dtypes)
        chosen = memory.plan_layout(job, budget_mib=budget)
        layout, info = vars(chosen), _said(chosen, memory.training_memory(job, chosen))
    chain = make_chain(model, work, **layout, **dtypes)
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
    job = memory_step(model, work)
    layout = memory.plan_layout(job, budget_mib=work.budget, training=False)
    chain = make_chain(model, work, **vars(layout))

    def step() -> None:
        with torch.no_grad(), chain.tail_in_place():
            for x in chain.forward([images for images, _ in batch]):
                model.predict(x)

    return step, _said(layout, memory.inference_memory(job, layout))


def rival(work: Work, name: str) -> tuple[Callable, dict]:
    """Train in the way of another library."""
    make = RIVALS[name]
    step = make(Pose(work), draw_batch(work), dtype=work.compute_dtype, adamw=ADAMW)
    return step, {}


COMPACT = dict(
    boundary_dtype=torch.float16, gradient_dtype=torch.bfloat16, moment_dtype='int8'
)
SUBJECTS: dict[str, Callable[[Work], tuple[Callable, dict]]] = {
    'resident': resident,
    'resident, nothing recomputed': lambda work: resident(work, kept=_depth(work)),
    'streamed exact': lambda work: streamed(work, budget=work.budget),
    'streamed compact': lambda work: streamed(work, budget=work.budget, **COMPACT),
    'streamed compact, frozen trunk': lambda work: streamed(
        work, budget=work.budget, frozen=True, **COMPACT
    ),
    'streamed inference': streamed_inference,
    'streamed exact, no limit': lambda work: streamed(work, budget=None),
}
UNCAPPED = 'resident', 'resident, nothing recomputed', 'streamed exact, no limit'
CPU_SUBJECTS: dict[str, Callable[[Work], tuple[Callable, dict]]] = {
    **{name: SUBJECTS[name] for name in UNCAPPED[:2]},
    'streamed in place': lambda work: streamed(work, budget=None, in_place=True),
}
# Of these loops, one recomputes what the engine recomputes.
ENGINE_COST = CPU_SUBJECTS | {
    'resident, all but the last recomputed': lambda work: resident(work, kept=1)
}


def _depth(work: Work) -> int:
    return get_architecture(work.arch).num_layers


def make_chain(model: Pose, work: Work, **placement) -> StreamedChain:
    """Make the chain that streams a model."""
    return StreamedChain(
        *model.stages(),
        device=torch.device(work.device),
        placement=Placement(compute_dtype=work.compute_dtype, **placement),
    )


def memory_step(model: Pose, work: Work, **dtypes) -> memory.Step:
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
    return memory.Step(
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
        workspace_bytes=memory.workspace_bytes(
            capability_of(torch.device(work.device))
        ),
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
    on_gpu = device.type == 'cuda'
    if on_gpu:
        turn_tf32_off()  # as a streamed job does
        torch.cuda.set_device(device)
        total = torch.cuda.get_device_properties(device).total_memory
        share = min(work.cap * memory.MIB / total, 1.0) if work.cap else 1.0
        torch.cuda.set_per_process_memory_fraction(share, device)
    make = (SUBJECTS | CPU_SUBJECTS).get(name)
    step, info = make(work) if make else rival(work, name)
    seconds = [_timed(step, device) for _ in range(WARM_UP + work.steps)]
    if on_gpu:
        info['reserved'] = torch.cuda.max_memory_reserved(device) / memory.MIB
    return dict(seconds=seconds[WARM_UP:], **info)


def measure_engine(work: Work) -> dict:
    """Time loops on the CPU in turns; they do the same arithmetic."""
    steps = {name: make(work)[0] for name, make in ENGINE_COST.items()}
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
    found = dict(name=f'CPU, {torch.get_num_threads()} threads')
    if device.type == 'cuda':
        properties = torch.cuda.get_device_properties(device)
        found = dict(
            name=properties.name,
            total=int(properties.total_memory / memory.MIB),
            context=_context_mib(device),
        )
    return dict(
        **found,
        precision=str(precision.dtype).removeprefix('torch.'),
        reason=precision.reason,
    )


def _timed(step: Callable, device: torch.device) -> float:
    start = time.perf_counter()
    step()
    if device.type == 'cuda':
        torch.cuda.synchronize(device)
    return time.perf_counter() - start


def _context_mib(device: torch.device) -> int | None:
    """Return what this process has of the GPU beside PyTorch; None if nobody tells."""
    command = ['nvidia-smi', '--query-compute-apps=pid,used_memory']
    try:
        said = subprocess.check_output(
            [*command, '--format=csv,noheader,nounits'], text=True
        )
    except OSError:
        return None
    taken = dict(line.split(', ') for line in said.splitlines())
    mib = taken.get(str(os.getpid()), '')  # a container may have other numbers
    reserved = torch.cuda.memory_reserved(device) / memory.MIB
    return round(int(mib) - reserved) if mib.isdecimal() else None


def _tell_failure(kind: type, error: BaseException, trace) -> None:
    """Let the process end with what its table has to say of it."""
    sys.__excepthook__(kind, error, trace)
    first = (str(error).splitlines() or [''])[0]
    full = memory.is_out_of_memory(error)
    print(json.dumps(dict(skipped=f'{kind.__name__}: {first}', out_of_memory=full)))


# ---- all processes


def in_fresh_process(task: str, work: Work) -> dict:
    """Do a task in a process of its own; a failure becomes a reason to skip it."""
    command = [sys.executable, __file__, '--task', task]
    command += ['--work', json.dumps(asdict(work))]
    with tempfile.TemporaryFile('w+') as said, tempfile.TemporaryFile('w+') as log:
        environment = dict(os.environ)
        prepare_torch(environment)
        done = watched(command, stdout=said, stderr=log, env=environment)
        for file in (said, log):
            file.seek(0)
        answers = [line for line in said if line.startswith('{')]
        if done.returncode:
            print(log.read(), file=sys.stderr)
    if not answers:
        return dict(skipped=f'the process ended with {done.returncode}')
    return json.loads(answers[-1]) | dict(host=done.peak.total / 1e9)


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


def measure_all(work: Work, names: list[str], *, repeats: int, **caps) -> dict:
    """Measure each, ``repeats`` times in turns.

    Args:
        work: What to do, without a cap.
        names: What to measure.
        repeats: How often.
        **caps: ``cap``, that of streaming, and ``highest``, to seek that of a rival
            below; both in MiB, and left out on a CPU.
    """
    works = {name: work for name in names}
    for name in names if caps else ():
        if name in RIVALS:
            found = smallest_cap(name, work, lowest=512, highest=caps['highest'])
            if found:
                works[f'{name}, smallest cap'] = replace(work, cap=found)
        elif name not in UNCAPPED:
            works[name] = replace(work, cap=caps['cap'])
    results: dict[str, dict] = {}
    for _ in range(repeats):
        for name, one in works.items():
            if 'skipped' in results.get(name, {}):
                continue
            task = name.removesuffix(', smallest cap')
            result = in_fresh_process(task, one) | dict(cap=one.cap)
            print(f'{name}: {_brief(result)}', file=sys.stderr, flush=True)
            earlier = results.get(name, {})
            if 'seconds' in earlier and 'seconds' in result:
                result['seconds'] = earlier['seconds'] + result['seconds']
                for key in ('reserved', 'host'):
                    result[key] = max(earlier.get(key, 0), result.get(key, 0))
            results[name] = result
    return results


def _brief(result: dict) -> str:
    if 'seconds' not in result:
        return result['skipped']
    return ', '.join(f'{seconds:.3f} s' for seconds in result['seconds'])


def print_results(results: dict[str, dict]) -> None:
    """Print a table in Markdown."""
    print(
        '| | cap, MiB | s a step | ratio | memory, MiB | predicted | ratio '
        '| host, GB | |\n|---|' + '---|' * 8
    )
    base = results.get('resident', {}).get('seconds')
    for name, result in results.items():
        cells = dict.fromkeys(('cap', 'seconds', 'ratio', 'memory', 'predicted'), '–')
        cells |= dict(closeness='–', host='–', said=result.get('layout', ''))
        if result.get('cap'):
            cells['cap'] = result['cap']
        if 'seconds' in result:
            median = statistics.median(result['seconds'])
            cells['seconds'] = f'{median:.3f}'
            if base:
                cells['ratio'] = f'{median / statistics.median(base):.3f}'
        if reserved := result.get('reserved'):
            cells['memory'] = f'{reserved:.0f}'
            if predicted := result.get('predicted'):
                cells['predicted'] = f'{predicted:.0f}'
                cells['closeness'] = f'{predicted / reserved:.3f}'
        if 'skipped' in result:
            cells['said'] = result['skipped']
        elif result['host']:
            cells['host'] = f'{result["host"]:.1f}'
        print(f'| {name} |', ' | '.join(map(str, cells.values())), '|')


def print_engine_cost(results: dict[str, dict]) -> None:
    """Print a table in Markdown."""
    medians = {
        name: [statistics.median(result[kind]) for kind in ('seconds', 'cpu_seconds')]
        for name, result in results.items()
    }
    ours = medians['streamed in place']
    print(
        '\n| in turns | s a step | streamed over it | processor s | streamed over it |'
    )
    print('|---|---|---|---|---|')
    for name, figures in medians.items():
        pairs = (
            f'{figure:.3f} | {own / figure:.3f}'
            for figure, own in zip(figures, ours, strict=True)
        )
        print(f'| {name} | ' + ' | '.join(pairs) + ' |')


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument('--device', choices=['cuda', 'cpu'], default='cuda')
    add_arch(parser, default=None)
    parser.add_argument('--img-size', type=int, nargs=2, metavar=('H', 'W'))
    parser.add_argument('--batch', type=int, help='images a step')
    parser.add_argument('--micro-batch', type=int, default=2)
    parser.add_argument('--budget', type=int, default=3000, help='MiB')
    parser.add_argument('--card', type=int, default=3937, help='MiB of a card of 4 GB')
    parser.add_argument('--precision', choices=CHOICES['precision'], default='auto')
    parser.add_argument('--steps', type=int, default=5, help='timed, in each process')
    parser.add_argument('--repeats', type=int, default=3, help='of all processes')
    parser.add_argument(
        '--only', nargs='+', default=[''], help='what to measure, by first letters'
    )
    parser.add_argument('--json', type=Path, help='write all figures here')
    parser.add_argument('--task', help=argparse.SUPPRESS)  # for the processes
    parser.add_argument('--work', type=json.loads, help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.task:
        sys.excepthook = _tell_failure
        work = Work(**args.work)
        tasks = dict(describe=describe_device, engine=measure_engine)
        run = tasks.get(args.task)
        answer = run(work) if run else measure_subject(args.task, work)
        print(f'\n{json.dumps(answer)}')
        return

    on_cpu = args.device == 'cpu'
    if not on_cpu and not torch.cuda.is_available():
        parser.error('PyTorch finds no CUDA device; --device cpu measures on the CPU.')
    arch = args.arch or (CPU_ARCH if on_cpu else 'sapiens_1b')
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
    print(f'{device["name"]}; PyTorch {torch.__version__}')
    print(f'Precision: {device["reason"]}')
    print(f'Arch {arch}, {work.img_size[0]}×{work.img_size[1]} px, ', end='')
    print(f'{work.batch} images a step, {work.micro_batch} at a time')
    caps = {}
    if not on_cpu:
        context = device['context'] or CONTEXT
        how = 'measured' if device['context'] else 'assumed, the driver does not tell'
        caps = dict(cap=args.card - context, highest=device['total'])
        print(f'Cap: {args.card} MiB less a CUDA context of {context} ({how})')
    print(flush=True)
    names = [*(CPU_SUBJECTS if on_cpu else SUBJECTS), *RIVALS]
    chosen = [name for name in names if name.startswith(tuple(args.only))]
    if not chosen:
        parser.error(f'--only {" ".join(args.only)}: there are {", ".join(names)}')
    names = chosen
    results = measure_all(work, names, repeats=args.repeats, **caps)
    print_results(results)
    report = dict(device=device, torch=torch.__version__, work=asdict(work))
    report['results'] = results
    if on_cpu:
        report['engine'] = in_fresh_process('engine', work)
        del report['engine']['host']  # of all loops together
        print_engine_cost(report['engine'])
    if args.json:
        args.json.write_text(json.dumps(report, indent=1), encoding='utf-8')


if __name__ == '__main__':
    main()
