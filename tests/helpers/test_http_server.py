"""The server fails as it says; otherwise tests that lean on it would test nothing."""

import http.client
import threading
import time

import pytest
from http_server import CocoServer, Fault, http_date

DATA = bytes(range(256)) * 1000


@pytest.fixture
def server():
    with CocoServer({'zips/a.zip': DATA}) as server:
        yield server


def get(server, *, method='GET', path='/zips/a.zip', connection=None, **headers):
    own = connection or http.client.HTTPConnection(server.url[7:-1], timeout=10)
    headers = {name.replace('_', '-'): value for name, value in headers.items()}
    try:
        own.request(method, path, headers=headers)
        answer = own.getresponse()
        return answer, answer.read()
    finally:
        if connection is None:
            own.close()


def test_it_serves_files_of_a_folder_and_nothing_outside(tmp_path):
    (tmp_path / 'served').mkdir()
    (tmp_path / 'served' / 'inside').write_bytes(b'yes')
    (tmp_path / 'outside').write_bytes(b'no')
    with CocoServer(tmp_path / 'served') as server:
        assert get(server, path='/inside')[1] == b'yes'
        for path in ('/missing', '/../outside', '/'):
            assert get(server, path=path)[0].status == 404


@pytest.mark.parametrize(
    ('asked', 'part'),
    [
        ('bytes=0-0', slice(0, 1)),
        ('bytes=100-299', slice(100, 300)),
        ('bytes=255990-', slice(255_990, None)),
        ('bytes=255990-999999', slice(255_990, None)),
        ('bytes=-22', slice(-22, None)),
        ('bytes=-999999', slice(None)),
    ],
)
def test_it_serves_parts(server, asked, part):
    answer, body = get(server, Range=asked)
    assert answer.status == 206 and body == DATA[part]
    first, last, size = part.indices(len(DATA))[0], len(body) - 1, len(DATA)
    assert answer.headers['Content-Range'] == f'bytes {first}-{first + last}/{size}'
    assert server.requests[-1].range == asked and server.sent('a.zip') == len(body)


def test_parts_behind_the_end_are_416_and_odd_ones_are_ignored(server):
    answer, _ = get(server, Range='bytes=256000-')
    assert answer.status == 416
    assert answer.headers['Content-Range'] == 'bytes */256000'
    for odd in ('bytes=5-2', 'bytes=0-1,5-6', 'lines=1-2', 'bytes=-'):
        answer, body = get(server, Range=odd)
        assert answer.status == 200 and body == DATA


def test_a_head_says_what_there_is(server):
    answer, body = get(server, method='HEAD')
    assert answer.status == 200 and body == b'' and server.sent() == 0
    assert answer.headers['Content-Length'] == '256000'
    assert answer.headers['Accept-Ranges'] == 'bytes'


def test_a_server_without_ranges_sends_everything():
    with CocoServer({'zips/a.zip': DATA}, ranges=False, etags=False) as server:
        answer, body = get(server, Range='bytes=1-2')
    assert answer.status == 200 and body == DATA
    assert answer.headers['Accept-Ranges'] == 'none' and not answer.headers['ETag']


def test_conditions_hold_until_the_file_is_replaced(server):
    first, _ = get(server, method='HEAD')
    etag, date = first.headers['ETag'], first.headers['Last-Modified']
    conditions = [{'If_Match': etag}, {'If_Range': etag}, {'If_Range': date}]
    for condition in conditions:
        assert get(server, Range='bytes=0-1', **condition)[0].status == 206
    server.replace('zips/a.zip', b'other')
    assert get(server, Range='bytes=0-1', If_Match=etag)[0].status == 412
    answer, body = get(server, Range='bytes=0-1', If_Range=etag)
    assert answer.status == 200 and body == b'other'


def test_a_fault_can_replace_the_file(server):
    server.misbehave(Fault('replace', data=b'new', skip=1))
    first, other = get(server), get(server)
    assert first[1] == DATA and other[1] == b'new'
    assert first[0].headers['ETag'] != other[0].headers['ETag']


def test_connections_are_kept(server):
    connection = http.client.HTTPConnection(server.url[7:-1], timeout=10)
    get(server, connection=connection)
    own_port = connection.sock.getsockname()
    get(server, connection=connection, method='HEAD')
    get(server, connection=connection, path='/missing')
    get(server, connection=connection, Range='bytes=5-6')
    assert connection.sock.getsockname() == own_port
    connection.close()


def test_it_cuts(server):
    server.misbehave(Fault('cut', 'a.zip', after_bytes=100_000, times=2))
    for _ in range(2):
        with pytest.raises(http.client.IncompleteRead) as caught:
            get(server)
        assert caught.value.partial == DATA[:100_000]
    assert get(server)[1] == DATA
    assert [one.sent for one in server.requests] == [100_000, 100_000, 256_000]


