import json
import shutil
from collections import namedtuple
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from mmengine.config import Config

from sapiens_plugin.core.coco.layout import ANNOTATIONS, TRAIN, VAL, Expected, Layout
from sapiens_plugin.core.vit.model import SapiensViT
from sapiens_plugin.workbench.job.job import DataSource
from sapiens_plugin.workbench.job.reader import read_job
from sapiens_plugin.workbench.setup_check import setup_data
from sapiens_plugin.workbench.setup_check.setup_data import (
    check_data,
    check_detections,
    check_disk,
    check_folder,
    check_images,
    check_job_files,
    check_weights,
)
from sapiens_plugin.workbench.setup_check.setup_report import Commands

CONFIG = Path(__file__).parents[3] / 'configs' / 'sapiens_tiny_demo.py'
ARCH = dict(embed_dims=32, num_layers=2, num_heads=2, feedforward_channels=64)


@pytest.fixture
def commands(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv('COCO_ROOT', raising=False)
    return Commands(tmp_path, python='python')


@pytest.fixture
def job(tmp_path):
    """A job with a small backbone, that writes into a folder of its own."""
    cfg = Config.fromfile(CONFIG, import_custom_modules=False)
    cfg.model.backbone.arch = ARCH
    cfg.work_dir = str(tmp_path / 'work')
    return read_job(cfg.to_dict(), CONFIG)


@pytest.fixture
def data(tmp_path):
    """Four pictures with persons, as COCO lays them out; another file name."""
    return make_data(tmp_path / 'mine', 'persons.json', 'pictures')


@pytest.fixture
def coco(tmp_path, monkeypatch):
    """What passes for the validation part of COCO, of four pictures."""
    monkeypatch.setitem(vars(VAL), 'images_with_persons', 3)
    root, name = tmp_path / 'data' / 'coco', 'person_keypoints_val2017.json'
    return make_data(root, name, 'images/val2017')


def make_data(root, file_name, folder):
    images = root / folder
    images.mkdir(parents=True)
    entries, persons = [], []
    for i in range(4):
        (images / f'{i}.jpg').write_bytes(b'x')
        entries.append(dict(id=i, file_name=f'{i}.jpg', width=90, height=90))
        persons.append(
            dict(image_id=i, bbox=[1, 2, 30, 40], keypoints=[9, 9, 2], iscrowd=0)
        )
    path = root / 'annotations' / file_name
    path.parent.mkdir()
    content = dict(images=entries, annotations=persons + persons[:1])
    path.write_text(json.dumps(content), encoding='utf-8')
    return DataSource('val', root, path, images, None)


def slashes(text):
    """Write a command or a path as systems other than Windows do."""
    return text.replace('\\', '/')


# --- Weights ------------------------------------------------------------------------


def save_weights(path, arch=ARCH):
    torch.save(SapiensViT(arch, img_size=(64, 64)).state_dict(), path)


def test_weights_that_fit(job, commands, tmp_path):
    save_weights(tmp_path / 'w.pth')
    (found,) = check_weights(replace(job, backbone_weights='w.pth'), commands)
    assert found.status == 'ok'
    assert found.detail.startswith('w.pth') and '2 layers, 32 wide' in found.detail


def test_no_value_is_read(job, commands, tmp_path, monkeypatch):
    save_weights(tmp_path / 'w.pth')
    backbone = setup_data._backbone(job)
    monkeypatch.setattr(setup_data, '_backbone', lambda job: backbone)
    monkeypatch.setattr(torch.Tensor, 'copy_', None)
    (found,) = check_weights(replace(job, backbone_weights='w.pth'), commands)
    assert found.status == 'ok'


def test_weights_of_another_size(job, commands, tmp_path):
    save_weights(tmp_path / 'w.pth', ARCH | dict(num_layers=3))
    (found,) = check_weights(replace(job, backbone_weights='w.pth'), commands)
    assert found.status == 'fail' and '3 layers' in found.detail
    assert 'init_cfg.checkpoint' in found.mend


def test_weights_that_are_cut_short(job, commands, tmp_path):
    path = tmp_path / 'data' / 'pretrained' / 'sapiens_1b' / 'sapiens_1b_epoch_1.pt2'
    path.parent.mkdir(parents=True)
    save_weights(path)
    path.write_bytes(path.read_bytes()[:-100])
    (found,) = check_weights(replace(job, backbone_weights=str(path)), commands)
    assert found.status == 'fail' and 'cut short' in found.detail
    assert slashes(found.mend) == 'python tools/download_pretrained.py 1b'


@pytest.mark.parametrize(
    'name, mend',
    [
        (
            'data/pretrained/sapiens_0.3b/sapiens_0.3b_epoch_1600_torchscript.pt2',
            'python tools/download_pretrained.py 0.3b',
        ),
        (
            'own/sapiens_2b/sapiens_2b_x.pth',
            'python tools/download_pretrained.py 2b --dir own',
        ),
        (
            'data/demo/sapiens_tiny_torchscript.pt2',
            'python -m sapiens_plugin.workbench.demo.make_demo data/demo',
        ),
        (
            'mine.pth',
            'name your file: --cfg-options model.backbone.init_cfg.checkpoint=FILE',
        ),
    ],
)
def test_missing_weights_come_with_the_command_that_brings_them(
    name, mend, job, commands, tmp_path
):
    path = str(tmp_path / 'configs' / '..' / name)  # as a config writes it
    (found,) = check_weights(replace(job, backbone_weights=path), commands)
    assert (found.status, slashes(found.mend)) == ('fail', mend)
    assert slashes(found.detail) == f'{name} is missing'


def test_a_whole_checkpoint_comes_first_and_none_is_noted(job, commands, tmp_path):
    save_weights(tmp_path / 'w.pth')
    whole = replace(job, backbone_weights=None, whole_weights='w.pth')
    (found,) = check_weights(whole, commands)
    assert (found.name, found.status) == ('load_from', 'ok')
    none = replace(job, backbone_weights=None)
    assert check_weights(none, commands)[0].status == 'warn'
    web = replace(job, whole_weights='https://host/w.pth')
    assert check_weights(web, commands)[1].status == 'warn'


@pytest.mark.parametrize('missing', ['weights', 'load_from'])
def test_both_files_of_weights_are_read_where_both_are_named(
    missing, job, commands, tmp_path
):
    save_weights(tmp_path / 'w.pth')
    names = dict(weights='w.pth', load_from='w.pth') | {missing: 'no.pth'}
    both = replace(
        job, backbone_weights=names['weights'], whole_weights=names['load_from']
    )
    found = {check.name: check for check in check_weights(both, commands)}
    assert found.keys() == names.keys()
    assert [name for name, check in found.items() if check.status == 'fail'] == [
        missing
    ]
    setting = dict(weights='init_cfg.checkpoint', load_from='load_from')[missing]
    assert found[missing].mend.endswith(f'{setting}=FILE')


def test_mends_keep_the_changes_to_the_config(job, commands, tmp_path):
    (tmp_path / 'file').write_bytes(b'')
    changed = replace(job, options=['a=1'], work_dir=tmp_path / 'file' / 'work')
    found = check_folder(changed.work_dir, changed, commands)
    assert found.mend.endswith('--work-dir DIR --cfg-options a=1')


# --- Data of one's own --------------------------------------------------------------


def test_persons_and_images_are_counted(data, commands):
    persons, images = check_data(data, commands)
    assert (persons.status, images.status) == ('ok', 'ok')
    assert persons.detail.startswith('5 on 4 images in mine')
    assert images.detail == f'all 4 in {Path("mine", "pictures")}'


@pytest.mark.parametrize(
    'text, message',
    [
        ('<html>', 'is not JSON'),
        ('{"images": [', 'cut short'),
        ('{"images": [], "annotations": []}', 'no person'),
        ('{"images": [{}]}', '"id"'),
        (None, 'is missing'),
    ],
)
def test_annotations_that_are_of_no_use(text, message, data, commands):
    data.annotations.unlink()
    if text is not None:
        data.annotations.write_text(text, encoding='utf-8')
    persons, images = check_data(data, commands)
    assert persons.status == 'fail' and message in persons.detail
    assert persons.mend.endswith('val_dataloader.dataset.data_root=DIR')
    assert images.status == 'ok'  # there are some; their names are not compared
    assert 'compares their names' in images.detail


def test_missing_images_are_counted_and_one_is_named(data, commands):
    (data.images / '2.jpg').unlink()
    (data.images / '3.jpg').unlink()
    _, images = check_data(data, commands)
    assert images.status == 'fail'
    assert images.detail.startswith('2 of 4 not in') and '2.jpg, …' in images.detail


def test_folders_without_images(data, commands):
    for path in data.images.iterdir():
        path.unlink()
    assert check_images(data, None, commands).status == 'fail'
    data.images.rmdir()
    found = check_images(data, None, commands)
    assert found.status == 'fail' and 'is missing' in found.detail


def test_images_in_folders_of_the_folder(data, commands):
    (data.images / 'a').mkdir()
    (data.images / '0.jpg').rename(data.images / 'a' / '0.jpg')
    assert check_images(data, ['a/0.jpg', '1.jpg'], commands).status == 'ok'
    found = check_images(data, ['a/1.jpg', 'b/1.jpg'], commands)
    assert found.detail.startswith('2 of 2 not in')


def test_a_large_file_is_not_read(data, commands, monkeypatch):
    monkeypatch.setattr(setup_data, '_COUNTED', 10)
    monkeypatch.setattr(setup_data, 'keypoint_images', None)
    persons, images = check_data(data, commands)
    assert persons.status == 'ok' and 'not counted' in persons.detail
    assert images.status == 'ok' and images.detail.startswith('4 in')


def test_missing_demo_data_are_made_by_their_own_command(commands, tmp_path):
    root = tmp_path / 'data' / 'demo'
    path = root / 'annotations' / 'person_keypoints_val.json'
    source = DataSource('val', root, path, root / 'images' / 'val', None)
    for found in check_data(source, commands):
        assert (
            slashes(found.mend)
            == 'python -m sapiens_plugin.workbench.demo.make_demo data/demo'
        )


# --- COCO ---------------------------------------------------------------------------


def begin(source, part, names, *, selective=False):
    layout = Layout(source.root)
    layout.archives.mkdir(exist_ok=True)
    files = [Expected(name, size=1, crc=0) for name in names]
    layout.begin(part, files, selective=selective)
    return layout


def test_images_are_compared_with_the_published_archive(coco, commands):
    begin(coco, VAL, ['0.jpg', '1.jpg', '2.jpg', '3.jpg']).seal(VAL)
    assert check_images(coco, None, commands).detail.startswith('all 4 in')
    begin(coco, VAL, ['0.jpg', '9.jpg'], selective=True).seal(VAL)
    found = check_images(coco, None, commands)
    assert found.status == 'fail' and found.detail.endswith('9.jpg')
    assert slashes(found.mend) == 'python tools/download_coco.py --keypoints-only'


def test_a_download_that_did_not_end(coco, commands):
    begin(coco, VAL, ['0.jpg'])
    found = check_images(coco, None, commands)
    assert found.status == 'fail' and 'did not end' in found.detail
    assert slashes(found.mend) == 'python tools/download_coco.py'


@pytest.mark.parametrize(
    'published, status', [(4, 'ok'), (99, 'warn')], ids=['all', 'some']
)
def test_images_from_elsewhere_are_counted(
    published, status, coco, commands, monkeypatch
):
    part = replace(VAL, images=published)
    monkeypatch.setattr(setup_data, 'VAL', part)
    monkeypatch.setitem(vars(part), 'images_with_persons', 3)
    found = check_images(coco, None, commands)
    assert found.status == status
    if status == 'warn':
        assert slashes(found.mend) == 'python tools/download_coco.py --verify'
    (coco.images / '0.jpg').unlink()  # as many as have persons
    assert check_images(coco, None, commands).status == 'ok'
    (coco.images / '1.jpg').unlink()
    found = check_images(coco, None, commands)
    assert found.status == 'fail' and 'COCO has 3 with persons' in found.detail


def test_persons_of_the_published_file_are_known(coco, commands, monkeypatch):
    layout = Layout(coco.root)
    layout.archives.mkdir()
    size = coco.annotations.stat().st_size
    published = [Expected(coco.annotations.name, size=size, crc=0)]
    layout.begin(ANNOTATIONS, published, selective=True)
    monkeypatch.setattr(setup_data, 'keypoint_images', None)
    persons, _ = check_data(coco, commands)
    assert persons.detail.startswith('6,352 in')
    assert TRAIN.persons == 149_813


def test_coco_elsewhere_is_brought_there(coco, commands, tmp_path, monkeypatch):
    shutil.rmtree(coco.images)
    mend = check_images(coco, None, commands).mend
    assert slashes(mend) == 'python tools/download_coco.py'
    monkeypatch.setenv('COCO_ROOT', str(tmp_path / 'other'))
    mend = check_images(coco, None, commands).mend
    assert slashes(mend) == 'python tools/download_coco.py --root data/coco'
    monkeypatch.setenv('COCO_ROOT', str(coco.root))
    mend = check_images(coco, None, commands).mend
    assert slashes(mend) == 'python tools/download_coco.py'
    shutil.rmtree(coco.root)
    mend = check_images(coco, None, commands).mend
    assert mend.startswith(f'COCO_ROOT={coco.root} is not a folder: correct or unset')
    assert slashes(mend).endswith('fetch COCO there: python tools/download_coco.py')


def test_missing_detections_keep_no_training_from_running(coco, commands, tmp_path):
    source = replace(coco, split='test', detections=tmp_path / 'boxes.json')
    found = check_detections(source, commands)
    assert found.status == 'warn' and 'boxes.json is missing' in found.detail
    assert slashes(found.mend) == 'python tools/download_coco.py'
    source.detections.write_text('[{')
    found = check_detections(source, commands)
    assert found.status == 'warn' and 'cut short' in found.detail
    source.detections.write_text('[{}]')
    assert check_detections(source, commands).status == 'ok'


# --- Folders ------------------------------------------------------------------------


def test_a_folder_that_could_be_made_is_not(job, commands):
    found = check_folder(job.work_dir, job, commands)
    assert (found.name, found.status) == ('work directory', 'ok')
    assert not job.work_dir.exists()


def test_a_folder_that_cannot_be_written(job, commands, tmp_path):
    (tmp_path / 'file').touch()
    found = check_folder(tmp_path / 'file' / 'logs', job, commands)
    assert (found.name, found.status) == ('log directory', 'fail')
    assert 'cannot be written' in found.detail and '--work-dir' in found.mend


def test_room_for_checkpoints(job, commands, monkeypatch):
    usage = namedtuple('Usage', 'free')
    free = sum(job.disk_use().values())
    monkeypatch.setattr(shutil, 'disk_usage', lambda path: usage(free))
    assert check_disk(job, commands).status == 'ok'
    free -= 1
    found = check_disk(job, commands)
    assert found.status == 'fail' and '--work-dir' in found.mend
    # What an earlier run left there makes room for its successors.
    job.work_dir.mkdir()
    (job.work_dir / 'epoch_1.pth').write_bytes(b'x')
    found = check_disk(job, commands)
    assert found.status == 'ok' and 'lie there' in found.detail


def test_everything_of_a_job_is_looked_at_once(job, data, commands, tmp_path):
    save_weights(tmp_path / 'w.pth')
    detections = replace(data, split='test', detections=tmp_path / 'boxes.json')
    whole = replace(
        job,
        backbone_weights='w.pth',
        sources=[replace(data, split='train'), data, detections],
        other_dirs=[tmp_path / 'logs'],
    )
    assert [check.name for check in check_job_files(whole, commands)] == [
        'weights',
        'train persons',
        'train images',
        'test boxes',
        'work directory',
        'log directory',
        'disk',
    ]
