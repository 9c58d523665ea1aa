import errno
import multiprocessing
import os
import random
import shutil
import sys
from contextlib import contextmanager
from dataclasses import replace

import pytest
from http_server import CocoServer, Fault
from small_coco import HOSTILE, corrupt_member, make_small_coco, write_zip

from sapiens_plugin.core.coco.layout import ANNOTATIONS, KEYPOINT_FILES, TRAIN, VAL
from sapiens_plugin.core.utils import free_space
from sapiens_plugin.errors import InputError
from sapiens_plugin.workbench.download import archive as archive_module
from sapiens_plugin.workbench.download.coco import Order, bring
from sapiens_plugin.workbench.download.transfer import Patience

NUM_TRAIN, NUM_VAL = 40, 10
PARTS = (
    replace(ANNOTATIONS, size=None),
    replace(VAL, images=NUM_VAL, size=None),
    replace(TRAIN, images=NUM_TRAIN, size=None),
)
CONTENTS = 300 * NUM_TRAIN  # bytes that reading an archive's contents may cost
QUICK = Patience(attempts=2, first_wait=0.01, silence=0.3)


@pytest.fixture(scope='module')
def coco(tmp_path_factory):
    root = tmp_path_factory.mktemp('coco')
    return make_small_coco(root, train=NUM_TRAIN, val=NUM_VAL)


@pytest.fixture(autouse=True)
def small_world(monkeypatch):
    """Several requests for the small archives; no wait for other programs' files."""
    monkeypatch.setattr('sapiens_plugin.workbench.download.delivery._RUN', 10_000)
    monkeypatch.delattr('os.sync', raising=False)


@pytest.fixture
def server(coco):
    with CocoServer(coco.root) as server:
        yield server


def order(server, root, **changes):
    standard = {
        'detections': False,
        'patience': QUICK,
        'parts': PARTS,
        'connections': 4,
    }
    return Order(root=root, server=server.url, **(standard | changes))


def fetch(server, root, **changes):
    lines = []
    bring(order(server, root, **changes), say=lines.append)
    return lines


def wanted(coco, *, keypoints_only=False):
    """The bytes of every file that should be there, by its path under the root."""
    train = coco.images['train2017']
    annotations = coco.annotations
    if keypoints_only:
        train = {name: train[name] for name in coco.with_keypoints['train2017']}
        names = {f'annotations/{name}' for name in KEYPOINT_FILES}
        annotations = {k: v for k, v in annotations.items() if k in names}
    return (
        {f'images/train2017/{name}': data for name, data in train.items()}
        | {f'images/val2017/{k}': v for k, v in coco.images['val2017'].items()}
        | annotations
    )


def there(root):
    """The bytes of every file under the root, but for notes and archives."""
    return {
        path.relative_to(root).as_posix(): path.read_bytes()
        for path in root.rglob('*')
        if path.is_file() and path.parent.name != 'archives'
    }


def assert_nothing_wrong(root, coco):
    """No file has a final name and other bytes than the published ones."""
    right = wanted(coco)
    for name, data in there(root).items():
        assert name.endswith('.part') or data == right[name], name


def notes(root):
    return {path.name for path in (root / 'archives').iterdir()} - {'lock'}


NOTES = {'annotations.index', 'val2017.index', 'train2017.index'}


def test_brings_everything(server, tmp_path, coco):
    lines = fetch(server, tmp_path)
    assert there(tmp_path) == wanted(coco)
    assert notes(tmp_path) == NOTES
    assert lines[-1] == 'train2017: all there: 40 files'


def test_a_second_call_asks_nobody(server, tmp_path, coco):
    fetch(server, tmp_path)
    before = len(server.seen())
    lines = fetch(server, tmp_path)
    assert len(server.seen()) == before
    parts = ('annotations', 'val2017', 'train2017')
    assert lines == [f'{part}: all there' for part in parts]


def test_brings_only_what_a_keypoint_job_reads(server, tmp_path, coco):
    fetch(server, tmp_path, keypoints_only=True)
    assert there(tmp_path) == wanted(coco, keypoints_only=True)
    fetch(server, tmp_path, keypoints_only=True)


def test_the_rest_can_be_brought_later(server, tmp_path, coco):
    fetch(server, tmp_path, keypoints_only=True)
    before = server.sent('train2017.zip')
    fetch(server, tmp_path)
    assert there(tmp_path) == wanted(coco)
    images, had = coco.images['train2017'], coco.with_keypoints['train2017']
    rest = sum(len(data) for name, data in images.items() if name not in had)
    assert server.sent('train2017.zip') - before < rest + CONTENTS


