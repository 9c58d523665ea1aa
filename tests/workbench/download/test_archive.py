import random
import struct
import tracemalloc
import zipfile
import zlib

import pytest
from http_server import CocoServer, Fault
from small_coco import HOSTILE, corrupt_member, make_small_coco

from sapiens_plugin.errors import InputError
from sapiens_plugin.workbench.download import archive as archive_module
from sapiens_plugin.workbench.download.archive import Archive, damaged, extract, runs
from sapiens_plugin.workbench.download.transfer import (
    BLOCK,
    Connections,
    Patience,
    RemoteFile,
)

PATIENCE = Patience(attempts=3, first_wait=0.01)
WAYS = {
    'stored': {},
    'deflated': {'deflate_images': True},
    'zip64': {'zip64': True},
    'streamed': {'streamed': True},
    'streamed and deflated': {'streamed': True, 'deflate_images': True},
}


@pytest.fixture(scope='module')
def coco(tmp_path_factory):
    return make_small_coco(tmp_path_factory.mktemp('coco'), train=12, val=3)


def take(archive, directory, members=None, limit=10_000):
    directory.mkdir(exist_ok=True)
    broken, counts = [], []
    for group in runs(members or archive.members, limit=limit):
        broken += extract(archive, group, directory, on_bytes=counts.append)
    return broken, sum(counts)


def contents(directory):
    return {path.name: path.read_bytes() for path in directory.iterdir()}


@pytest.mark.parametrize('way', WAYS)
def test_takes_what_is_in_an_archive(tmp_path, way):
    coco = make_small_coco(tmp_path, train=12, val=3, **WAYS[way])
    archive = Archive.local(coco.archive('train2017'), folder='train2017')
    assert [m.name for m in archive.members] == list(coco.images['train2017'])
    broken, _ = take(archive, tmp_path / 'out')
    assert not broken
    assert contents(tmp_path / 'out') == coco.images['train2017']


def test_takes_from_a_server_just_the_bytes_of_what_is_wanted(tmp_path, coco):
    with CocoServer(coco.root) as server:
        file = RemoteFile(
            server.url + 'zips/train2017.zip',
            connections=Connections(patience=PATIENCE),
        )
        archive = Archive.remote(file, folder='train2017')
        before = len(server.seen())
        wanted = archive.members[1:3] + archive.members[9:10]
        broken, count = take(archive, tmp_path / 'out', wanted)
        assert not broken
        ranges = [request.range for request in server.seen()[before:]]
    assert ranges == [
        f'bytes={wanted[0].start}-{wanted[1].end - 1}',
        f'bytes={wanted[2].start}-{wanted[2].end - 1}',
    ]
    assert count == sum(member.end - member.start for member in wanted)
    images = coco.images['train2017']
    assert contents(tmp_path / 'out') == {m.name: images[m.name] for m in wanted}


def test_reads_the_contents_in_few_requests(coco):
    with CocoServer(coco.root) as server:
        connections = Connections(patience=PATIENCE)
        file = RemoteFile(server.url + 'zips/train2017.zip', connections=connections)
        Archive.remote(file, folder='train2017')
        assert len(server.seen()) <= 6


def test_other_folders_are_left_alone(coco, tmp_path):
    assert Archive.local(coco.archive('val2017'), folder='train2017').members == []
    archive = Archive.local(coco.archive('annotations'), folder='annotations')
    take(archive, tmp_path / 'out')
    names = {f'annotations/{name}' for name in contents(tmp_path / 'out')}
    assert names == set(coco.annotations)


@pytest.mark.parametrize('kind', HOSTILE)
def test_refuses_a_hostile_archive(tmp_path, kind):
    coco = make_small_coco(tmp_path, train=6, val=2, hostile=[kind])
    with pytest.raises(InputError, match='was refused') as caught:
        Archive.local(coco.archive('train2017'), folder='train2017')
    assert str(coco.archive('train2017')) in str(caught.value)


@pytest.mark.parametrize(
    'name',
    [
        'train2017/../x',
        'train2017/a/b',
        '/train2017/x',
        'train2017//x',
        '../train2017/x',
        'train2017/x:y',
        'train2017/..',
        'train2017/x.',
        'train2017/x.jpg.part',
        'train2017/con.jpg',
        'train2017/NUL',
        'train2017/x\x00.jpg',
        'train2017/é.jpg',
        'x.jpg',
        '-/x',
    ],
)
def test_refuses_names_that_are_not_plain(tmp_path, name):
    path = tmp_path / 'x.zip'
    with zipfile.ZipFile(path, 'w') as archive:
        archive.writestr('train2017/ab.jpg', b'')
        info = zipfile.ZipInfo('name')
        info.filename = info.orig_filename = name
        archive.writestr(info, b'x')
    with pytest.raises(InputError, match='something else to a file system'):
        Archive.local(path, folder='train2017')


def test_refuses_two_names_that_are_one_on_some_disks(tmp_path):
    path = tmp_path / 'x.zip'
    with zipfile.ZipFile(path, 'w') as archive:
        archive.writestr('train2017/a.jpg', b'')
        archive.writestr('train2017/A.jpg', b'')
    with pytest.raises(InputError, match='holds a file twice'):
        Archive.local(path, folder='train2017')