def test_it_cuts_anywhere_by_its_seed():
    places = []
    for _ in range(2):
        with CocoServer({'zips/a.zip': DATA}, seed=3) as server:
            server.misbehave(Fault('cut', times=5))
            for _ in range(5):
                with pytest.raises(http.client.IncompleteRead):
                    get(server)
            places.append([one.sent for one in server.requests])
    assert places[0] == places[1] and len(set(places[0])) == 5


def test_it_resets_and_drops(server):
    server.misbehave(Fault('reset', after_bytes=10))
    with pytest.raises(ConnectionResetError):
        get(server)
    server.misbehave(Fault('drop'))
    with pytest.raises(http.client.RemoteDisconnected):
        get(server)
    assert get(server)[1] == DATA


def test_it_lies_about_the_length(server):
    server.misbehave(Fault('length too long', after_bytes=7))
    with pytest.raises(http.client.IncompleteRead) as caught:
        get(server)
    assert caught.value.partial == DATA and caught.value.expected == 7
    server.misbehave(Fault('length too short', after_bytes=1000))
    assert get(server)[1] == DATA[:1000]


def test_it_lies_about_ranges(server):
    def struck(kind, **settings):
        server.misbehave(Fault(kind, **settings))
        answer, body = get(server, Range='bytes=100-199')
        return answer.status, answer.headers['Content-Range'], body

    right, moved = DATA[100:200], DATA[101:201]
    assert struck('range shifted') == (206, 'bytes 101-200/256000', moved)
    assert struck('range lied') == (206, 'bytes 100-199/256000', moved)
    named, short = 'bytes 100-149/256000', DATA[100:150]
    assert struck('range too short', after_bytes=50) == (206, named, short)
    assert struck('range unnamed') == (206, None, right)
    assert struck('range ignored') == (200, None, DATA)


@pytest.mark.parametrize('status', [404, 416, 429, 500, 503])
def test_it_fails(server, status):
    when = http_date(2)
    server.misbehave(Fault('status', status=status, retry_after=when, method=None))
    answer, body = get(server, Range='bytes=0-1')
    assert answer.status == status and answer.headers['Retry-After'] == when
    assert b'<html>' in body
    assert get(server)[0].status == 200


def test_it_shows_pages(server):
    server.misbehave(Fault('html'), Fault('redirect'))
    answer, body = get(server)
    assert answer.status == 200 and b'<html>' in body and b'<html>' not in DATA
    answer, _ = get(server)
    assert answer.status == 302
    answer, body = get(server, path=answer.headers['Location'])
    assert answer.status == 200 and b'<html>' in body


def test_it_corrupts_one_byte(server):
    server.misbehave(Fault('corrupt', after_bytes=77))
    _, body = get(server)
    assert [i for i in range(len(DATA)) if body[i] != DATA[i]] == [77]
    assert get(server)[1] == DATA


def test_it_hangs_and_goes_on(server):
    for where in (None, 100_000):
        server.misbehave(Fault('hang', seconds=0.3, after_bytes=where))
        start = time.monotonic()
        assert get(server)[1] == DATA
        assert time.monotonic() - start >= 0.3


def test_it_slows_down(server):
    server.misbehave(Fault('slow', rate=640_000))
    start = time.monotonic()
    assert get(server)[1] == DATA
    assert time.monotonic() - start >= 0.39


def test_faults_pick_their_requests(server):
    server.misbehave(
        Fault('status', 'other.zip', status=500),
        Fault('status', 'a.zip', status=503, method='HEAD'),
        Fault('status', 'a.zip', status=404, skip=1, times=None),
    )
    seen = [get(server)[0].status for _ in range(3)]
    assert seen == [200, 404, 404]
    assert get(server, method='HEAD')[0].status == 503
    server.behave()
    assert get(server)[0].status == 200
    struck = [one.fault for one in server.seen('a.zip', 'GET')]
    assert struck == [None, 'status', 'status', None]


def test_leaving_ends_what_hangs_and_every_thread():
    before = threading.active_count()
    start = time.monotonic()
    with CocoServer({'zips/a.zip': DATA}) as server:
        server.misbehave(Fault('hang', 'a.zip', seconds=60))
        idle = http.client.HTTPConnection(server.url[7:-1], timeout=10)
        get(server, path='/missing', connection=idle)
        hanging = http.client.HTTPConnection(server.url[7:-1], timeout=10)
        hanging.request('GET', '/zips/a.zip')
        while not server.seen('a.zip'):
            time.sleep(0.01)
    assert time.monotonic() - start < 5 and threading.active_count() == before
    idle.close()
    hanging.close()


def test_it_counts_what_is_asked_at_once():
    with CocoServer({'zips/a.zip': DATA}, latency=0.2) as server:
        threads = [threading.Thread(target=get, args=(server,)) for _ in range(3)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    assert server.most_at_once == 3 and server.sent() == 3 * len(DATA)
