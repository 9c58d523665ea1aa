"""Files out of a hub that cuts, refuses, lies and changes."""

import errno
import hashlib
import os
import random
import shutil
import subprocess
import sys
import time
from contextlib import suppress
from pathlib import Path
from types import SimpleNamespace

import pytest
from http_server import http_date
from hub_server import (
    HubServer,
    changed,
    cut,
    hang_up,
    lfs_pointer,
    other,
    status,
)
from huggingface_hub import close_session, constants

from sapiens_plugin.errors import InputError
from sapiens_plugin.workbench.download.hub import fetch, open_repository
from sapiens_plugin.workbench.download.transfer import (
    Connections,
    SourceError,
    Unreachable,
)

REPO = 'someone/some-model'
CONTENT = random.Random(0).randbytes(300_000)
SMALL = b'{"kept": "in git"}'


@pytest.fixture
def server(monkeypatch):
    monkeypatch.setenv('NO_PROXY', '*')
    monkeypatch.delenv('HF_TOKEN', raising=False)
    monkeypatch.setattr(constants, 'HF_TOKEN_PATH', '/nowhere/token')
    close_session()
    with HubServer() as server:
        server.commit(
            REPO, {'deep/model.bin': CONTENT, 'config.json': SMALL}, license='mit'
        )
        yield server
        close_session()


@pytest.fixture
def pauses(monkeypatch) -> list[float]:
    """The pauses between attempts, which take no time here."""
    pauses = []
    monkeypatch.setattr(Connections, 'wait', lambda self, s, why: pauses.append(s))
    return pauses


@pytest.fixture
def get(server, tmp_path):
    """Fetch a file as it is in the repository now; return where it is to lie."""

    def get(name: str = 'model.bin') -> Path:
        repository = open_repository(REPO, endpoint=server.endpoint)
        file = next(file for file in repository.files if file.name == name)
        return fetch(file, tmp_path / 'to' / name, endpoint=server.endpoint)

    return get


def lying_in(tmp_path: Path) -> list[str]:
    return sorted(path.name for path in tmp_path.glob('to/*'))


def part_in(tmp_path: Path) -> Path:
    return next(tmp_path.glob('to/*.part'))


# --- What is there ------------------------------------------------------------------


def test_a_repository_is_listed_at_one_commit(server):
    sha = server.commit(
        REPO,
        {'model.bin': CONTENT, 'config.json': SMALL},
        license='other',
        license_name='house-rules',
        license_link='LICENSE.md',
    )
    repository = open_repository(REPO, endpoint=server.endpoint + '/')
    assert repository.commit == sha
    assert repository.address == f'{server.endpoint}/{REPO}'
    assert repository.licence == 'house-rules'
    assert repository.licence_link == f'{repository.address}/blob/{sha}/LICENSE.md'
    large, small = repository.files
    assert (large.path, large.size) == ('model.bin', len(CONTENT))
    assert large.digest == hashlib.sha256(CONTENT).hexdigest()
    assert (large.hash_name, small.hash_name) == ('SHA-256', 'git hash')
    git = subprocess.run(
        ['git', 'hash-object', '--stdin'], input=SMALL, capture_output=True, timeout=30
    )
    assert small.digest == git.stdout.decode().strip()


def test_a_card_may_name_no_licence(server):
    server.commit(REPO, {})
    repository = open_repository(REPO, endpoint=server.endpoint)
    assert (repository.licence, repository.licence_link) == (None, None)
    assert repository.files == ()


@pytest.mark.parametrize(('name', 'content'), [('model.bin', CONTENT),
                                               ('config.json', SMALL)])  # fmt: skip
def test_a_file_comes_whole_and_alone(get, tmp_path, name, content):
    assert get(name).read_bytes() == content
    assert lying_in(tmp_path) == [name]


def test_a_file_that_is_there_is_compared_and_not_fetched(get, server, capsys):
    path = get()
    before = path.stat().st_mtime_ns
    assert get() == path
    assert path.stat().st_mtime_ns == before
    assert len(server.asked('cdn')) == 1
    assert 'is what the hub has' in capsys.readouterr().out


