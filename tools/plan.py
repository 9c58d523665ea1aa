"""Plan a job: what memory, disk and hours it will take, and what else would fit."""

from bootstrap import enter_environment

enter_environment()

import argparse  # noqa: E402  (only there in the environment, as what follows)
import json  # noqa: E402
import re  # noqa: E402

from sapiens_plugin.command import run  # noqa: E402
from sapiens_plugin.errors import InputError  # noqa: E402
from sapiens_plugin.planning.cards import CARDS, get_card  # noqa: E402

EXAMPLES = """examples:
  python tools/plan.py configs/sapiens1b_gtx1650.py --gpu gtx1650-maxq
  python tools/plan.py configs/sapiens1b_gtx1650.py --gpu rtx3060 --json
  python tools/plan.py configs/sapiens1b_gtx1650.py --gpu gtx1650-maxq \\
      --within 7d --vram 4GiB --write configs/mine.py
"""
_HOURS = dict(h=1, d=24)
_MIB = dict(mib=1, gib=1024, mb=1e6 / 2**20, gb=1e9 / 2**20)


def main() -> None:
    """Plan a job, print the plan, and write the best one if asked."""
    parser = argparse.ArgumentParser(
        prog='tools/plan.py',
        description=(
            'Compute what a job will take: GPU memory, host memory, disk and hours, '
            'and the nearest jobs that would fit or end sooner. Without --gpu this '
            "machine's GPU, or else its CPU, is measured for a few seconds."
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
        '--within', metavar='TIME', help='search for the best job that ends in 7d, 176h'
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
    searching = hours is not None or vram is not None
    if args.write and not searching:
        raise InputError(
            '--write needs a limit to search in: --within, --vram or both.'
        )
    card = get_card(args.gpu) if args.gpu else None

    # Slow to import, so that what is wrong above is said at once.
    from sapiens_plugin.job_config import load_config, read_job, stage_measurer
    from sapiens_plugin.job_writer import write_config
    from sapiens_plugin.planning.alternatives import best_within, nearest_jobs
    from sapiens_plugin.planning.machine_probe import probe_machine
    from sapiens_plugin.planning.plan import make_plan
    from sapiens_plugin.planning.plan_report import as_dict, as_text

    cfg = load_config(args.config)
    job = read_job(cfg)
    measure = stage_measurer(cfg)
    card = card or probe_machine()
    if searching:
        limit = None if vram is None else int(vram)
        plan = best_within(job, card, measure, hours=hours, vram_mib=limit)
    else:
        plan = make_plan(job, card, measure)
    if args.write:
        write_config(args.write, cfg, job, plan)
    alternatives = nearest_jobs(plan, measure)
    if args.json:
        print(json.dumps(as_dict(plan, alternatives), indent=2))
        return
    print(as_text(plan, alternatives))
    if args.write:
        print(f'\nWritten to {args.write}')


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
