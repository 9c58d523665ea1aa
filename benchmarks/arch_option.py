"""The option ``--arch`` of several benchmarks."""

import argparse
import json


def add_arch(parser: argparse.ArgumentParser, default: str | None) -> None:
    """Let a command take a model: a published name, or the numbers of a smaller one."""
    parser.add_argument(
        '--arch',
        type=lambda text: json.loads(text) if text.startswith('{') else text,
        default=default,
        help='a published name, or a JSON object with the numbers of a smaller model',
    )