@pytest.mark.parametrize('edit', [lambda b: b[:-1], lambda b: b[:-1] + b'?'])
def test_a_file_that_is_there_and_wrong_is_replaced(get, tmp_path, capsys, edit):
    path = tmp_path / 'to' / 'model.bin'
    path.parent.mkdir()
    path.write_bytes(edit(CONTENT))
    assert get().read_bytes() == CONTENT
    assert 'is not what the hub has' in capsys.readouterr().out


# --- Cuts ---------------------------------------------------------------------------


@pytest.mark.parametrize('reset', [False, True])
def test_a_cut_is_mended_within_a_call(get, server, pauses, reset):
    server.misbehave('cdn', cut(100_000, reset=reset), cut(50_000, reset=reset))
    assert get().read_bytes() == CONTENT
    first, second, third = server.asked('cdn')
    # What a reset leaves unread is lost; after an orderly end nothing is.
    assert first.start == 0 < second.start <= 100_000
    assert second.start < third.start <= second.start + 50_000
    if not reset:
        assert sum(r.sent for r in server.asked('cdn')) == len(CONTENT)
    assert pauses == [1, 1]  # there was progress


def test_a_call_goes_on_where_the_last_one_gave_up(
    get, server, pauses, tmp_path, capsys
):
    gone = status(503)
    server.misbehave('cdn', cut(123_457), *[gone] * 7)
    with pytest.raises(Unreachable, match='server says 503'):
        get()
    assert pauses == [1, 2, 4, 8, 16, 32, 64]
    assert part_in(tmp_path).read_bytes() == CONTENT[:123_457]
    assert not (tmp_path / 'to' / 'model.bin').exists()
    assert get().read_bytes() == CONTENT
    assert server.asked('cdn')[-1].start == 123_457
    assert sum(r.sent for r in server.asked('cdn')) == len(CONTENT)
    assert lying_in(tmp_path) == ['model.bin']
    assert '0.1 MB of model.bin are there' in capsys.readouterr().out


def test_without_ranges_a_file_is_fetched_anew(get, server):
    server.misbehave('cdn', cut(100_000))
    server.has_ranges = False
    assert get().read_bytes() == CONTENT
    assert [r.sent for r in server.asked('cdn')] == [100_000, len(CONTENT)]


def test_an_empty_answer_is_no_progress(get, server, pauses):
    server.misbehave('cdn', cut(100_000))

    def empty(handler, content, start):
        total = len(content)
        fields = {'Content-Range': f'bytes {start}-{total - 1}/{total}'}
        handler.answer(206, b'', fields)

    server.misbehave('cdn', empty, empty)
    assert get().read_bytes() == CONTENT
    assert pauses == [1, 2, 4]


def test_another_commit_does_not_go_on_with_the_bytes_of_the_last(
    get, server, pauses, tmp_path
):
    server.misbehave('cdn', cut(100_000), *[status(500)] * 7)
    with pytest.raises(Unreachable):
        get()
    newer = CONTENT[::-1]
    server.commit(REPO, {'model.bin': newer})
    assert get().read_bytes() == newer
    assert server.asked('cdn')[-1].start == 0
    assert lying_in(tmp_path) == ['model.bin']


def test_a_new_commit_between_listing_and_fetching_changes_nothing(server, tmp_path):
    file = open_repository(REPO, endpoint=server.endpoint).files[0]
    server.commit(REPO, {'deep/model.bin': CONTENT[::-1]})
    path = fetch(file, tmp_path / 'model.bin', endpoint=server.endpoint)
    assert path.read_bytes() == CONTENT


