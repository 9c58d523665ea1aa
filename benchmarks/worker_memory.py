"""Measure the host memory of data-loading workers, by how they are started.

The loaders of a real job (its data sets, its pipelines, its workers), with annotation
files like COCO's and a few drawn pictures. Each row is a process of its own, which
loads some hundred persons for training and for validation. The figures are those of the
largest worker: USS is what it has for itself alone, and PSS counts its share of what
others have as well. "All" is the PSS of the program and its four workers together.

``fork`` is how Linux starts workers, ``spawn`` how Windows does; both are measured on
Linux.
"""

import argparse
import json
import os
import subprocess
import sys
import tempfile
from pathlib import Path

import psutil

REPO = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(REPO))

MB = 1e6
COLUMNS = ('method', 'persons', 'annotations_mb', 'uss_mb', 'pss_mb', 'all_mb')


def main() -> None:
    """Print a table as Markdown."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument('--config', default=REPO / 'configs' / 'sapiens1b_gtx1650.py')
    parser.add_argument(
        '--persons', type=int, nargs='+', default=[100, 40_000, 150_000]
    )
    parser.add_argument('--methods', nargs='+', default=['fork', 'spawn'])
    parser.add_argument('--samples', type=int, default=600, help='persons to load')
    parser.add_argument('--json', type=Path, help='write the figures there, too')
    parser.add_argument('--part', type=Path, help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.part:
        print(json.dumps(measure(args, args.part)))
        return
    rows = [row(args, method, n) for n in args.persons for method in args.methods]
    print('| started by | persons | annotations, MB | a worker: USS | PSS | all |')
    print('|---|---|---|---|---|---|')
    for each in rows:
        print('|', ' | '.join(f'{each[name]}' for name in COLUMNS), '|')
    if args.json:
        args.json.write_text(json.dumps(rows, indent=2), encoding='utf-8')


def row(args: argparse.Namespace, method: str, persons: int) -> dict:
    """Measure in a child, which nothing before it has loaded anything into."""
    with tempfile.TemporaryDirectory() as folder:
        command = [sys.executable, __file__, '--part', folder, '--methods', method]
        command += ['--persons', str(persons), '--samples', str(args.samples)]
        command += ['--config', str(args.config)]
        environment = dict(os.environ, OMP_WAIT_POLICY='PASSIVE')
        child = subprocess.run(
            command, stdout=subprocess.PIPE, env=environment, check=True
        )
    return json.loads(child.stdout.splitlines()[-1])


def measure(args: argparse.Namespace, folder: Path) -> dict:
    """Load persons with the workers of a job; return what all of them take."""
    from mmengine.config import Config
    from mmengine.evaluator import Evaluator
    from mmengine.registry import init_default_scope
    from mmengine.runner import Runner
    from mmengine.utils.dl_utils import set_multi_processing

    import sapiens_plugin.registry  # noqa: F401  (makes the names known)

    (method,), (persons,) = args.methods, args.persons
    paths = make_inputs(folder, persons)
    cfg = Config.fromfile(args.config)
    init_default_scope('mmpose')
    set_multi_processing(**{**cfg.env_cfg.mp_cfg, 'mp_start_method': method})
    loaders = {}
    for split in ('train', 'val'):
        loader = cfg[f'{split}_dataloader']
        loader.dataset.update(
            data_root=str(folder),
            ann_file=str(paths[split]),
            data_prefix=dict(img=f'images/{split}/'),
        )
        loaders[split] = Runner.build_dataloader(loader, seed=0)
    # What the parent has of the truth, its workers have, too, if they are forked.
    evaluator = Evaluator([dict(type='CocoMetric', ann_file=str(paths['val']))])
    evaluator.dataset_meta = loaders['val'].dataset.metainfo
    iterators = [load(loader, args.samples) for loader in loaders.values()]
    workers = [memory(worker.pid) for each in iterators for worker in each._workers]
    parent = memory(os.getpid())
    return dict(
        method=method,
        persons=persons,
        annotations_mb=round(loaders['train'].dataset.data_bytes.nbytes / MB),
        uss_mb=round(max(each.uss for each in workers) / MB),
        pss_mb=round(max(each.pss for each in workers) / MB),
        all_mb=round(sum(each.pss for each in (parent, *workers)) / MB),
    )


def load(loader, samples: int):
    """Load so many samples; return the iterator, whose workers stay."""
    iterator = iter(loader)
    batches = min(-(-samples // loader.batch_size), len(loader))
    for _ in range(batches):
        next(iterator)
    return iterator


def memory(pid: int):
    """Return the sizes of a process, bytes."""
    return psutil.Process(pid).memory_full_info()


def make_inputs(folder: Path, persons: int) -> dict[str, Path]:
    """Draw pictures; write files for so many persons, and 4% as many to validate on."""
    from sapiens_plugin.workbench.demo.make_demo import make_demo

    demo = make_demo(folder, num_train=8, num_val=8)
    paths = {}
    for split, number in (('train', persons), ('val', max(persons // 25, 8))):
        paths[split] = demo.annotations(split)
        content = json.loads(paths[split].read_text(encoding='utf-8'))
        paths[split].write_text(json.dumps(enlarge(content, number)), encoding='utf-8')
    return paths


def enlarge(coco: dict, persons: int) -> dict:
    """Repeat a file's persons, two on a picture, with outlines as long as COCO's."""
    images, people = coco['images'], coco['annotations']
    names = {image['id']: image for image in images}
    outline = [[round(100 + i / 7, 2) for i in range(60)]]
    coco['images'], coco['annotations'] = [], []
    for i in range(persons):
        person = people[i // 2 % len(people)]
        if i % 2 == 0:
            coco['images'].append(dict(names[person['image_id']], id=i // 2 + 1))
        coco['annotations'].append(
            dict(person, id=i + 1, image_id=i // 2 + 1, segmentation=outline)
        )
    return coco


if __name__ == '__main__':
    main()
