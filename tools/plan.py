"""Plan a job: what memory, disk and hours it will take, and what else would fit."""

from bootstrap import enter_environment

enter_environment()

import argparse  # noqa: E402  (only there in the environment, as what follows)
import json  # noqa: E402
import re  # noqa: E402
import shlex  # noqa: E402
import textwrap  # noqa: E402

from sapiens_plugin.errors import InputError  # noqa: E402
from sapiens_plugin.workbench.command import run  # noqa: E402
from sapiens_plugin.workbench.config_files import (  # noqa: E402
    check_config_name,
    check_new_config_name,
)
from sapiens_plugin.workbench.planning.cards import CARDS, get_card  # noqa: E402
from sapiens_plugin.workbench.planning.limits import Limits  # noqa: E402

EXAMPLES = """examples:
  python3 tools/plan.py configs/sapiens1b_gtx1650.py --gpu gtx1650-maxq
  python3 tools/plan.py configs/sapiens1b_gtx1650.py --gpu rtx3060 --json
  python3 tools/plan.py configs/sapiens1b_gtx1650.py --gpu gtx1650-maxq \\
      --within 7d --vram 4GiB --write configs/mine.py

exits with 0 where the job fits, with 1 where it does not fit the GPU's memory, and with
2 on wrong input or where no job is inside the limits of a search.
"""
_HOURS = dict(h=1, d=24, w=168)
_MIB = dict(mib=1, gib=1024, mb=1e6 / 2**20, gb=1e9 / 2**20)


def main() -> int:
    """Plan a job, print the plan, and write the best one if asked."""
    parser = argparse.ArgumentParser(
        prog='tools/plan.py',
        description=textwrap.fill(
            'Compute what a job will take: GPU memory, host memory, disk and hours, '
            'and the nearest jobs that would fit or end sooner. Without --gpu this '
            "machine's GPU, or else its CPU, is measured for a few seconds.",
            width=80,
        ),
        epilog=EXAMPLES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument('config', help='a config of a training job')
    parser.add_argument(
        '--gpu', metavar='NAME', help=f'a card of the table: {", ".join(CARDS)}'
    )
    parser.add_argument('--json', action='store_true', help='print JSON')
    parser.add_argument(
        '--within',
        metavar='TIME',
        help='search for the best job that ends in 1w, 7d, 176h',
    )
    parser.add_argument(
        '--vram', metavar='SIZE', help='search for the best job that fits 4GiB, 3937MiB'
    )
    parser.add_argument(
        '--write', metavar='FILE', help='write the job that was found as a config'
    )
    args = parser.parse_args()
    hours = amount(args.within, '--within', _HOURS, 'a time such as 7d or 176h')
    vram = amount(args.vram, '--vram', _MIB, 'a size such as 4GiB or 3937MiB')
    limits = Limits(hours=hours, vram_mib=None if vram is None else int(vram))
    searching = limits != Limits()
    if args.write:
        if not searching:
            raise InputError(
                '--write needs a limit to search in: --within, --vram or both.'
            )
        check_new_config_name(args.write)
    card = get_card(args.gpu) if args.gpu else None
    check_config_name(args.config)

    # Slow to import, so that what is wrong above is said at once.
    from sapiens_plugin.jobs.read_config import load_config, planned_job, stage_measurer
    from sapiens_plugin.jobs.write_config import write_config
    from sapiens_plugin.workbench.planning.alternatives import (
        WEEK,
        best_within,
        nearest_jobs,
    )
    from sapiens_plugin.workbench.planning.machine_probe import probe_machine
    from sapiens_plugin.workbench.planning.plan import make_plan
    from sapiens_plugin.workbench.planning.plan_report import as_dict, as_text

    cfg = load_config(args.config)
    job = planned_job(cfg)
    measure = stage_measurer(cfg)
    card = (card or probe_machine()).limited(limits.vram_mib)
    if searching:
        plan = best_within(job, card, measure, limits=limits)
    else:
        plan = make_plan(job, card, measure)
    if args.write:
        write_config(args.write, cfg, job, plan)
    alternatives = nearest_jobs(plan, measure, hours=limits.hours or WEEK)
    search = dict(limits=limits, given=job) if searching else {}
    if args.json:
        print(json.dumps(as_dict(plan, alternatives, **search), indent=2))
    else:
        print(as_text(plan, alternatives, **search))
        if args.write:
            print(
                f'\nWritten to {args.write}. Next: '
                f'python3 tools/check_setup.py {shlex.quote(args.write)}'
            )
    return 0 if plan.fits else 1


def amount(text: str | None, name: str, units: dict, example: str) -> float | None:
    """Read a number with a unit, in the unit that counts 1.

    Raises:
        InputError: It is not a positive number with one of the units.
    """
    if text is None:
        return None
    found = re.fullmatch(r'(\d+(?:\.\d+)?) ?([a-z]+)', text.strip().lower())
    if not found or found[2] not in units or float(found[1]) == 0:
        raise InputError(f'{name} {text} is not {example}.')
    return float(found[1]) * units[found[2]]


if __name__ == '__main__':
    run('tools/plan.py', main)