def test_killed_at_any_time_the_next_call_completes(server, tmp_path):
    path = tmp_path / 'to' / 'model.bin'
    content = random.Random(1).randbytes(2_000_000)
    server.commit(REPO, {'model.bin': content})
    server.pace = 0.004  # 2 MB take half a second
    code = (
        'import sys\n'
        'from pathlib import Path\n'
        'from sapiens_plugin.workbench.download.hub import fetch, open_repository\n'
        'file = open_repository(sys.argv[2], endpoint=sys.argv[1]).files[0]\n'
        'fetch(file, Path(sys.argv[3]), endpoint=sys.argv[1])\n'
    )
    command = [sys.executable, '-c', code, server.endpoint, REPO, str(path)]
    held, kills = 0, 0
    times = random.Random(2)
    while kills < 8:
        asked = len(server.requests)
        child = subprocess.Popen(command, stdout=subprocess.DEVNULL)
        try:
            while len(server.requests) == asked:
                assert child.poll() is None
                time.sleep(0.001)
            time.sleep(times.uniform(0, 0.15))
        finally:
            child.kill()
            child.wait()
        kills += 1
        resumed = [r.start for r in server.requests[asked:] if r.kind == 'cdn']
        assert all(start == held for start in resumed)
        if path.exists():
            break
        held = sum(part.stat().st_size for part in path.parent.glob('*.part'))
    assert kills > 2
    subprocess.run(command, check=True, timeout=60, stdout=subprocess.DEVNULL)
    assert path.read_bytes() == content
    assert lying_in(tmp_path) == ['model.bin']


# --- Wrong bytes --------------------------------------------------------------------


def test_wrong_bytes_of_the_right_size_are_deleted(get, server, tmp_path):
    server.misbehave('cdn', changed(lambda content: content[:-1] + b'?'))
    with pytest.raises(InputError, match=r'SHA-256 is .* should be .* deleted'):
        get()
    assert not any('model.bin' == name or 'part' in name for name in lying_in(tmp_path))
    assert get().read_bytes() == CONTENT


def test_wrong_bytes_of_a_small_file_are_deleted(get, server, tmp_path):
    server.misbehave('resolve', changed(bytes.upper))
    with pytest.raises(InputError, match='git hash is'):
        get('config.json')
    assert not any('part' in name for name in lying_in(tmp_path))
    assert get('config.json').read_bytes() == SMALL


PAGE = b'<!doctype html><title>Log in to the hotel</title>'


@pytest.mark.parametrize(
    ('fault', 'found'),
    [
        (changed(lambda b: b + b'more'), 'not the file that it should be'),
        (changed(lambda b: b[:-7]), 'not the file that it should be'),
        (other(PAGE, kind='text/html'), 'a web page'),
        (other(PAGE, kind='text/html', with_length=False), 'a web page'),
        (other(lfs_pointer(CONTENT), kind='text/plain'), 'a mirror stands in between'),
    ],
)
@pytest.mark.parametrize('resumed', [False, True])
def test_something_else_than_the_file_is_refused(
    get, server, pauses, tmp_path, fault, found, resumed
):
    if resumed:
        server.misbehave('cdn', cut(100_000))
    server.misbehave('cdn', fault)
    with pytest.raises(InputError, match=found):
        get()
    assert len(server.asked('cdn')) == 1 + resumed
    assert not (tmp_path / 'to' / 'model.bin').exists()
    assert get().read_bytes() == CONTENT
    if resumed:
        assert server.asked('cdn')[-1].start == 100_000  # a page has cost nothing


@pytest.mark.parametrize('resumed', [False, True])
def test_what_follows_the_last_byte_is_not_taken(get, server, pauses, resumed):
    if resumed:
        server.misbehave('cdn', cut(100_000))
    server.misbehave('cdn', other(CONTENT + b'?', kind='x/y', with_length=False))
    assert get().read_bytes() == CONTENT


def test_another_part_than_asked_for_is_not_taken(get, server, pauses):
    server.misbehave('cdn', cut(100_000))
    server.misbehave('cdn', lambda handler, body, start: handler.serve(body, start + 1))
    assert get().read_bytes() == CONTENT
    assert [request.start for request in server.asked('cdn')] == [0, 100_000, 100_000]


