"""Measure the host memory of a streamed training job, by doing it on a CPU.

``tools/train.py`` and ``tools/test.py`` run the config as it is: the real model, from a
TorchScript archive of the real size (a stand-in unless one is given), annotations and
detections as many as COCO's, two epochs with validation and checkpoint, the second one
resumed. What is made smaller is an epoch (--steps batches) and the pictures
(--img-size), because a CPU would take hours. So left out are the pictures themselves,
some 0.15 GB at 384×288 in batches of 32, and what only a job on a GPU has: its driver's
buffers, pinned memory, activations that are kept in host memory.

All processes are looked at all the time, and what they share is counted once
(tree_memory.py). Linux only.
"""

import argparse
import dataclasses
import json
import os
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

from arch_option import add_arch
from mmengine.config import Config
from mmengine.hooks import Hook
from mmengine.registry import DATA_SAMPLERS, HOOKS
from tree_memory import Watched, watched

from sapiens_plugin.core.vit.architectures import get_architecture
from sapiens_plugin.datasets.samplers.resumable_sampler import ResumableSampler

REPO = Path(__file__).resolve().parents[1]
PATHS = str(REPO), str(REPO / 'benchmarks')  # of the job's modules
GB = 1e9
# Images, persons, and how many of them have keypoints.
COCO = dict(train=(118_287, 262_465, 149_813), val=(5_000, 11_004, 6_352))
DETECTIONS = 104_125
PARTS = {
    'train': ('train.py', ['train_cfg.max_epochs=1']),
    'resume': ('train.py', ['train_cfg.max_epochs=2', 'resume=True']),
    'test': ('test.py', []),
}


@DATA_SAMPLERS.register_module()
class FirstFew(ResumableSampler):
    """Some samples of a large data set, in the order of the whole."""

    def __init__(self, dataset, *, count: int, **kwargs):
        super().__init__(dataset, **kwargs)
        self.shorten(count)

    def __len__(self) -> int:
        return self.num_samples


def _note(stage: str) -> Callable[..., None]:
    return lambda hook, *args, **kwargs: hook.path.write_text(stage)


@HOOKS.register_module()
class StageNote(Hook):
    """Writes down what the run is doing, for who looks at its memory."""

    priority = 'HIGHEST'
    before_train_iter = _note('step')
    before_val_epoch = _note('validation')
    before_test_epoch = _note('test')
    before_save_checkpoint = _note('save')

    def __init__(self, path: str):
        self.path = Path(path)