def test_all_is_enough_for_a_keypoint_job(server, tmp_path):
    fetch(server, tmp_path)
    before = len(server.seen())
    fetch(server, tmp_path, keypoints_only=True)
    assert len(server.seen()) == before


def test_a_deleted_image_comes_back(server, tmp_path, coco):
    fetch(server, tmp_path)
    before = server.sent('val2017.zip'), server.sent('annotations_trainval2017.zip')
    name = sorted(coco.images['train2017'])[3]
    (tmp_path / 'images/train2017' / name).unlink()
    fetch(server, tmp_path)
    assert there(tmp_path) == wanted(coco)
    assert before == (
        server.sent('val2017.zip'),
        server.sent('annotations_trainval2017.zip'),
    )


def test_several_connections_are_used(coco, tmp_path, monkeypatch):
    monkeypatch.setattr('sapiens_plugin.workbench.download.delivery._RUN', 1)
    with CocoServer(coco.root, latency=0.02) as server:
        fetch(server, tmp_path, connections=6)
        assert server.most_at_once == 6
    assert there(tmp_path) == wanted(coco)


FAULTS = [
    Fault('cut'),
    Fault('cut', after_bytes=0),
    Fault('reset'),
    Fault('drop'),
    Fault('length too long', after_bytes=99),
    Fault('length too short'),
    Fault('range shifted'),
    Fault('range too short'),
    Fault('range lied'),
    Fault('range unnamed'),
    Fault('range ignored'),
    Fault('html'),
    Fault('redirect'),
    Fault('corrupt'),
    Fault('hang'),
    *(Fault('status', status=status) for status in (403, 404, 416, 500, 503)),
    Fault('status', status=429, retry_after=0),
]


@pytest.mark.parametrize(
    ('path', 'times'),
    [
        ('train2017.zip', 1),
        ('train2017.zip', None),
        ('val2017.zip', None),
        ('annotations_trainval2017.zip', None),
    ],
)
@pytest.mark.parametrize('fault', FAULTS, ids=lambda f: f'{f.kind} {f.status}')
def test_after_any_fault_a_second_call_finishes(
    server, tmp_path, coco, fault, path, times
):
    skip = random.Random(f'{fault}{path}').randrange(6) if times else 0
    struck = {'path': path, 'times': times, 'skip': skip}
    server.misbehave(Fault(**(vars(fault) | struck)))
    try:
        fetch(server, tmp_path, keypoints_only=True)
    except InputError as error:
        assert server.url in str(error) or str(tmp_path) in str(error)
    else:
        assert there(tmp_path) == wanted(coco, keypoints_only=True)
    assert_nothing_wrong(tmp_path, coco)
    server.behave()
    fetch(server, tmp_path, keypoints_only=True)
    assert there(tmp_path) == wanted(coco, keypoints_only=True)
    assert notes(tmp_path) == NOTES


def test_an_archive_that_changes_on_the_way(server, tmp_path, coco):
    content = coco.archive('train2017').read_bytes()
    changed = content[:-2] + b'\x01\x00x'  # the same members, and a comment
    server.misbehave(Fault('replace', path='train2017.zip', data=changed, skip=5))
    with pytest.raises(InputError, match='changed on the server'):
        fetch(server, tmp_path)
    assert_nothing_wrong(tmp_path, coco)
    fetch(server, tmp_path)
    assert there(tmp_path) == wanted(coco)


def test_no_image_comes_twice(server, tmp_path, coco):
    server.misbehave(Fault('status', status=404, path='train2017.zip', skip=9))
    with pytest.raises(InputError):
        fetch(server, tmp_path, connections=1)
    arrived = there(tmp_path)
    assert 10 < len(arrived) < len(wanted(coco))
    before = server.sent('train2017.zip')
    fetch(server, tmp_path)
    rest = wanted(coco).keys() - arrived.keys()
    size = sum(len(data) for name, data in wanted(coco).items() if name in rest)
    assert server.sent('train2017.zip') - before < size + CONTENTS