def test_an_endless_answer_does_not_fill_the_disk(get, server, tmp_path):
    sent = []

    def endless(handler, content, start):
        handler.send_response(200)
        handler.send_header('Connection', 'close')
        handler.end_headers()
        with suppress(ConnectionError):
            while len(sent) < 1000:
                handler.wfile.write(bytes(100_000))
                sent.append(100_000)

    server.misbehave('cdn', endless)
    with pytest.raises(InputError, match=r'SHA-256 is .* should be .* deleted'):
        get()
    assert sum(sent) < 50_000_000  # what the sockets hold is on its way
    assert get().read_bytes() == CONTENT


# --- Refusals -----------------------------------------------------------------------


@pytest.mark.parametrize(
    ('kind', 'fault', 'kind_of_error', 'message'),
    [
        ('api', status(401), SourceError, 'some-model.* says 401.*HF_TOKEN'),
        ('api', status(403), SourceError, 'some-model.* says 403.*not for this user'),
        ('api', status(404), SourceError, 'some-model.* says 404.*look for it on'),
        ('api', status(500), Unreachable, 'says 500'),
        ('api', status(520), Unreachable, 'server says 520'),
        ('api', status(429), Unreachable, 'says 429.*HF_TOKEN'),
        ('api', other(PAGE, kind='text/html'), SourceError, 'a web page'),
        ('api', other(b'[]', kind='application/json'), InputError, 'did not answer as'),
        ('api', hang_up, Unreachable, 'no connection.*HTTPS_PROXY'),
        ('resolve', status(401), SourceError, r'model\.bin .* says 401.*HF_TOKEN'),
        (
            'resolve',
            status(403, error_code='GatedRepo'),
            SourceError,
            'accepted its',
        ),
        ('resolve', status(404), SourceError, r'model\.bin .* says 404'),
        ('resolve', status(500), Unreachable, 'says 500.*to go on'),
        ('resolve', status(429), Unreachable, 'says 429.*raises the limit'),
        ('cdn', status(403), SourceError, r'model\.bin .* says 403'),
        (
            'cdn',
            cut(0),
            Unreachable,
            r'model\.bin cannot be read: the connection',
        ),
        ('cdn', hang_up, Unreachable, r'model\.bin cannot be read: no connection'),
    ],
)
def test_a_refusal_is_one_paragraph_with_a_way_out(
    get, server, pauses, tmp_path, kind, fault, kind_of_error, message
):
    server.misbehave(kind, *[fault] * 20)
    with pytest.raises(InputError, match=message) as error:
        get()
    assert error.type is kind_of_error
    assert '\n' not in str(error.value)
    assert not (tmp_path / 'to' / 'model.bin').exists()
    server.behave()
    assert get().read_bytes() == CONTENT
    assert lying_in(tmp_path) == ['model.bin']


def test_a_server_is_left_alone_for_as_long_as_it_asks(get, server, pauses):
    server.misbehave('api', status(429, retry_after='7'))
    server.misbehave('cdn', status(429, retry_after='40'), status(503))
    assert get().read_bytes() == CONTENT
    assert pauses == [7, 40, 2]


def test_a_server_may_ask_by_a_date(get, server, pauses):
    server.misbehave('cdn', status(503, retry_after=http_date(60)))
    get()
    assert 55 < pauses[0] <= 61


def test_nobody_waits_for_an_hour(get, server, pauses):
    busy = status(429, retry_after='3600')
    server.misbehave('cdn', busy)
    assert get().read_bytes() == CONTENT
    assert pauses == [300]
    server.misbehave('api', *[busy] * 3)
    with pytest.raises(Unreachable, match='Too Many Requests'):
        get()
    assert pauses == [300, 10, 10]


@pytest.mark.parametrize(
    'listed',
    [
        b'{"sha": "abc", "siblings": [{"rfilename": "x"}]}',
        b'{"sha": "abc", "siblings": [{"rfilename": "x", "size": 1, "blobId": null}]}',
        b'{"sha": "a", "siblings": [{"rfilename": "x", "size": null, "blobId": "a"}]}',
        b'{"sha": null, "siblings": []}',
    ],
)
def test_a_mirror_without_hashes_is_refused(server, listed):
    server.misbehave('api', other(listed, kind='application/json'))
    with pytest.raises(InputError, match='no sizes and hashes'):
        open_repository(REPO, endpoint=server.endpoint)


