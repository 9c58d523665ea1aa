"""Print what training each Sapiens size holds in memory, before activations.

Counts the parameters of the shipped models; nothing is allocated.
"""

import argparse
from pathlib import Path

import torch
from mmengine.config import Config
from mmengine.registry import init_default_scope

import sapiens_plugin.registry  # noqa: F401  (makes the names known)

CONFIG = Path(__file__).parents[1] / 'configs' / 'sapiens1b_gtx1650.py'
BYTES = 4  # fp32
ROWS = [
    ('0.3B', 'sapiens_0.3b', 1024, -1),
    ('0.6B', 'sapiens_0.6b', 1280, -1),
    ('1B', 'sapiens_1b', 1536, -1),
    ('1B, last 16 layers', 'sapiens_1b', 1536, 24),
    ('2B', 'sapiens_2b', 1920, -1),
]


def main() -> None:
    """Print the table as Markdown."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument('--config', default=CONFIG)
    cfg = Config.fromfile(parser.parse_args().config)
    init_default_scope('mmpose')
    from mmpose.registry import MODELS

    print('| | weights | gradients | moments | sum |\n|---|---|---|---|---|')
    for title, arch, dims, frozen_stages in ROWS:
        cfg.model.backbone.update(arch=arch, frozen_stages=frozen_stages)
        cfg.model.head.in_channels = dims
        with torch.device('meta'):
            model = MODELS.build(cfg.model)
        every = BYTES * sum(p.numel() for p in model.parameters())
        trained = BYTES * sum(p.numel() for p in model.parameters() if p.requires_grad)
        figures = (every, trained, 2 * trained, every + 3 * trained)
        print(f'| {title} |', *(f'{figure / 1e9:.1f} GB |' for figure in figures))


if __name__ == '__main__':
    main()