def test_a_corrupt_member_is_named_and_mended_later(tmp_path):
    coco = make_small_coco(tmp_path / 'coco', train=NUM_TRAIN, val=NUM_VAL)
    name = sorted(coco.images['train2017'])[7]
    path = coco.archive('train2017')
    good = path.read_bytes()
    corrupt_member(path, f'train2017/{name}')
    root = tmp_path / 'root'
    with CocoServer(coco.root) as server:
        with pytest.raises(InputError, match=f'1 file arrived damaged.*{name}'):
            fetch(server, root)
        expected = wanted(coco)
        del expected[f'images/train2017/{name}']
        assert there(root) == expected
        server.replace('zips/train2017.zip', good)
        before = server.sent('train2017.zip')
        fetch(server, root)
        assert server.sent('train2017.zip') - before < CONTENTS
    assert there(root) == wanted(coco)


@pytest.mark.parametrize('kind', HOSTILE)
def test_of_a_hostile_archive_nothing_is_written(tmp_path, kind):
    coco = make_small_coco(
        tmp_path / 'coco', train=NUM_TRAIN, val=NUM_VAL, hostile=[kind]
    )
    root = tmp_path / 'deep' / 'root'
    with (
        CocoServer(coco.root) as server,
        pytest.raises(InputError, match='was refused'),
    ):
        fetch(server, root)
    assert there(root) == {}
    assert {path.name for path in tmp_path.iterdir()} == {'coco', 'deep'}
    assert {path.name for path in root.parent.iterdir()} == {'root'}


@pytest.mark.parametrize(('part', 'count'), [(1, NUM_VAL + 1), (2, NUM_TRAIN - 1)])
def test_refuses_an_archive_of_another_number_of_images(server, tmp_path, part, count):
    parts = list(PARTS)
    parts[part] = replace(parts[part], images=count)
    with pytest.raises(InputError, match=rf'not the {count} of the published'):
        fetch(server, tmp_path, parts=tuple(parts))
    assert there(tmp_path) == {}


@pytest.mark.parametrize('keep', [False, True])
def test_a_server_without_ranges(coco, tmp_path, keep):
    with CocoServer(coco.root, ranges=False) as server:
        server.misbehave(Fault('cut', path='train2017.zip', skip=1))
        fetch(server, tmp_path, keypoints_only=True, keep_archives=keep)
        assert len(server.seen('train2017.zip')) == 3
    assert there(tmp_path) == wanted(coco, keypoints_only=True)
    archives = {f'{name}2017.zip' for name in ('train', 'val', 'annotations_trainval')}
    assert notes(tmp_path) == NOTES | (archives if keep else set())


def test_keeps_archives_and_takes_from_them(server, tmp_path, coco):
    server.misbehave(Fault('cut', path='train2017.zip', skip=1, after_bytes=9_000))
    with pytest.raises(InputError):
        fetch(server, tmp_path, keep_archives=True, patience=Patience(attempts=1))
    fetch(server, tmp_path, keep_archives=True)
    assert server.seen('train2017.zip')[-1].range.startswith('bytes=9000-')
    assert there(tmp_path) == wanted(coco)
    kept = tmp_path / 'archives' / 'train2017.zip'
    assert kept.read_bytes() == coco.archive('train2017').read_bytes()
    shutil.rmtree(tmp_path / 'images')
    before = len(server.seen())
    fetch(server, tmp_path, keep_archives=True)
    assert len(server.seen()) == before
    assert there(tmp_path) == wanted(coco)


def test_archives_that_were_kept_stay(server, tmp_path, coco):
    fetch(server, tmp_path, keep_archives=True)
    (tmp_path / 'images/train2017' / next(iter(coco.images['train2017']))).unlink()
    fetch(server, tmp_path)
    assert (tmp_path / 'archives' / 'train2017.zip').exists()
    assert there(tmp_path) == wanted(coco)


def test_archives_can_be_kept_later(server, tmp_path, coco):
    fetch(server, tmp_path)
    fetch(server, tmp_path, keep_archives=True)
    kept = tmp_path / 'archives' / 'train2017.zip'
    assert kept.read_bytes() == coco.archive('train2017').read_bytes()


def test_what_is_kept_is_right_in_all_its_files(tmp_path):
    coco = make_small_coco(tmp_path / 'coco', train=NUM_TRAIN, val=NUM_VAL)
    path = coco.archive('train2017')
    good = path.read_bytes()
    name = min(coco.images['train2017'].keys() - coco.with_keypoints['train2017'])
    corrupt_member(path, f'train2017/{name}')
    root = tmp_path / 'root'
    choices = {'keypoints_only': True, 'keep_archives': True}
    with CocoServer(coco.root) as server:
        with pytest.raises(InputError, match=f'damaged in .*{name}'):
            fetch(server, root, **choices)
        assert not list((root / 'archives').glob('train2017.zip*'))
        server.replace('zips/train2017.zip', good)
        fetch(server, root, **choices)
    assert (root / 'archives' / 'train2017.zip').read_bytes() == good


