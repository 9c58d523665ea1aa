"""The tasks in their order, with their settings and time limits.

What is most needed comes first, because the time may end before the list does.
"""

from dataclasses import KW_ONLY, dataclass, field, replace
from itertools import product

CAP = 3937 - 450  # MiB: what the driver of a card of 4 GB shows, less the CUDA context
MODEL = dict(
    arch='sapiens_1b', img_size=(384, 288), batch=32, micro_batch=2, budget=3000
)
STRICT = dict(CUBLAS_WORKSPACE_CONFIG=':4096:8')  # for deterministic matrix products
TWO, FOUR = dict(OMP_NUM_THREADS='2'), dict(OMP_NUM_THREADS='4')
AT_ONCE = dict(alone=False, env=TWO)
PRECISIONS = 'float32', 'bfloat16'  # of a GTX 16xx, and of an RTX card
DETERMINISTIC = True, False


@dataclass(frozen=True)
class Task:
    """One process that measures something."""

    name: str
    kind: str  # the module of gpu_tasks
    _: KW_ONLY
    spec: dict = field(default_factory=dict)  # what that module is given
    limit: float = 170  # seconds; without a third of them, it is not started
    env: dict[str, str] = field(default_factory=dict)
    alone: bool = True  # false where it measures no time
    on_cpu: bool = True  # whether the dry run has it
    rival: bool = False  # whether it needs another library


def _configs(name: str, *configs: str, passes: dict | None = None, **more) -> Task:
    passes = passes or {'phase 1': 2, 'phase 2': 2, 'validation': 2, 'test': 2}
    spec = dict(configs=configs, passes=passes, tiny=False)
    return Task(name, 'shipped_configs', spec=spec, **more)


def _steps(name: str, *runs: str, more: dict | None = None, **settings) -> Task:
    spec = dict(MODEL, runs=runs, cap=CAP, **(more or {}))
    return Task(name, 'steps', spec=spec, **settings)


def _rival(name: str, subject: str) -> Task:
    more = dict(warm_up=1, steps=2)
    settings = dict(limit=90, on_cpu=False, rival=True)
    return _steps(name, f'{subject}, bfloat16', more=more, **settings)


TASKS = (
    Task('1_tests', 'suite', spec=dict(expression='not cpu', workers=5), **AT_ONCE),
    Task(
        '1_correctness',
        'correctness',
        spec=dict(MODEL, batch=8, kinds=[*product(PRECISIONS, DETERMINISTIC)]),
        **AT_ONCE | dict(env=TWO | STRICT),
    ),
    Task('1_csan', 'races', on_cpu=False, **AT_ONCE),
    _configs(
        '1_memory_0',
        'sapiens1b_gtx1650 float32',
        'sapiens1b_minimal float32',
        **AT_ONCE,
    ),
    _configs('1_memory_1', 'sapiens2b_gtx1650 float32', on_cpu=False, **AT_ONCE),
    _configs(
        '1_memory_2',
        'sapiens1b_gtx1650_week float32',
        'sapiens0.3b_gtx1650_week float32',
        'sapiens1b_gtx1650 bfloat16',
        on_cpu=False,
        **AT_ONCE,
    ),
    _configs(
        '1_memory_fixed',
        'sapiens1b_gtx1650 float32',
        passes={'phase 2': 2},
        on_cpu=False,
        alone=False,
        env=dict(TWO, PYTORCH_ALLOC_CONF='expandable_segments:False'),
    ),
    Task('2_facts', 'facts', limit=60, env=STRICT),
    _steps(
        '2_resident',
        'resident, float32',
        'resident, bfloat16',
        'resident, nothing recomputed, bfloat16',
        'resident, nothing recomputed, float32',
        more=dict(profiled=2),
        limit=100,
    ),
    _steps(
        '2_streamed',
        'streamed compact, float32',
        'streamed compact, bfloat16',
        'streamed exact, bfloat16',
        'streamed exact, float32',
        more=dict(profiled=2),
        limit=130,
    ),
    _configs(
        '2_mm_timed',
        'sapiens1b_gtx1650 float32',
        'sapiens1b_gtx1650 bfloat16',
        passes={'phase 2': 4, 'phase 1': 3, 'validation': 3},
        limit=100,
        on_cpu=False,
    ),
    Task('2_plan', 'plans', limit=60),
    Task('2_adamw_4', 'host_optimizer', limit=30, env=FOUR),
    Task('2_adamw_all', 'host_optimizer', limit=30),
    _steps(
        '2_four_cores',  # as many as a laptop has
        'streamed compact, bfloat16',
        'streamed compact, float32',
        'resident, bfloat16',
        more=dict(cores=4),
        env=FOUR,
        limit=110,
    ),
    _steps('2_no_limit', 'streamed exact, no limit, bfloat16', limit=50),
    _rival('3_FSDP2', 'FSDP2 offload'),
    _rival('3_torchao', 'torchao, accumulating'),
    _rival('3_DeepSpeed', 'DeepSpeed ZeRO-3 offload'),
    _rival('3_RamTorch', 'RamTorch'),
    _rival('3_TrainStream', 'TrainStream'),
)
# What the dry run changes in every spec that has it.
SMALL = dict(
    arch=dict(embed_dims=128, num_layers=6, num_heads=2, feedforward_channels=512),
    img_size=(64, 48),
    batch=4,
    budget=258,  # MiB, the smallest that works
    cores=2,
    workers=2,
    expression='cpu-0',
    kinds=[('float32', True)],
    configs=['sapiens1b_minimal float32'],
    passes={'phase 2': 2},
    tiny=True,
)


def dry_tasks() -> list[Task]:
    """Make the tasks of the dry run: small, and without those that need a GPU."""
    return [
        replace(
            task,
            spec={key: SMALL.get(key, value) for key, value in task.spec.items()},
            limit=300,
        )
        for task in TASKS
        if task.on_cpu
    ]
