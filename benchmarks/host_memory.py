"""Measure the host memory of a streamed training job, by doing it.

The real model, from a real-size archive (a stand-in of the same structure unless one is
given), with an annotation file as large as COCO's, through start, steps, validation,
checkpoint, resume and test. Pictures are small (--img-size), for a CPU would take hours
at full size: what a GPU holds at full size is not host memory.

Every part runs in a process of its own; its peak resident set is the kernel's figure.
"""

import argparse
import json
import multiprocessing
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path

REPO = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(REPO))

GB = 1e9
COCO = dict(images=118_287, annotations=262_465, keypoints=149_813)


def main() -> None:
    """Make the inputs, run the parts, and print a table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument('--config', default=REPO / 'configs' / 'sapiens1b_gtx1650.py')
    parser.add_argument('--mode', default='compact', choices=['compact', 'exact'])
    parser.add_argument(
        '--weights', type=Path, help='a TorchScript archive to start on'
    )
    parser.add_argument('--img-size', type=int, nargs=2, default=(64, 48))
    parser.add_argument('--batch', type=int, default=4)
    parser.add_argument('--steps', type=int, default=2)
    parser.add_argument('--work-dir', type=Path, help='keep files there')
    parser.add_argument('--json', type=Path, help='write the figures there, too')
    parser.add_argument('--part', help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.part:
        run_part(args)
        return
    with tempfile.TemporaryDirectory() as scratch:
        args.work_dir = args.work_dir or Path(scratch)
        args.work_dir.mkdir(parents=True, exist_ok=True)
        if args.weights is None:
            args.weights = args.work_dir / 'stand_in.pt2'
        make_inputs(args)
        rows = [watch(args, part) for part in ('train', 'resume', 'test')]
    print('| part | peak, GB | of it files | each worker, GB | seconds |')
    print('|---|---|---|---|---|')
    for row in rows:
        print(
            '| {part} | {peak_gb:.2f} | {file_gb:.2f} | {worker_gb:.2f} | '
            '{seconds:.0f} |'.format(**row)
        )
    if args.json:
        args.json.write_text(json.dumps(rows, indent=2), encoding='utf-8')


def make_inputs(args: argparse.Namespace) -> None:
    """Write the archive, a few pictures and the annotation file, where missing."""
    from mmengine.config import Config

    from sapiens_plugin.workbench.demo.make_demo import make_demo
    from sapiens_plugin.workbench.demo.stand_in import make_stand_in

    if not args.weights.is_file():
        arch = Config.fromfile(args.config).model.backbone.arch
        # In a process of its own: it holds the model and its trace.
        context = multiprocessing.get_context('spawn')
        process = context.Process(
            target=make_stand_in, args=(args.weights,), kwargs=dict(arch=arch)
        )
        process.start()
        process.join()
    root = args.work_dir / 'coco'
    if not root.is_dir():
        demo = make_demo(root, num_train=8, num_val=4)
        path = demo.root / 'annotations' / 'person_keypoints_train.json'
        small = json.loads(path.read_text(encoding='utf-8'))
        path.write_text(json.dumps(enlarge(small)), encoding='utf-8')


def enlarge(coco: dict) -> dict:
    """Repeat pictures and persons until there are as many as in COCO."""
    images, people = coco['images'], coco['annotations']
    by_image = {image['id']: i for i, image in enumerate(images)}
    coco['images'] = [
        dict(images[i % len(images)], id=i) for i in range(COCO['images'])
    ]
    coco['annotations'] = []
    outline = [[round(100 + i / 7, 2) for i in range(60)]]  # of a polygon in COCO
    for i in range(COCO['annotations']):
        person = dict(people[i % len(people)], id=i, segmentation=outline)
        picture = by_image[person['image_id']]
        turns = COCO['images'] // len(images)
        person['image_id'] = picture + i % turns * len(images)
        if i >= COCO['keypoints']:
            person.update(keypoints=[0] * 51, num_keypoints=0)
        coco['annotations'].append(person)
    return coco


def watch(args: argparse.Namespace, part: str) -> dict:
    """Run a part in a child, and look at it and its workers until it ends."""
    command = [sys.executable, __file__, '--part', part, *forwarded(args)]
    environment = dict(os.environ, OMP_WAIT_POLICY='PASSIVE')
    start = time.monotonic()
    peak = files = worker = 0.0
    log = args.work_dir / f'{part}.log'
    with log.open('w', encoding='utf-8') as file:
        child = subprocess.Popen(command, stdout=file, stderr=file, env=environment)
        while child.poll() is None:
            status = read_status(child.pid)
            peak = max(peak, status.get('VmHWM', 0))
            files = max(files, status.get('RssFile', 0))
            workers = children(child.pid)
            worker = max([worker, *(read_smaps(pid) for pid in workers)])
            time.sleep(0.05)
    if child.returncode:
        sys.exit(f'{part} failed; the end of its output:\n{log.read_text()[-3000:]}')
    return dict(
        part=part,
        peak_gb=peak / GB,
        file_gb=files / GB,
        worker_gb=worker / GB,
        seconds=time.monotonic() - start,
    )


def forwarded(args: argparse.Namespace) -> list[str]:
    """Return the arguments a child needs."""
    height, width = map(str, args.img_size)
    return [
        *('--config', str(args.config), '--mode', args.mode),
        *('--weights', str(args.weights), '--work-dir', str(args.work_dir)),
        *('--img-size', height, width),
        *('--batch', str(args.batch), '--steps', str(args.steps)),
    ]


def read_status(pid: int) -> dict[str, int]:
    """Return the sizes that the kernel tells of a process, in bytes."""
    try:
        lines = Path(f'/proc/{pid}/status').read_text().splitlines()
    except (FileNotFoundError, ProcessLookupError):
        return {}
    sizes = (line.split() for line in lines if line.endswith(' kB'))
    return {name.rstrip(':'): 1024 * int(size) for name, size, _ in sizes}


def read_smaps(pid: int) -> int:
    """Return what a process has for itself alone, in bytes."""
    try:
        lines = Path(f'/proc/{pid}/smaps_rollup').read_text().splitlines()
    except (FileNotFoundError, ProcessLookupError, PermissionError):
        return 0
    return 1024 * sum(
        int(line.split()[1]) for line in lines if line.startswith('Private_')
    )


def children(pid: int) -> list[int]:
    """Return the processes that a process has started."""
    try:
        return [
            int(child)
            for child in Path(f'/proc/{pid}/task/{pid}/children').read_text().split()
        ]
    except (FileNotFoundError, ProcessLookupError):
        return []


def run_part(args: argparse.Namespace) -> None:
    """Train, resume or test, in the stock Runner."""
    from mmengine.config import Config
    from mmengine.registry import DATA_SAMPLERS
    from mmengine.runner import Runner
    from torch.utils.data import Sampler

    @DATA_SAMPLERS.register_module()
    class FirstFewSampler(Sampler):
        """The first samples of a large data set, in order."""

        def __init__(self, dataset, *, num_samples, **_):
            self.num_samples = num_samples

        def __iter__(self):
            return iter(range(self.num_samples))

        def __len__(self):
            return self.num_samples

        def set_epoch(self, epoch):
            pass

    cfg = Config.fromfile(args.config)
    shrink(cfg, args)
    if args.part == 'test':
        cfg.load_from = str(args.work_dir / 'run' / 'epoch_2.pth')
        Runner.from_cfg(cfg).test()
        return
    cfg.train_cfg.max_epochs = 1 if args.part == 'train' else 2
    cfg.resume = args.part == 'resume'
    Runner.from_cfg(cfg).train()


def shrink(cfg, args: argparse.Namespace) -> None:
    """Make the pictures small and the epochs short; leave everything else."""
    height, width = args.img_size
    codec = dict(
        type='UDPHeatmap',
        input_size=(width, height),
        heatmap_size=(width // 4, height // 4),
        sigma=1,
    )
    cfg.model.mode = args.mode
    cfg.model.vram_budget = None
    cfg.model.backbone.update(img_size=(height, width))
    cfg.model.backbone.init_cfg.checkpoint = str(args.weights)
    cfg.model.head.decoder = codec
    cfg.work_dir = str(args.work_dir / 'run')
    cfg.default_hooks.checkpoint.interval = 1
    cfg.visualizer.vis_backends = [dict(type='LocalVisBackend')]
    cfg.custom_hooks[-1].warmup_epochs = 0
    cfg.param_scheduler = []  # they are for longer jobs, and hold nothing
    sampler = dict(type='FirstFewSampler', num_samples=args.batch * args.steps)
    for split in ('train', 'val', 'test'):
        loader = cfg[f'{split}_dataloader']
        name = 'train' if split == 'train' else 'val'
        loader.dataset.update(
            data_root=str(args.work_dir / 'coco'),
            ann_file=f'annotations/person_keypoints_{name}.json',
            data_prefix=dict(img=f'images/{name}/'),
            bbox_file=None,
        )
        for step in loader.dataset.pipeline:
            if step.type == 'TopdownAffine':
                step.input_size = codec['input_size']
            if step.type == 'GenerateTarget':
                step.encoder = codec
    cfg.train_dataloader.update(batch_size=args.batch, sampler=sampler)


if __name__ == '__main__':
    main()
