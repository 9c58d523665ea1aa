"""The command that brings COCO, in processes of its own against local servers."""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from http_server import CocoServer, Fault
from hub_server import HubServer
from small_coco import make_small_coco

REPO = Path(__file__).resolve().parents[2]
TOOL = REPO / 'tools' / 'download_coco.py'
NUM_TRAIN, NUM_VAL = 20, 6
BOXES = b'[{"image_id": 1, "category_id": 1, "bbox": [1, 2, 3, 4], "score": 0.9}]'
BOXES_PATH = 'person_detection_results/COCO_val2017_detections_AP_H_70_person.json'
# The command as it is, but for a COCO that is far smaller.
SMALL = f"""
import runpy, sys
from dataclasses import replace
from sapiens_plugin.core.coco import layout
layout.ANNOTATIONS = replace(layout.ANNOTATIONS, size=None)
layout.TRAIN = replace(layout.TRAIN, images={NUM_TRAIN}, size=None)
layout.VAL = replace(layout.VAL, images={NUM_VAL}, size=None)
sys.path.insert(0, {str(TOOL.parent)!r})
sys.argv[0] = {str(TOOL)!r}
runpy.run_path(sys.argv[0], run_name='__main__')
"""


@pytest.fixture(scope='module')
def coco(tmp_path_factory):
    root = tmp_path_factory.mktemp('coco')
    return make_small_coco(root, train=NUM_TRAIN, val=NUM_VAL)


@pytest.fixture
def server(coco):
    with CocoServer(coco.root) as server:
        yield server


@pytest.fixture
def hub():
    with HubServer() as hub:
        path = f'sapiens_host/pose/{BOXES_PATH}'
        hub.commit('noahcao/sapiens-pose-coco', {path: BOXES})
        yield hub


def how(server, hub, root, *options):
    kept = {k: v for k, v in os.environ.items() if not k.startswith('HF_')}
    mirror = [] if server is None else ['--mirror', server.url]
    endpoint = 'http://127.0.0.1:9' if hub is None else hub.endpoint
    return {
        'args': [sys.executable, '-c', SMALL, '--root', str(root), *mirror, *options],
        'env': kept | {'HF_ENDPOINT': endpoint, 'NO_PROXY': '*', 'PYTHONUTF8': '1'},
        'encoding': 'utf-8',
        'stdout': subprocess.PIPE,
        'stderr': subprocess.PIPE,
    }


def call(*args):
    return subprocess.run(**how(*args), timeout=120)


def test_brings_verifies_and_repairs(server, hub, coco, tmp_path):
    done = call(server, hub, tmp_path)
    assert (done.returncode, done.stderr) == (0, '')
    last = done.stdout.splitlines()[-1]
    assert last == f'All that was asked for is in {tmp_path}; --verify reads it again'
    assert not {'\r', '\x1b'} & set(done.stdout)  # no bar where there is no terminal
    assert (tmp_path / BOXES_PATH).read_bytes() == BOXES
    for split, images in coco.images.items():
        for name, data in images.items():
            assert (tmp_path / 'images' / split / name).read_bytes() == data

    done = call(None, None, tmp_path, '--verify')
    assert (done.returncode, done.stderr) == (0, '')
    assert [' '.join(line.split()) for line in done.stdout.splitlines()[1:]] == [
        'annotations 6 files bytes compared whole',
        f'val2017 {NUM_VAL} files bytes compared whole',
        f'train2017 {NUM_TRAIN} files bytes compared whole',
        'detections 1 files readable whole',
    ]

    name = next(iter(coco.images['val2017']))
    image = tmp_path / 'images' / 'val2017' / name
    image.write_bytes(bytes(image.stat().st_size))
    (tmp_path / BOXES_PATH).unlink()
    done = call(None, None, tmp_path, '--verify')
    assert done.returncode == 1
    assert f'images/val2017/{name} is damaged' in done.stdout
    assert f'{BOXES_PATH} is missing' in done.stdout
    assert f'tools/download_coco.py --root {tmp_path} --repair' in done.stdout

    assert call(server, hub, tmp_path, '--repair').returncode == 0
    assert call(None, None, tmp_path, '--verify').returncode == 0


def test_takes_what_the_user_has_without_a_network(coco, tmp_path):
    mine = tmp_path / 'mine'
    (mine / 'person_detection_results').mkdir(parents=True)
    for part in ('train2017', 'val2017', 'annotations'):
        (mine / coco.archive(part).name).write_bytes(coco.archive(part).read_bytes())
    (mine / BOXES_PATH).write_bytes(BOXES)
    root = tmp_path / 'root'
    done = call(None, None, root, '--from', str(mine), '--keypoints-only')
    assert (done.returncode, done.stderr) == (0, '')
    assert (root / BOXES_PATH).read_bytes() == BOXES
    images = {path.name for path in (root / 'images/train2017').iterdir()}
    assert images == coco.with_keypoints['train2017']


def test_without_the_hub_all_else_arrives(server, coco, tmp_path):
    done = call(server, None, tmp_path)
    assert done.returncode == 2
    assert 'noahcao/sapiens-pose-coco' in done.stderr
    assert '--no-detections' in done.stderr
    assert len(list((tmp_path / 'images/train2017').iterdir())) == NUM_TRAIN
    done = call(None, None, tmp_path, '--no-detections')
    assert (done.returncode, done.stderr) == (0, '')


@pytest.mark.parametrize(
    ('options', 'words'),
    [
        (('--from', 'nowhere'), 'nowhere is not a folder. Correct --from.'),
        (('--mirror', 'nonsense'), "'nonsense' is no address such as https://"),
        (('--verify', '--from', '.'), '--from is for fetching'),
        (('--verify', '--root', 'nowhere'), 'nowhere is not a folder'),
        (('--connections', '0'), "'0' is not a number from 1 on"),
    ],
)
def test_says_what_was_wrong_with_the_call(server, tmp_path, options, words):
    done = call(server, None, tmp_path, *options)
    assert done.returncode == 2
    assert words in done.stderr
    assert 'Traceback' not in done.stderr


@pytest.mark.skipif(os.name == 'nt', reason='Windows has no SIGINT for one process')
@pytest.mark.parametrize('path', ['train2017.zip', 'annotations_trainval2017.zip'])
def test_ctrl_c_ends_it_at_once(server, hub, coco, tmp_path, path):
    assert call(server, hub, tmp_path / 'dry run').returncode == 0
    last = len(server.seen(path)) - 1  # the images, or the whole archive
    root = tmp_path / 'root'
    server.misbehave(Fault('hang', path=path, skip=last))
    with subprocess.Popen(**how(server, hub, root)) as child:
        try:
            while not any(one.fault for one in server.seen()):
                assert child.poll() is None
                time.sleep(0.01)
            started = time.monotonic()
            child.send_signal(signal.SIGINT)
            _, errors = child.communicate(timeout=20)
        finally:
            child.kill()
    assert child.returncode == 130
    assert time.monotonic() - started < 5
    assert 'interrupted' in errors
    assert 'Traceback' not in errors
    server.behave()
    assert call(server, hub, root).returncode == 0
    assert call(None, None, root, '--verify').returncode == 0
