"""docs/own_data.md: its code, run on an export such as annotation tools write."""

import json
import re
import runpy
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

import sapiens_plugin.registry  # noqa: F401  (first: it repairs what is imported)
from sapiens_plugin.core.coco.annotations import keypoint_images
from sapiens_plugin.jobs.agreement import disagreements
from sapiens_plugin.jobs.read_config import count_persons, load_config
from sapiens_plugin.jobs.schedule import schedule_notes

REPO = Path(__file__).parents[1]
PAGE = (REPO / 'docs' / 'own_data.md').read_text('utf-8')
SPLIT, KEYPOINTS, JOB, FEW, SEVERAL = re.findall(
    r'```python\n(.*?)```', PAGE, re.DOTALL
)
# Shoulders, elbows and wrists of COCO.
CHOSEN = (5, 6, 7, 8, 9, 10)
NAMES = [
    f'{side}_{part}'
    for part in ('shoulder', 'elbow', 'wrist')
    for side in ('left', 'right')
]


def export(demo, root):
    """Write the demo's people as an annotation tool exports them."""
    content = json.loads(demo.annotations('train').read_text('utf-8'))
    for number, image in enumerate(content['images']):
        name = f'camera_{number % 2 + 1}/{number:04d}.jpg'
        target = root / 'images' / name
        target.parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(demo.root / 'images' / 'train' / image['file_name'], target)
        image['file_name'] = name
    for person in content['annotations']:
        flat = person['keypoints']
        person['keypoints'] = [v for i in CHOSEN for v in flat[3 * i : 3 * i + 3]]
        person['num_keypoints'] = sum(v > 0 for v in person['keypoints'][2::3])
        person['category_id'] = 2
    content['categories'] = [dict(id=2, name='worker', keypoints=NAMES, skeleton=[])]
    (root / 'annotations.json').write_text(json.dumps(content), encoding='utf-8')


@pytest.fixture
def workers(demo, tmp_path, monkeypatch):
    """A checkout after steps 1, 3 and 4 of the page; its own config is of toy size."""
    export(demo, tmp_path / 'data' / 'workers')
    monkeypatch.chdir(tmp_path)
    (tmp_path / 'split_workers.py').write_text(SPLIT, encoding='utf-8')
    runpy.run_path('split_workers.py')
    configs = tmp_path / 'configs'
    configs.mkdir()
    (configs / 'workers_keypoints.py').write_text(KEYPOINTS, encoding='utf-8')
    (configs / 'workers.py').write_text(JOB, encoding='utf-8')
    (configs / 'few.py').write_text(FEW, encoding='utf-8')
    several = "_base_ = 'workers.py'\n" + SEVERAL
    (configs / 'several.py').write_text(several, encoding='utf-8')
    (configs / 'sapiens1b_gtx1650.py').write_text(
        f'_base_ = {str(REPO / "configs" / "sapiens_tiny_demo.py")!r}\n'
        'model = dict(backbone=dict(init_cfg=None))\n'
        f'train_dataloader = dict(batch_size=4, num_workers=0)\n'
        'val_dataloader = dict(num_workers=0)\ntest_dataloader = dict(num_workers=0)\n'
        'train_cfg = dict(max_epochs=2, val_interval=1)\nparam_scheduler = None\n'
        f'work_dir = {str(tmp_path / "work")!r}\n',
        encoding='utf-8',
    )
    return configs / 'workers.py'


def call(*arguments):
    return subprocess.run(
        [sys.executable, *map(str, arguments)],
        capture_output=True,
        encoding='utf-8',
        timeout=300,
    )


def test_the_page_names_what_is_there():
    for command in re.findall(r'python3 (tools/\w+\.py)', PAGE):
        assert (REPO / command).is_file()
    for name in re.findall(r"_base_ = '(.*?)'", JOB):
        assert (REPO / 'configs' / name).is_file()