def test_a_fetched_archive_that_is_damaged_is_fetched_anew(tmp_path):
    coco = make_small_coco(tmp_path / 'coco', train=NUM_TRAIN, val=NUM_VAL)
    path = coco.archive('val2017')
    good = path.read_bytes()
    corrupt_member(path, f'val2017/{next(iter(coco.images["val2017"]))}')
    root = tmp_path / 'root'
    with CocoServer(coco.root, ranges=False, etags=False) as server:
        with pytest.raises(InputError, match='1 file arrived damaged'):
            fetch(server, root)
        server.replace('zips/val2017.zip', good)
        fetch(server, root)
    assert there(root) == wanted(coco)


def test_a_page_of_text_gets_no_final_name(server, tmp_path):
    server.ranges = False
    server.replace('zips/train2017.zip', b'please log in')
    with pytest.raises(InputError, match='not a whole zip archive'):
        fetch(server, tmp_path)
    assert not list((tmp_path / 'archives').glob('train2017.zip*'))


def test_nothing_of_a_begun_archive_is_left(server, tmp_path):
    server.misbehave(Fault('cut', path='train2017.zip', skip=1, after_bytes=9_000))
    with pytest.raises(InputError):
        fetch(server, tmp_path, keep_archives=True, patience=Patience(attempts=1))
    assert list((tmp_path / 'archives').glob('train2017.zip.*.part'))
    fetch(server, tmp_path)
    assert notes(tmp_path) == NOTES | {'val2017.zip', 'annotations_trainval2017.zip'}


def test_takes_archives_that_the_user_has(tmp_path, coco, server):
    mine = tmp_path / 'mine'
    mine.mkdir()
    shutil.copy(coco.archive('train2017'), mine)
    (mine / 'val2017.zip').write_bytes(coco.archive('val2017').read_bytes()[:-100])
    lines = fetch(server, tmp_path / 'root', source=mine)
    assert there(tmp_path / 'root') == wanted(coco)
    assert server.seen('train2017.zip') == []
    assert any('not a whole zip archive' in line for line in lines)
    assert {path.name for path in mine.iterdir()} == {'train2017.zip', 'val2017.zip'}


def test_takes_images_that_the_user_has(tmp_path, coco, server):
    mine = tmp_path / 'mine' / 'train2017'
    mine.mkdir(parents=True)
    images = coco.images['train2017']
    for name in list(images)[:-5]:
        (mine / name).write_bytes(images[name])
    wrong = mine / next(iter(images))
    wrong.write_bytes(bytes(len(images[wrong.name])))
    fetch(server, tmp_path / 'root', source=mine.parent)
    assert there(tmp_path / 'root') == wanted(coco)
    sent = sum(len(images[name]) for name in [wrong.name, *list(images)[-5:]])
    assert server.sent('train2017.zip') < sent + CONTENTS
    assert wrong.read_bytes() == bytes(len(images[wrong.name]))


def test_copies_images_where_links_cannot_be(tmp_path, coco, server, monkeypatch):
    mine = tmp_path / 'mine' / 'images' / 'val2017'
    mine.mkdir(parents=True)
    for name, data in coco.images['val2017'].items():
        (mine / name).write_bytes(data)

    def no_links(self, target):
        raise OSError(errno.EXDEV, 'another disk')

    monkeypatch.setattr('pathlib.Path.hardlink_to', no_links)
    fetch(server, tmp_path / 'root', source=tmp_path / 'mine')
    assert there(tmp_path / 'root') == wanted(coco)
    shutil.rmtree(mine)
    assert there(tmp_path / 'root') == wanted(coco)


def test_a_folder_that_is_not_there(server, tmp_path):
    with pytest.raises(InputError, match='is not a folder'):
        fetch(server, tmp_path, source=tmp_path / 'nowhere')