def main() -> None:
    """Make the inputs, run the parts, and print a table."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument(
        '--config', type=Path, default=REPO / 'configs' / 'sapiens1b_gtx1650.py'
    )
    parser.add_argument('--mode', default='compact', choices=['compact', 'exact'])
    parser.add_argument('--parts', nargs='+', default=[*PARTS], choices=PARTS)
    add_arch(parser, default=None)
    parser.add_argument('--weights', type=Path, help='TorchScript archive to start on')
    parser.add_argument('--scale', type=int, default=1, help='divides COCO')
    parser.add_argument('--img-size', type=int, nargs=2, default=(64, 48))
    parser.add_argument('--batch', type=int, default=4)
    parser.add_argument('--steps', type=int, default=4, help='batches in an epoch')
    parser.add_argument('--work-dir', type=Path, help='keep files there')
    parser.add_argument('--json', type=Path, help='write the figures there, too')
    args = parser.parse_args()
    with tempfile.TemporaryDirectory() as scratch:
        folder = (args.work_dir or Path(scratch)).resolve()
        folder.mkdir(parents=True, exist_ok=True)
        cfg = Config.fromfile(args.config)
        if args.arch:
            cfg.model.backbone.arch = args.arch
            cfg.model.head.in_channels = get_architecture(args.arch).embed_dims
        weights = args.weights or folder / 'stand_in.pt2'
        make_inputs(folder, weights, cfg.model.backbone.arch, args.scale)
        cfg.model.backbone.init_cfg.checkpoint = str(weights.resolve())
        shrink(cfg, args, folder)
        text = '\n'.join(f'{name} = {value!r}' for name, value in cfg.to_dict().items())
        (folder / 'job.py').write_text(text, encoding='utf-8')
        figures = {part: run(part, folder) for part in args.parts}
    print_table(figures)
    if args.json:
        found = {name: dataclasses.asdict(one) for name, one in figures.items()}
        args.json.write_text(json.dumps(found, indent=1), encoding='utf-8')


def print_table(figures: dict[str, Watched]) -> None:
    """Print the peak of each stage of each part, and the highest of all."""
    print('| part | stage | all, GB | of it files | main process | its workers |')
    print('|---|---|---|---|---|---|')
    for part, found in figures.items():
        for stage, peak in found.peaks.items():
            main, *workers = (f'{share / GB:.2f}' for share in peak.shares)
            print(
                f'| {part} | {stage} | {peak.total / GB:.2f} | {peak.files / GB:.2f} '
                f'| {main} | {", ".join(workers) or "–"} |'
            )
    highest = max(found.peak.total for found in figures.values())
    missed = max(found.missed for found in figures.values())
    print(f'\nAt most {highest / GB:.2f} GB in all; between two looks the main process')
    print(f'had at most {missed / GB:.2f} GB more than at any look.')


def make_inputs(folder: Path, weights: Path, arch: str | dict, scale: int) -> None:
    """Write what is missing: an archive, a few pictures, annotations of very many."""
    from sapiens_plugin.workbench.demo.make_demo import make_demo
    from sapiens_plugin.workbench.demo.stand_in import make_stand_in

    if not weights.is_file():
        make_stand_in(weights, arch=arch)
    root = folder / 'coco'
    if (root / 'detections.json').is_file():
        return
    demo = make_demo(root, num_train=8, num_val=8)
    for split, counts in COCO.items():
        path = demo.annotations(split)
        coco = json.loads(path.read_text(encoding='utf-8'))
        enlarge(coco, *(count // scale for count in counts))
        path.write_text(json.dumps(coco), encoding='utf-8')
    images = COCO['val'][0] // scale
    found = [
        dict(image_id=i % images, category_id=1, bbox=[8.1, 8.2, 64.3, 96.4], score=0.9)
        for i in range(DETECTIONS // scale)
    ]
    (root / 'detections.json').write_text(json.dumps(found), encoding='utf-8')


def enlarge(coco: dict, images: int, persons: int, keypoints: int) -> None:
    """Repeat pictures and persons; the last persons are without keypoints."""
    pictures, people = coco['images'], coco['annotations']
    coco['images'] = [dict(pictures[i % len(pictures)], id=i) for i in range(images)]
    outline = [[round(100 + i / 7, 2) for i in range(60)]]  # of a polygon in COCO
    coco['annotations'] = [
        dict(people[i % len(people)], id=i, image_id=i % images, segmentation=outline)
        for i in range(persons)
    ]
    for person in coco['annotations'][keypoints:]:
        person.update(keypoints=[0] * 51, num_keypoints=0)


def shrink(cfg: Config, args: argparse.Namespace, folder: Path) -> None:
    """Make pictures small and epochs short; leave everything else."""
    height, width = args.img_size
    codec = dict(
        type='UDPHeatmap',
        input_size=(width, height),
        heatmap_size=(width // 4, height // 4),
        sigma=1,
    )
    cfg.work_dir = str(folder / 'run')
    cfg.model.mode = args.mode
    cfg.model.vram_budget = None  # is about a GPU
    cfg.model.backbone.img_size = (height, width)
    cfg.model.head.decoder = codec
    cfg.default_hooks.checkpoint.interval = 1
    cfg.param_scheduler = []  # they are for longer jobs, and hold nothing
    # The second phase takes more.
    cfg.default_hooks.phase_switch.warmup_epochs = 0
    cfg.custom_imports.imports.append('host_memory')
    cfg.custom_hooks = [dict(type='StageNote', path=str(folder / 'stage'))]
    for split in ('train', 'val', 'test'):
        loader = cfg[f'{split}_dataloader']
        name = 'train' if split == 'train' else 'val'
        loader.dataset.update(
            data_root=str(folder / 'coco'),
            ann_file=f'annotations/person_keypoints_{name}.json',
            data_prefix=dict(img=f'images/{name}/'),
        )
        if 'bbox_file' in loader.dataset:
            loader.dataset.bbox_file = str(folder / 'coco' / 'detections.json')
        for step in loader.dataset.pipeline:
            if step.type == 'TopdownAffine':
                step.input_size = codec['input_size']
            if step.type == 'GenerateTarget':
                step.encoder = codec
        loader.batch_size = args.batch
        loader.sampler = dict(
            type='FirstFew', count=args.batch * args.steps, shuffle=split == 'train'
        )


def run(part: str, folder: Path) -> Watched:
    """Run a tool, and look at its memory until it ends."""
    tool, options = PARTS[part]
    command = [sys.executable, str(REPO / 'tools' / tool), str(folder / 'job.py')]
    if part == 'test':
        command.append(str(folder / 'run' / 'epoch_2.pth'))
    if options:
        command += ['--cfg-options', *options]
    note, log = folder / 'stage', folder / f'{part}.log'
    note.write_text('start')
    start = time.monotonic()
    with log.open('w', encoding='utf-8') as file:
        found = watched(
            command,
            stage=note.read_text,
            stdout=file,
            stderr=file,
            env={**os.environ, 'PYTHONPATH': os.pathsep.join(PATHS)},
        )
    if found.returncode:
        sys.exit(f'{part} failed; the end of its output:\n{log.read_text()[-3000:]}')
    print(f'{part} took {time.monotonic() - start:.0f} s', file=sys.stderr)
    return found


if __name__ == '__main__':
    main()