def test_refuses_ways_of_packing_that_it_does_not_know(tmp_path):
    path = tmp_path / 'x.zip'
    with zipfile.ZipFile(path, 'w', zipfile.ZIP_LZMA) as archive:
        archive.writestr('train2017/a.jpg', b'')
    with pytest.raises(InputError, match='packed by method 14'):
        Archive.local(path, folder='train2017')


def test_refuses_what_is_encrypted(tmp_path, coco):
    content = bytearray(coco.archive('val2017').read_bytes())
    at = content.index(b'PK\x01\x02', content.index(b'PK\x01\x02') + 1)
    content[at + 8] |= 1
    path = tmp_path / 'x.zip'
    path.write_bytes(content)
    with pytest.raises(InputError, match='is encrypted'):
        Archive.local(path, folder='val2017')


def test_refuses_what_is_no_whole_archive(tmp_path, coco):
    content = coco.archive('val2017').read_bytes()
    rng = random.Random(0)
    path = tmp_path / 'x.zip'
    cuts = [0, 1, len(content) - 1, *(rng.randrange(len(content)) for _ in range(50))]
    for end in cuts:
        path.write_bytes(content[:end])
        with pytest.raises(InputError, match='not a whole zip archive'):
            Archive.local(path, folder='val2017')


def test_a_damaged_member_does_not_appear_and_harms_no_other(tmp_path):
    coco = make_small_coco(tmp_path, train=12, val=3)
    bad = list(coco.images['train2017'])[5]
    corrupt_member(coco.archive('train2017'), f'train2017/{bad}')
    archive = Archive.local(coco.archive('train2017'), folder='train2017')
    broken, _ = take(archive, tmp_path / 'out')
    assert [member.name for member in broken] == [bad]
    expected = {k: v for k, v in coco.images['train2017'].items() if k != bad}
    assert contents(tmp_path / 'out') == expected


@pytest.mark.parametrize('way', WAYS)
def test_no_flipped_byte_gets_through(tmp_path, way):
    """Wherever a byte is wrong, what appears is right, and the rest is reported."""
    coco = make_small_coco(tmp_path, train=4, val=1, **WAYS[way])
    images, path = coco.images['train2017'], coco.archive('train2017')
    content = path.read_bytes()
    rng = random.Random(1)
    refused = reported = 0
    for i in range(150):
        broken = bytearray(content)
        broken[rng.randrange(len(content))] ^= 1 << rng.randrange(8)
        path.write_bytes(broken)
        out = tmp_path / f'out{i}'
        try:
            archive = Archive.local(path, folder='train2017')
        except InputError:
            refused += 1
            continue
        broken, _ = take(archive, out)
        reported += bool(broken)
        lost = {member.name for member in broken}
        for name, data in contents(out).items():
            # A flip in the table of contents can rename a file, never change one.
            assert name not in lost
            assert data == images.get(name, data)
            assert data in images.values()
    assert reported > 50


@pytest.mark.parametrize('fault', ['corrupt', 'range lied'])
def test_wrong_bytes_of_a_server_do_not_get_through(tmp_path, coco, fault):
    with CocoServer(coco.root) as server:
        file = RemoteFile(
            server.url + 'zips/train2017.zip',
            connections=Connections(patience=PATIENCE),
        )
        archive = Archive.remote(file, folder='train2017')
        server.misbehave(Fault(fault, times=None))
        broken, _ = take(archive, tmp_path / 'out')
    assert broken
    images = coco.images['train2017']
    lost = {member.name for member in broken}
    assert contents(tmp_path / 'out') == {
        name: data for name, data in images.items() if name not in lost
    }


def test_a_bomb_goes_off_in_a_small_space(tmp_path):
    """A member that says it has 1 kB and unpacks to 200 MB."""
    path = tmp_path / 'x.zip'
    with zipfile.ZipFile(path, 'w', zipfile.ZIP_DEFLATED) as archive:
        archive.writestr('train2017/a.jpg', bytes(200_000_000))
    content = bytearray(path.read_bytes())
    table = content.rindex(b'PK\x01\x02')
    struct.pack_into('<I', content, table + 24, 1000)
    path.write_bytes(content)
    (member,) = Archive.local(path, folder='train2017').members
    assert member.size == 1000
    archive = Archive.local(path, folder='train2017')
    tracemalloc.start()
    broken, _ = take(archive, tmp_path / 'out')
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert broken == [member]
    assert peak < 5_000_000
    assert contents(tmp_path / 'out') == {}


