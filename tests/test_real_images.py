"""The whole chain on real photographs and real COCO annotations."""

import contextlib
import io
import json
import subprocess
import sys

import pytest
from pycocotools.coco import COCO
from pycocotools.cocoeval import COCOeval

# A small ViT is made to fit twelve people by heart, under flips and jittered boxes.
# What that takes is that every step from the file to the AP does its part: boxes,
# crop, flip, encoding, decoding, the way back into the picture, scores.
CONFIG = """
_base_ = {base!r}
from sapiens_plugin.recipe import on_data, recipe, two_phases

here = dict(num_workers=0, persistent_workers=False)
globals().update(
    recipe(
        _base_,
        on_data(root={data!r}, train='test_coco.json', val='test_coco.json', images=''),
        # One step an epoch.
        two_phases(
            warmup_epochs=10, max_epochs=400, optimizer_steps=30, start_factor=0.01
        ),
        dict(
            model=dict(backbone=dict(init_cfg=None)),
            train_dataloader=dict(batch_size=12, **here),
            val_dataloader=here,
            test_dataloader=here,
            train_cfg=dict(val_interval=1000),
            default_hooks=dict(checkpoint=dict(interval=1000, save_best=None)),
        ),
    )
)
"""


def call(*command):
    answer = subprocess.run(
        [sys.executable, *map(str, command)],
        timeout=900,
        capture_output=True,
        text=True,
        encoding='utf-8',
    )
    assert answer.returncode == 0, answer.stderr[-3000:]


def pycocotools_ap(annotations, results) -> float:
    with contextlib.redirect_stdout(io.StringIO()):
        truth = COCO(str(annotations))
        evaluation = COCOeval(truth, truth.loadRes(str(results)), 'keypoints')
        evaluation.evaluate()
        evaluation.accumulate()
        evaluation.summarize()
    return evaluation.stats[0]


@pytest.mark.slow  # 400 steps and two tests: a minute of two cores
def test_a_small_model_fits_real_photographs(coco_mini, repo, tmp_path):
    config = tmp_path / 'real.py'
    base = (repo / 'configs' / 'sapiens_tiny_demo.py').as_posix()
    config.write_text(CONFIG.format(base=base, data=coco_mini.as_posix()), 'utf-8')
    work = tmp_path / 'work'
    call(repo / 'tools' / 'train.py', config, '--work-dir', work)

    detections = coco_mini / 'test_coco_det_AP_H_56.json'
    ap = {}
    for name, boxes in [('true', ''), ('detected', detections.as_posix())]:
        out, prefix = tmp_path / f'{name}.json', tmp_path / name
        call(
            repo / 'tools' / 'test.py', config, work / 'epoch_400.pth',
            '--work-dir', tmp_path / 'tested', '--out', out, '--cfg-options',
            f'test_dataloader.dataset.bbox_file={boxes}',
            f'test_evaluator.outfile_prefix={prefix.as_posix()}',
        )  # fmt: skip
        ap[name] = json.loads(out.read_text('utf-8'))['coco/AP']
        ours = pycocotools_ap(
            coco_mini / 'test_coco.json', tmp_path / f'{name}.keypoints.json'
        )
        assert ap[name] == pytest.approx(ours, abs=1e-6)
    print(f'coco/AP {ap["true"]:.3f} (true boxes), {ap["detected"]:.3f} (detected)')
    assert ap['true'] >= 0.9
    # Detected boxes are other crops than those learnt by heart.
    assert 0.3 < ap['detected'] <= ap['true']
