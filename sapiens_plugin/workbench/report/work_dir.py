"""What lies in a work directory beside the log: checkpoints, versions, the plan."""

import json
import re
from dataclasses import dataclass
from pathlib import Path

from sapiens_plugin.errors import InputError

PLAN_NAME = 'plan.json'
_PLAN_NUMBERS = (
    'vram_peak_mib',
    'host_ram_gib',
    'disk_gib',
    'validation_hours',
    'total_hours',
    'floor_hours',
)
_PHASE_NUMBERS = ('epochs', 'seconds_per_step', 'hours_per_epoch', 'hours')
# What MMEngine writes down of the machine and a reader may want to know, by its names.
_VERSIONS = re.compile(
    r'    (sys\.platform|Python|CUDA available|GPU [\d,]+|CUDA_HOME|NVCC|PyTorch'
    r'|TorchVision|OpenCV|MMEngine|numpy_random_seed): (.+)'
)
_ENVIRONMENT_END = 'Runtime environment:'


@dataclass(frozen=True)
class Checkpoint:
    """A file of weights: its name, and its size in bytes."""

    name: str
    size: int


def checkpoints(work_dir: Path) -> list[Checkpoint]:
    """Return the checkpoints of a work directory, the oldest first."""
    files = [
        (path.stat(), path.name)
        for path in Path(work_dir).glob('*.pth')
        if path.is_file()
    ]
    files.sort(key=lambda file: (file[0].st_mtime, file[1]))
    return [Checkpoint(name, stat.st_size) for stat, name in files]


def versions(start_folder: Path) -> dict[str, str]:
    """Return what the log of a start says of the machine; empty without a log."""
    found = {}
    for path in sorted(Path(start_folder).glob('*.log')):
        with path.open(encoding='utf-8', errors='replace') as lines:
            for line in lines:
                if _ENVIRONMENT_END in line:
                    break
                if match := _VERSIONS.fullmatch(line.rstrip('\n')):
                    found.setdefault(match[1], match[2])
    return found


def last_test(work_dir: Path) -> tuple[float, str] | None:
    """Return the AP of the last test in a work directory, and when it started.

    ``tools/test.py`` leaves it as ``TIMESTAMP/TIMESTAMP.json``; None without one.
    """
    for folder in sorted(Path(work_dir).glob('[0-9]*_[0-9]*'), reverse=True):
        try:
            found = json.loads((folder / f'{folder.name}.json').read_bytes())
            return float(found['coco/AP']), folder.name
        except (OSError, ValueError, TypeError, KeyError):
            continue  # a training, or a test of another kind
    return None


def read_plan(work_dir: Path) -> dict | None:
    """Read what ``tools/plan.py --json`` said of the job; None if it was not kept.

    Raises:
        InputError: The file is there and is something else, or cannot be read.
    """
    path = Path(work_dir, PLAN_NAME)
    if not path.is_file():
        return None
    try:
        # PowerShell's > writes UTF-16, which json tells from the bytes.
        plan = json.loads(path.read_bytes())
        numbers = [plan[key] for key in _PLAN_NUMBERS]
        for phase in plan['phases']:
            numbers += [phase[key] for key in _PHASE_NUMBERS]
            name = phase['name']
            if not isinstance(phase['epochs'], int):
                raise TypeError(f'{name}: epochs={phase["epochs"]!r}')
        wrong = [n for n in numbers if not isinstance(n, int | float | None)]
        if wrong:
            raise TypeError(f'{wrong[0]!r} is no number')
    except (OSError, ValueError, TypeError, KeyError) as error:
        raise InputError(
            f'{path} is not what `tools/plan.py --json` prints ({error!r}). Delete it, '
            'or write it anew.'
        ) from error
    return plan