def test_a_folder_without_anything_of_it_is_said(server, tmp_path, coco):
    (tmp_path / 'mine' / 'deep').mkdir(parents=True)
    shutil.copy(coco.archive('train2017'), tmp_path / 'mine' / 'deep')
    lines = fetch(server, tmp_path / 'root', source=tmp_path / 'mine')
    said = [line for line in lines if f'nothing of it in {tmp_path / "mine"}' in line]
    assert [line.partition(':')[0] for line in said] == [
        'annotations', 'val2017', 'train2017'
    ]  # fmt: skip


def test_the_folder_of_images_can_be_named_itself(server, tmp_path, coco):
    mine = tmp_path / 'mine'
    mine.mkdir()
    for name, data in coco.images['train2017'].items():
        (mine / name).write_bytes(data)
    lines = fetch(server, tmp_path / 'root', source=mine)
    assert f'train2017: {NUM_TRAIN} files from {mine}' in lines
    assert server.sent('train2017.zip') < CONTENTS


def test_links_are_followed(server, tmp_path, coco):
    mine, store = tmp_path / 'mine' / 'train2017', tmp_path / 'mine' / 'store'
    mine.mkdir(parents=True)
    store.mkdir()
    for name, data in coco.images['train2017'].items():
        (store / name).write_bytes(data)
        (mine / name).symlink_to(f'../store/{name}')
    fetch(server, tmp_path / 'root', source=tmp_path / 'mine')
    assert there(tmp_path / 'root') == wanted(coco)
    assert not any(path.is_symlink() for path in (tmp_path / 'root').rglob('*'))


def test_a_link_to_nowhere_is_replaced(server, tmp_path, coco):
    fetch(server, tmp_path)
    image = tmp_path / 'images/train2017' / next(iter(coco.images['train2017']))
    image.unlink()
    image.symlink_to('nowhere')
    fetch(server, tmp_path)
    assert there(tmp_path) == wanted(coco)


def test_a_file_of_the_user_is_not_written_through_a_link(tmp_path):
    """A call is killed between giving a file its second name and its final one."""
    coco = make_small_coco(tmp_path / 'coco', train=NUM_TRAIN, val=NUM_VAL)
    name, data = next(iter(coco.images['train2017'].items()))
    theirs = tmp_path / 'theirs.jpg'
    theirs.write_bytes(data)
    images = tmp_path / 'root' / 'images' / 'train2017'
    images.mkdir(parents=True)
    (images / f'{name}.part').hardlink_to(theirs)
    corrupt_member(coco.archive('train2017'), f'train2017/{name}')
    with CocoServer(coco.root) as server, pytest.raises(InputError):
        fetch(server, tmp_path / 'root')
    assert theirs.read_bytes() == data


def test_a_damaged_archive_of_the_user_is_made_up_for(server, tmp_path, coco):
    mine = tmp_path / 'mine'
    mine.mkdir()
    shutil.copy(coco.archive('train2017'), mine)
    name = next(iter(coco.images['train2017']))
    corrupt_member(mine / 'train2017.zip', f'train2017/{name}')
    lines = fetch(server, tmp_path / 'root', source=mine)
    assert there(tmp_path / 'root') == wanted(coco)
    assert any(f'1 file arrived damaged from {mine}' in line for line in lines)
    size = len(coco.images['train2017'][name])
    assert server.sent('train2017.zip') < size + CONTENTS


def test_archives_of_another_root_are_taken(server, tmp_path, coco):
    fetch(server, tmp_path / 'a', keep_archives=True)
    shutil.rmtree(tmp_path / 'a' / 'images')
    before = len(server.seen())
    fetch(server, tmp_path / 'b', source=tmp_path / 'a')
    assert len(server.seen()) == before
    assert there(tmp_path / 'b') == wanted(coco)


@pytest.mark.parametrize('place', ['server', 'source'])
def test_an_archive_of_another_size_is_not_the_published_one(
    server, tmp_path, coco, place
):
    size = coco.archive('train2017').stat().st_size
    parts = (*PARTS[:2], replace(PARTS[2], size=size))
    fetch(server, tmp_path / 'root', parts=parts)
    images = tmp_path / 'root/images/train2017'
    (images / next(iter(coco.images['train2017']))).unlink()
    other = {f'train2017/{k}': v + b'!' for k, v in coco.images['train2017'].items()}
    mine = tmp_path / 'mine' / 'train2017.zip'
    write_zip(mine, other.items())
    if place == 'server':
        server.replace('zips/train2017.zip', mine.read_bytes())
        with pytest.raises(InputError, match='bytes, not the'):
            fetch(server, tmp_path / 'root', parts=parts)
        assert_nothing_wrong(tmp_path / 'root', coco)
    else:
        lines = fetch(server, tmp_path / 'root', parts=parts, source=mine.parent)
        assert any('It is left alone' in line for line in lines)
        assert there(tmp_path / 'root') == wanted(coco)