def test_a_record_that_reaches_into_the_next_is_damaged(tmp_path):
    """Overlapping members are how a small archive unpacks to petabytes."""
    path = tmp_path / 'x.zip'
    with zipfile.ZipFile(path, 'w') as archive:
        archive.writestr('train2017/a.jpg', b'a' * 100)
        archive.writestr('train2017/b.jpg', b'b' * 100)
    content = bytearray(path.read_bytes())
    table = content.index(b'PK\x01\x02')
    data = content.index(b'a' * 100)
    reach = bytes(content[data : data + 200])
    for at in (table + 20, table + 24):
        struct.pack_into('<I', content, at, 200)
    struct.pack_into('<I', content, table + 16, zlib.crc32(reach))
    path.write_bytes(content)
    archive = Archive.local(path, folder='train2017')
    broken, _ = take(archive, tmp_path / 'out')
    assert [member.name for member in broken] == ['a.jpg']
    assert contents(tmp_path / 'out') == {'b.jpg': b'b' * 100}


def test_runs_are_neighbours_up_to_a_limit(coco):
    members = Archive.local(coco.archive('train2017'), folder='train2017').members
    groups = list(runs(members, limit=5_000))
    assert [member for group in groups for member in group] == members
    assert len(groups) > 1
    for group in groups:
        assert len(group) == 1 or group[-1].end - group[0].start <= 5_000
    assert list(runs(members, limit=1)) == [[member] for member in members]
    assert list(runs([], limit=1)) == []


@pytest.mark.parametrize('size', [0, 1, BLOCK - 1, BLOCK, BLOCK + 25, 3 * BLOCK + 60])
@pytest.mark.parametrize('content', ['zeros', 'noise'])
def test_deflated_members_of_any_length(tmp_path, size, content):
    data = bytes(size) if content == 'zeros' else random.Random(0).randbytes(size)
    path = tmp_path / 'x.zip'
    with zipfile.ZipFile(path, 'w', zipfile.ZIP_DEFLATED) as archive:
        archive.writestr('train2017/a.jpg', data)
    broken, _ = take(Archive.local(path, folder='train2017'), tmp_path / 'out')
    assert not broken
    assert contents(tmp_path / 'out') == {'a.jpg': data}


@pytest.mark.parametrize('tail', [b'', b'x', bytes(3 * BLOCK)])
def test_bytes_behind_the_end_of_a_deflated_member_are_damage(tail):
    packer = zlib.compressobj(wbits=-15)
    packed = packer.compress(b'image') + packer.flush()
    blocks = [packed, *(tail[i : i + BLOCK] for i in range(0, len(tail), BLOCK))]
    inflated = archive_module._inflated(iter(blocks), zipfile.ZIP_DEFLATED)
    if tail:
        with pytest.raises(archive_module.Damaged):
            list(inflated)
    else:
        assert b''.join(inflated) == b'image'
    with pytest.raises(archive_module.Damaged):
        list(archive_module._inflated(iter([packed[:-1]]), zipfile.ZIP_DEFLATED))


def two_members(path):
    with zipfile.ZipFile(path, 'w') as archive:
        archive.writestr('train2017/a.jpg', b'a' * 100)
        archive.writestr('train2017/b.jpg', b'b' * 100)
    return bytearray(path.read_bytes())


def test_members_at_one_place_are_refused(tmp_path):
    path = tmp_path / 'x.zip'
    content = two_members(path)
    second = content.rindex(b'PK\x01\x02')
    struct.pack_into('<I', content, second + 42, 5)
    path.write_bytes(content)
    with pytest.raises(InputError, match='lies where it cannot'):
        Archive.local(path, folder='train2017')


def test_a_member_before_the_archive_is_refused(tmp_path):
    path = tmp_path / 'x.zip'
    content = two_members(path)
    end = content.rindex(b'PK\x05\x06')
    (start,) = struct.unpack_from('<I', content, end + 16)
    struct.pack_into('<I', content, end + 16, start + 50)
    path.write_bytes(content)
    with pytest.raises(InputError, match='lies where it cannot'):
        Archive.local(path, folder='train2017')


def test_a_table_of_contents_without_measure_is_refused(tmp_path, monkeypatch):
    path = tmp_path / 'x.zip'
    two_members(path)
    monkeypatch.setattr(archive_module, '_LARGEST_TABLE', 50)
    with pytest.raises(InputError, match='absurdly large'):
        Archive.local(path, folder='train2017')


def test_members_are_sorted_by_their_places(tmp_path):
    path = tmp_path / 'x.zip'
    content = two_members(path)
    first, second = content.index(b'PK\x01\x02'), content.rindex(b'PK\x01\x02')
    end = content.rindex(b'PK\x05\x06')
    table = content[second:end] + content[first:second]
    path.write_bytes(content[:first] + table + content[end:])
    archive = Archive.local(path, folder='train2017')
    assert [member.name for member in archive.members] == ['a.jpg', 'b.jpg']
    assert take(archive, tmp_path / 'out')[0] == []


def test_damage_is_found_without_writing(tmp_path):
    coco = make_small_coco(tmp_path, train=8, val=2)
    bad = list(coco.images['train2017'])[5]
    corrupt_member(coco.archive('train2017'), f'train2017/{bad}')
    archive = Archive.local(coco.archive('train2017'), folder='train2017')
    counts = []
    found = damaged(archive, archive.members, on_bytes=counts.append)
    assert [member.name for member in found] == [bad]
    assert sum(counts) == archive.members[-1].end - archive.members[0].start