def test_the_token_goes_to_the_hub_and_not_to_its_cdn(get, server, monkeypatch):
    monkeypatch.setenv('HF_TOKEN', 'hf_secret')
    get()
    for kind, token in (('api', 'Bearer hf_secret'), ('resolve', 'Bearer hf_secret'),
                        ('cdn', None)):  # fmt: skip
        assert {request.token for request in server.asked(kind)} == {token}


def test_a_password_for_git_does_not_take_the_place_of_the_token(
    get, server, monkeypatch, tmp_path
):
    netrc = tmp_path / 'netrc'
    netrc.write_text('machine 127.0.0.1 login me password git', encoding='utf-8')
    monkeypatch.setenv('NETRC', str(netrc))
    monkeypatch.setenv('HF_TOKEN', 'hf_secret')
    get()
    assert [r.token for r in server.requests] == ['Bearer hf_secret'] * 2 + [None]


def test_offline_mode_asks_nobody(get, server, monkeypatch):
    monkeypatch.setattr(constants, 'HF_HUB_OFFLINE', True)
    with pytest.raises(Unreachable, match='Unset HF_HUB_OFFLINE'):
        get()
    assert server.requests == []


def test_no_hub_at_all(pauses, monkeypatch):
    monkeypatch.setenv('NO_PROXY', '*')
    close_session()
    with HubServer() as server:
        pass
    with pytest.raises(Unreachable, match=r'cannot be read: no connection'):
        open_repository(REPO, endpoint=server.endpoint)
    assert pauses == [1, 2]


@pytest.mark.parametrize('address', ['mirror.example', 'http://x:port', 'http://'])
def test_no_address_of_a_hub(address):
    with pytest.raises(InputError, match=r'is no address.* HF_ENDPOINT'):
        open_repository(REPO, endpoint=address)


# --- The disk -----------------------------------------------------------------------


def test_room_is_asked_for_before_the_first_byte(
    get, server, pauses, tmp_path, monkeypatch
):
    free = 64 * 1024**2 + len(CONTENT)
    monkeypatch.setattr(shutil, 'disk_usage', lambda _: SimpleNamespace(free=free - 1))
    with pytest.raises(InputError, match=r'model\.bin needs 67\.4 MB'):
        get()
    assert server.asked('resolve') == []
    # A part that is there needs no room any more.
    monkeypatch.undo()
    server.misbehave('cdn', cut(100_000), status(403))
    with pytest.raises(InputError, match='says 403'):
        get()
    usage = SimpleNamespace(free=free - 100_000)
    monkeypatch.setattr(shutil, 'disk_usage', lambda _: usage)
    assert get().read_bytes() == CONTENT


def test_a_disk_that_becomes_full(get, server, monkeypatch):
    def full(descriptor):
        raise OSError(errno.ENOSPC, 'no space')

    with monkeypatch.context() as patch:
        patch.setattr(os, 'fsync', full)
        with pytest.raises(InputError, match=r'disk of .* is full'):
            get()
    assert get().read_bytes() == CONTENT


def test_a_folder_that_cannot_be_made(get, tmp_path):
    (tmp_path / 'to').write_text('a file', encoding='utf-8')
    with pytest.raises(InputError, match=r'to: .*Mend that'):
        get()


def test_two_processes_do_not_write_one_file(get, tmp_path):
    from filelock import FileLock

    (tmp_path / 'to').mkdir()
    with (
        FileLock(tmp_path / 'to' / 'model.bin.lock'),
        pytest.raises(InputError, match=r'Another process is fetching model\.bin'),
    ):
        get()
    assert get().read_bytes() == CONTENT
    assert lying_in(tmp_path) == ['model.bin']