def test_the_parts_are_fit_to_train_on(workers):
    parts = []
    for name in ('train', 'val'):
        path = Path('data', 'workers', f'{name}.json')
        parts.append({i['id'] for i in json.loads(path.read_text('utf-8'))['images']})
        done = call(
            REPO / 'tools' / 'check_dataset.py', path, Path('data/workers/images')
        )
        assert done.returncode == 0, done.stdout + done.stderr
    train, val = parts
    assert len(train) == 22 and len(val) == 2 and not train & val


def test_the_job_is_ready_and_planned(workers):
    done = call(REPO / 'tools' / 'check_setup.py', workers, '--json')
    checks = json.loads(done.stdout)['checks']
    failed = [check for check in checks if check['status'] == 'fail']
    assert done.returncode == 0, failed
    done = call(REPO / 'tools' / 'plan.py', workers, '--json')
    assert 'persons are taken' not in done.stdout


def test_with_few_persons_all_that_counts_epochs_goes_together(workers):
    cfg = load_config(workers.with_name('few.py'))
    assert schedule_notes(cfg, epoch_length=50) == []
    assert 'WarmupLR' in schedule_notes(cfg, epoch_length=9)[0]


def test_several_files_are_trained_on(workers):
    shutil.copy('data/workers/val.json', 'data/workers/more.json')
    cfg = load_config(workers.with_name('several.py'))
    assert list(disagreements(cfg, 'train', 'val', 'test')) == []
    more = keypoint_images('data/workers/more.json')
    assert count_persons(cfg).train == sum(
        sum(keypoint_images(f'data/workers/{name}.json').values())
        for name in ('train', 'more')
    )
    assert sum(more.values()) > 0


@pytest.fixture
def run(launched):
    """Run a tool in this process; return what it printed."""

    def run(tool, *arguments):
        code, out, err = launched(tool, *arguments)
        assert not code, err
        return out

    return run


def test_it_trains_and_is_judged_by_its_own_keypoints(workers, run, monkeypatch):
    done = call(REPO / 'tools' / 'train.py', workers)
    assert done.returncode == 0 and 'coco/AP: ' in done.stdout, done.stderr
    (best,) = Path('work').glob('best_coco_AP_epoch_*.pth')
    page = Path('work', 'report.html').read_text('utf-8')
    assert 'left wrist' in page and 'left ankle' not in page

    # With the truth as its predictions, AP is 1: ids, category and sigmas are right.
    from sapiens_plugin.streamed.pose_estimator import TopdownPoseEstimator

    def predict(self, inputs, data_samples):
        for sample in data_samples:
            true = sample.gt_instances
            sample.pred_instances = true.clone()
            sample.pred_instances.keypoint_scores = true.keypoints_visible * 0 + 1
        return data_samples

    with monkeypatch.context() as patch:
        patch.setattr(TopdownPoseEstimator, 'predict', predict)
        assert 'coco/AP: 1.000000' in run('test', workers, best)

    # Pictures without annotations, and a detector's boxes of its own category.
    root = Path('data', 'workers')
    content = json.loads((root / 'val.json').read_text('utf-8'))
    boxes = [
        dict(image_id=p['image_id'], category_id=2, bbox=p['bbox'], score=0.9)
        for p in content.pop('annotations')
    ]
    (root / 'new.json').write_text(json.dumps(content), encoding='utf-8')
    (root / 'boxes.json').write_text(json.dumps(boxes), encoding='utf-8')
    ((evaluator, results),) = re.findall(
        r'`(test_evaluator = dict\(.*?\))`: .*?`(work_dirs\S+\.json)`', PAGE, re.DOTALL
    )
    config = workers.with_name('new.py')
    dataset = dict(ann_file='new.json', bbox_file=str(root / 'boxes.json'))
    config.write_text(
        f"_base_ = 'workers.py'\n{evaluator}\n"
        f'test_dataloader = dict(dataset={dataset})\n',
        encoding='utf-8',
    )
    run('test', config, best)
    found = json.loads(Path(results).read_text('utf-8'))
    assert len(found) == len(boxes) and len(found[0]['keypoints']) == 18