def test_the_root_itself_can_be_the_source(server, tmp_path, coco):
    fetch(server, tmp_path)
    (tmp_path / 'images/val2017' / next(iter(coco.images['val2017']))).unlink()
    fetch(server, tmp_path, source=tmp_path)
    assert there(tmp_path) == wanted(coco)


@contextmanager
def room(monkeypatch, free):
    usage = shutil.disk_usage('/')
    with monkeypatch.context() as patch:
        patch.setattr(free_space, '_MARGIN', 0)
        patch.setattr(
            free_space.shutil, 'disk_usage', lambda path: usage._replace(free=free)
        )
        yield


@pytest.mark.parametrize('keypoints_only', [False, True])
def test_asks_for_room_before_the_first_byte(
    server, tmp_path, coco, monkeypatch, keypoints_only
):
    stays = sum(len(v) for v in wanted(coco).values())
    with (
        room(monkeypatch, free=stays // 4),
        pytest.raises(InputError, match='COCO needs'),
    ):
        fetch(server, tmp_path, keypoints_only=keypoints_only)
    assert there(tmp_path) == {}
    assert server.sent() < 2 * CONTENTS


def test_asks_for_no_more_room_than_is_missing(server, tmp_path, coco, monkeypatch):
    fetch(server, tmp_path)
    name, data = next(iter(coco.images['train2017'].items()))
    image = tmp_path / 'images/train2017' / name
    image.unlink()
    with (
        room(monkeypatch, free=len(data) - 1),
        pytest.raises(InputError, match='COCO needs'),
    ):
        fetch(server, tmp_path)
    with room(monkeypatch, free=len(data)):
        fetch(server, tmp_path)
    assert image.exists()


def test_archives_that_stay_need_room_too(coco, tmp_path, monkeypatch):
    archives = sum(coco.archive(n).stat().st_size for n in coco.images)
    images = sum(len(v) for k, v in wanted(coco).items() if 'images' in k)
    with CocoServer(coco.root) as server:
        parts = PARTS[1:]
        with (
            room(monkeypatch, free=images + archives - 500),
            pytest.raises(InputError, match='COCO needs'),
        ):
            fetch(server, tmp_path, keep_archives=True, parts=parts)
        with room(monkeypatch, free=2 * archives):
            fetch(server, tmp_path, keep_archives=True, parts=parts)


def test_what_is_linked_needs_no_room(server, tmp_path, coco, monkeypatch):
    mine = tmp_path / 'mine'
    for split, images in coco.images.items():
        (mine / split).mkdir(parents=True)
        for name, data in images.items():
            (mine / split / name).write_bytes(data)
    with room(monkeypatch, free=0):
        fetch(server, tmp_path / 'root', source=mine, parts=PARTS[1:])


def test_without_ranges_what_is_there_needs_no_room_again(coco, tmp_path, monkeypatch):
    with CocoServer(coco.root) as server:
        fetch(server, tmp_path)
    name, data = next(iter(coco.images['train2017'].items()))
    (tmp_path / 'images/train2017' / name).unlink()
    needed = 2 * coco.archive('train2017').stat().st_size
    needed -= sum(len(data) for data in coco.images['train2017'].values())
    with CocoServer(coco.root, ranges=False) as server:
        with room(monkeypatch, free=needed + len(data)):
            fetch(server, tmp_path)
    assert there(tmp_path) == wanted(coco)


def test_what_has_arrived_of_an_archive_needs_no_room_again(
    server, tmp_path, coco, monkeypatch
):
    part, size = PARTS[2], coco.archive('train2017').stat().st_size
    order = {'keep_archives': True, 'parts': [part]}
    server.misbehave(Fault('cut', path='train2017.zip', skip=1, after_bytes=9_000))
    with pytest.raises(InputError):
        fetch(server, tmp_path, **order, patience=Patience(attempts=1))
    with room(monkeypatch, free=2 * size - 9_001):
        with pytest.raises(InputError, match='COCO needs'):
            fetch(server, tmp_path, **order)
    with room(monkeypatch, free=2 * size - 9_000):
        fetch(server, tmp_path, **order)


def test_every_disk_is_asked_for_its_own(server, tmp_path, monkeypatch):
    asked = {}
    monkeypatch.setattr(
        'sapiens_plugin.workbench.download.coco.require_space',
        lambda path, count, what: asked.setdefault(path, count),
    )
    stat = type(tmp_path).stat

    def on_two_disks(path, **kwargs):
        found = stat(path, **kwargs)
        if 'images' not in str(path):
            return found
        return os.stat_result((*found[:2], found.st_dev + 1, *found[3:]))

    (tmp_path / 'images').mkdir()
    monkeypatch.setattr(type(tmp_path), 'stat', on_two_disks)
    fetch(server, tmp_path)
    folders = {path.relative_to(tmp_path).parts[0] for path in asked}
    assert folders == {'annotations', 'images'}


@pytest.mark.parametrize('error', [errno.ENOSPC, errno.EACCES])
def test_a_disk_that_refuses(server, tmp_path, coco, monkeypatch, error):
    with monkeypatch.context() as patch:
        whole_file, left = archive_module.whole_file, [15]

        @contextmanager
        def full(path):
            with whole_file(path) as file:
                left[0] -= 1
                if left[0] <= 0:
                    file.write(b'half')
                    raise OSError(error, 'refused', str(path))
                yield file

        patch.setattr(archive_module, 'whole_file', full)
        words = 'disk of .* is full' if error == errno.ENOSPC else 'refused'
        with pytest.raises(InputError, match=words):
            fetch(server, tmp_path)
    assert_nothing_wrong(tmp_path, coco)
    fetch(server, tmp_path)
    assert there(tmp_path) == wanted(coco)


def test_one_call_at_a_time(coco, tmp_path):
    with CocoServer(coco.root) as server:

        def second(line):
            with pytest.raises(InputError, match='Another download is writing'):
                fetch(server, tmp_path)
            calls.append(line)

        calls = []
        bring(order(server, tmp_path), say=second)
        assert calls


def spoil(path):
    """What a power cut can leave: the right size, and nothing in it."""
    path.write_bytes(bytes(path.stat().st_size))


def test_what_an_unfinished_call_left_is_read_again(server, tmp_path, coco):
    server.misbehave(Fault('status', status=404, path='train2017.zip', skip=4))
    with pytest.raises(InputError):
        fetch(server, tmp_path)
    assert 'train2017.index' not in notes(tmp_path)
    images = tmp_path / 'images/train2017'
    images.mkdir(exist_ok=True)
    for name, data in list(coco.images['train2017'].items())[:3]:
        (images / name).write_bytes(data)
        spoil(images / name)
    fetch(server, tmp_path)
    assert there(tmp_path) == wanted(coco)


def test_repair_reads_everything_again(server, tmp_path, coco):
    fetch(server, tmp_path)
    spoil(tmp_path / 'images/val2017' / next(iter(coco.images['val2017'])))
    spoil(tmp_path / 'annotations' / KEYPOINT_FILES[0])
    fetch(server, tmp_path)
    assert there(tmp_path) != wanted(coco)  # sizes alone do not tell
    fetch(server, tmp_path, repair=True)
    assert there(tmp_path) == wanted(coco)


def test_repair_brings_what_was_chosen(server, tmp_path, coco):
    fetch(server, tmp_path, keypoints_only=True)
    (tmp_path / 'images/train2017' / min(coco.with_keypoints['train2017'])).unlink()
    fetch(server, tmp_path, repair=True)
    assert there(tmp_path) == wanted(coco, keypoints_only=True)


@pytest.mark.parametrize('how', ['cut short', 'zeros', 'never there whole'])
def test_annotations_that_are_broken_are_mended_first(server, tmp_path, coco, how):
    path = tmp_path / 'annotations' / KEYPOINT_FILES[0]
    if how == 'never there whole':
        path.parent.mkdir()
        path.write_bytes(b'{"images": [')
    else:
        fetch(server, tmp_path, keypoints_only=True)
        whole = path.read_bytes()
        path.write_bytes(whole[:-50] if how == 'cut short' else bytes(len(whole)))
    lines = fetch(server, tmp_path, keypoints_only=True, repair=how == 'zeros')
    assert there(tmp_path) == wanted(coco, keypoints_only=True)
    assert any('unlike the published ones will be replaced' in line for line in lines)


def test_annotations_of_another_data_set(server, tmp_path, coco):
    fetch(server, tmp_path, keypoints_only=True)
    path = tmp_path / 'annotations' / KEYPOINT_FILES[0]
    name = min(coco.with_keypoints['train2017']).encode()
    path.write_bytes(path.read_bytes().replace(name, b'1' * 12 + b'.jpg'))
    (tmp_path / 'images/train2017' / name.decode()).unlink()
    with pytest.raises(InputError, match='do not belong together'):
        fetch(server, tmp_path, keypoints_only=True)
    fetch(server, tmp_path, keypoints_only=True, repair=True)
    assert there(tmp_path) == wanted(coco, keypoints_only=True)


def test_a_file_is_trusted_for_its_bytes_not_its_name(server, tmp_path, coco):
    """What was sealed does not vouch for what another archive would bring."""
    fetch(server, tmp_path)
    index = tmp_path / 'archives' / 'val2017.index'
    head, first, *rest = index.read_text().splitlines()
    name, size, crc = first.split('\t')
    wrong = f'{name}\t{size}\t{int(crc, 16) ^ 1:08x}'
    index.write_text('\n'.join([head, wrong, *rest]) + '\n')
    spoil(tmp_path / 'images/val2017' / name)
    (tmp_path / 'images/val2017' / rest[0].split('\t')[0]).unlink()
    fetch(server, tmp_path)
    assert there(tmp_path) == wanted(coco)


def test_a_damaged_note_costs_nothing_but_reading(server, tmp_path, coco):
    fetch(server, tmp_path)
    index = tmp_path / 'archives' / 'train2017.index'
    rng = random.Random(0)
    good = index.read_bytes()
    for _ in range(20):
        broken = bytearray(good)
        broken[rng.randrange(len(good))] ^= 1 << rng.randrange(8)
        index.write_bytes(broken)
        fetch(server, tmp_path)
        assert there(tmp_path) == wanted(coco)
    index.write_bytes(good[:100])
    fetch(server, tmp_path)
    assert there(tmp_path) == wanted(coco)
    assert index.read_bytes() == good


def test_files_of_the_user_stay(server, tmp_path):
    theirs = tmp_path / 'annotations' / 'my_labels.json.part'
    theirs.parent.mkdir()
    theirs.write_bytes(b'mine')
    fetch(server, tmp_path)
    assert theirs.read_bytes() == b'mine'


def test_what_a_killed_call_was_writing_is_removed(server, tmp_path, coco):
    name = next(iter(coco.images['train2017']))
    leftover = tmp_path / 'images/train2017' / f'{name}.part'
    leftover.parent.mkdir(parents=True)
    leftover.write_bytes(b'half')
    fetch(server, tmp_path)
    assert there(tmp_path) == wanted(coco)


def killed_in_a_process(server, wish, after):
    """Make a call in a process of its own, and kill it after so many bytes."""
    before = len(server.seen())
    process = CONTEXT.Process(target=bring, args=(wish,), kwargs={'say': _quiet})
    process.start()
    while process.is_alive():
        if sum(request.sent for request in server.seen()[before:]) >= after:
            break
        process.join(0.001)
    process.kill()
    process.join()


def _quiet(line):
    pass


CONTEXT = multiprocessing.get_context(
    'spawn' if sys.platform == 'win32' else 'forkserver'
)
CONTEXT.set_forkserver_preload(['sapiens_plugin.workbench.download.coco'])


def test_a_killed_call_is_finished_by_the_next(tmp_path, coco):
    rng = random.Random(0)
    interrupted = 0
    with CocoServer(coco.root) as server:

        def slowed(latency, rate):
            server.latency, server.rate = latency, rate

        fetch(server, tmp_path / 'all')
        total = server.sent()
        for number in range(50):
            root = tmp_path / str(number)
            choices = {
                'keypoints_only': rng.random() < 0.3,
                'keep_archives': rng.random() < 0.3,
                'connections': rng.choice([1, 4]),
            }
            server.ranges = rng.random() < 0.8
            slowed(0.003, 1_000_000)
            wish = order(server, root, **choices)
            killed_in_a_process(server, wish, after=rng.uniform(1, total))
            assert_nothing_wrong(root, coco)
            interrupted += not notes(root) >= NOTES
            slowed(0, None)
            fetch(server, root, **choices)
            keypoints_only = choices['keypoints_only']
            assert there(root) == wanted(coco, keypoints_only=keypoints_only)
            shutil.rmtree(root)
    assert interrupted > 25
