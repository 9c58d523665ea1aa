import random
import shutil
import ssl
import subprocess
import threading
from http.server import BaseHTTPRequestHandler, HTTPServer

import pytest
from http_server import CocoServer, Fault, http_date

from sapiens_plugin.errors import InputError
from sapiens_plugin.workbench.download import transfer
from sapiens_plugin.workbench.download.transfer import (
    BLOCK,
    Connections,
    Patience,
    RemoteFile,
    Stopped,
    Unreachable,
    download,
)

DATA = random.Random(0).randbytes(3 * BLOCK + 12_345)
QUICK = Patience(attempts=3, first_wait=0.01, silence=0.4)


@pytest.fixture
def server():
    with CocoServer({'file.bin': DATA}) as server:
        yield server


@pytest.fixture
def waits(monkeypatch):
    """The seconds that were waited, without waiting."""
    waits = []
    monkeypatch.setattr(Connections, 'wait', lambda self, time, why: waits.append(time))
    return waits


def remote(server, **patience):
    connections = Connections(patience=Patience(**{**vars(QUICK), **patience}))
    return RemoteFile(server.url + 'file.bin', connections=connections)


def read(file, start, end):
    return b''.join(file.stream(start, end))


def nothing(count):
    pass


def test_looks_at_a_file(server):
    file = remote(server)
    assert (file.size, file.has_ranges) == (len(DATA), True)
    assert file.etag == server.file('file.bin')[1]
    assert [request.range for request in server.seen()] == ['bytes=0-0']


@pytest.mark.parametrize(
    ('start', 'end'), [(0, len(DATA)), (1, 2), (BLOCK - 1, 2 * BLOCK + 1), (7, 7)]
)
def test_reads_a_part(server, start, end):
    assert read(remote(server), start, end) == DATA[start:end]


MENDED = [
    Fault('cut'),
    Fault('cut', after_bytes=0),
    Fault('reset'),
    Fault('drop'),
    Fault('length too long', after_bytes=999),
    Fault('length too short', after_bytes=1000),
    Fault('range shifted'),
    Fault('range too short', after_bytes=1000),
    Fault('range unnamed'),
    Fault('range ignored'),
    Fault('hang'),
    Fault('hang', after_bytes=500),
    *(Fault('status', status=s) for s in (408, 425, 429, 500, 502, 503, 504)),
]


def repeated(fault, **changes):
    return Fault(**{**vars(fault), **changes})


def name_of(fault):
    return f'{fault.kind} {fault.status if fault.kind == "status" else ""}'.strip()


@pytest.mark.parametrize('fault', MENDED, ids=name_of)
def test_goes_on_after_a_fault(server, fault):
    file = remote(server)
    server.misbehave(repeated(fault, times=2))
    assert read(file, 100, len(DATA) - 100) == DATA[100:-100]


@pytest.mark.parametrize('fault', MENDED, ids=name_of)
def test_finds_out_about_a_file_after_a_fault(server, fault):
    server.misbehave(repeated(fault, times=1))
    file = remote(server)
    assert file.size == len(DATA)
    assert read(file, 0, len(DATA)) == DATA


def test_a_cut_costs_no_byte_twice(server):
    file = remote(server)
    server.misbehave(Fault('cut', after_bytes=BLOCK + 10))
    assert read(file, 0, len(DATA)) == DATA
    first, second = server.seen()[1:]
    assert second.range == f'bytes={first.sent}-{len(DATA) - 1}'


def test_patience_begins_anew_with_every_byte(server):
    file = remote(server, attempts=2)
    cuts = 12
    server.misbehave(Fault('cut', after_bytes=len(DATA) // 20, times=cuts))
    assert read(file, 0, len(DATA)) == DATA
    assert len(server.seen()) == cuts + 2


def test_patience_ends(server):
    file = remote(server, attempts=4)
    server.misbehave(Fault('status', status=503, times=None))
    with pytest.raises(InputError, match=r'503.*4 attempts.*again to go on'):
        read(file, 0, len(DATA))
    assert len(server.seen()) == 5


@pytest.mark.parametrize(
    ('fault', 'words'),
    [
        (Fault('status', status=404), 'server says 404 Not Found'),
        (Fault('status', status=403), 'server says 403'),
        (Fault('status', status=418), 'server says 418'),
        (Fault('html'), 'web page: a login'),
        (Fault('redirect'), 'web page|404'),
        (Fault('status', status=416), 'changed on the server'),
        (Fault('replace', data=DATA[:-1]), 'changed on the server'),
        (Fault('replace', data=DATA[::-1]), 'changed on the server'),
    ],
)
def test_gives_up_at_once(server, fault, words):
    file = remote(server)
    server.misbehave(fault)
    with pytest.raises(InputError, match=words) as caught:
        read(file, 10, len(DATA))
    assert file.url in str(caught.value)


def test_a_changed_file_is_noticed_in_the_middle(server):
    file = remote(server)
    server.misbehave(Fault('cut', after_bytes=BLOCK), Fault('replace', data=DATA[::-1]))
    with pytest.raises(InputError, match='changed on the server'):
        read(file, 0, len(DATA))


@pytest.mark.parametrize(
    ('asked', 'waited'),
    [
        (None, 1.0),
        (7, 7.0),
        (100_000, 300.0),
        ('nonsense', 1.0),
        ('Wed, 21 Oct 2015 07:28:00 GMT', 0.0),
        ('Wed, 21 Oct 2015 07:28:00', 1.0),  # no time zone
    ],
)
def test_waits_as_long_as_it_is_told(server, waits, asked, waited):
    server.misbehave(Fault('status', status=429, retry_after=asked))
    remote(server, first_wait=1.0)
    assert waits == [waited]


def test_waits_until_a_date(server, waits):
    server.misbehave(Fault('status', status=503, retry_after=http_date(60)))
    remote(server)
    assert 55 < waits[0] <= 61


def test_waits_longer_each_time(server, waits):
    server.misbehave(Fault('status', status=500, times=4))
    remote(server, attempts=9, first_wait=2.0, longest_wait=10.0)
    assert waits == [2, 4, 8, 10]


def test_says_that_there_is_no_server():
    with pytest.raises(InputError, match='no connection'):
        RemoteFile('http://127.0.0.1:9/x', connections=Connections(patience=QUICK))


def test_a_server_that_never_answered_is_given_up_sooner(waits):
    with pytest.raises(InputError, match='4 attempts'):
        RemoteFile('http://127.0.0.1:9/x', connections=Connections())
    assert waits == [1, 2, 4]


def test_a_server_that_answered_once_is_waited_for(server, waits):
    file = RemoteFile(server.url + 'file.bin', connections=Connections())
    server.misbehave(Fault('drop', times=7))
    assert read(file, 0, 100) == DATA[:100]
    assert len(waits) == 7


def test_redirects_in_a_circle_are_said_at_once(server):
    server.misbehave(Fault('redirect', location='/file.bin', times=None))
    with pytest.raises(InputError, match='in circles'):
        remote(server)


def test_says_now_and_then_what_it_waits_for(server, monkeypatch):
    lines, clock = [], [0.0]
    monkeypatch.setattr(transfer.time, 'monotonic', lambda: clock[0])
    connections = Connections(say=lines.append)

    def wait(seconds):
        clock[0] += seconds
        return False

    monkeypatch.setattr(connections._stop, 'wait', wait)
    server.misbehave(Fault('status', status=503, times=4))
    url = RemoteFile(server.url + 'file.bin', connections=connections).url
    assert lines == [
        f'{url}: the server says 503 Service Unavailable; next attempt in {s} s'
        for s in (1, 8)
    ]


@pytest.mark.parametrize('url', ['http://', 'nonsense', 'ftp://x/y', 'http://[x'])
def test_refuses_an_address_that_is_none(url):
    with pytest.raises(InputError, match='no address'):
        RemoteFile(url, connections=Connections(patience=QUICK))


def test_refuses_a_file_of_unknown_length():
    class Chunked(BaseHTTPRequestHandler):
        def do_GET(self):
            self.send_response(200)
            self.end_headers()

        def log_message(self, *args):
            pass

    with HTTPServer(('127.0.0.1', 0), Chunked) as server:
        thread = threading.Thread(target=server.handle_request)
        thread.start()
        with pytest.raises(InputError, match='without its length'):
            RemoteFile(
                f'http://127.0.0.1:{server.server_port}/',
                connections=Connections(patience=QUICK),
            )
        thread.join()


def test_stops(server):
    file = remote(server)
    blocks = file.stream(0, len(DATA))
    next(blocks)
    file.connections.stop()
    with pytest.raises(Stopped):
        list(blocks)


def test_stops_while_it_waits(server):
    server.misbehave(Fault('status', status=503, times=None))
    connections = Connections(patience=Patience(first_wait=60))
    connections.stop()
    with pytest.raises(Stopped):
        RemoteFile(server.url + 'file.bin', connections=connections)


def test_downloads(server, tmp_path):
    counts = []
    download(remote(server), tmp_path / 'x', on_bytes=counts.append)
    assert (tmp_path / 'x').read_bytes() == DATA
    assert sum(counts) == len(DATA)
    assert [path.name for path in tmp_path.iterdir()] == ['x']


@pytest.mark.parametrize('kept', [0, 1, BLOCK + 5, len(DATA)])
def test_a_second_download_goes_on(server, tmp_path, kept):
    file = remote(server, attempts=1)
    server.misbehave(Fault('cut', after_bytes=kept))
    path = tmp_path / 'x'
    with pytest.raises(InputError, match='What has arrived is kept'):
        download(file, path, on_bytes=nothing)
    arrived = path.stat().st_size
    counts = []
    download(remote(server), path, on_bytes=counts.append)
    assert path.read_bytes() == DATA
    assert counts[0] == arrived
    if arrived:
        assert server.seen()[-1].range == f'bytes={arrived}-{len(DATA) - 1}'
    before = len(server.seen())
    download(remote(server), path, on_bytes=nothing)
    assert len(server.seen()) == before + 1
    assert path.read_bytes() == DATA


def test_more_than_there_can_be_is_begun_anew(server, tmp_path):
    path = tmp_path / 'x'
    path.write_bytes(DATA + b'more')
    download(remote(server), path, on_bytes=nothing)
    assert path.read_bytes() == DATA


def test_each_version_has_its_name(server):
    first = remote(server).version
    assert remote(server).version == first
    server.replace('file.bin', DATA[::-1])
    assert remote(server).version != first


@pytest.mark.parametrize('after', [5, BLOCK, 2 * BLOCK + 5])
def test_without_ranges_what_came_before_a_cut_comes_once_more(tmp_path, after):
    path = tmp_path / 'x'
    counts = []
    with CocoServer({'file.bin': DATA}, ranges=False) as server:
        file = remote(server)
        assert not file.has_ranges
        server.misbehave(Fault('cut', after_bytes=after, times=2))
        download(file, path, on_bytes=counts.append)
        assert [r.sent for r in server.seen()[1:]] == [after, after, len(DATA)]
    assert path.read_bytes() == DATA
    assert sum(counts) == len(DATA)


def test_without_ranges_a_cut_before_the_first_byte_is_mended(tmp_path):
    with CocoServer({'file.bin': DATA}, ranges=False) as server:
        file = remote(server)
        server.misbehave(Fault('cut', after_bytes=0))
        download(file, tmp_path / 'x', on_bytes=nothing)
    assert (tmp_path / 'x').read_bytes() == DATA


def test_without_etags_another_size_is_noticed():
    with CocoServer({'file.bin': DATA}, etags=False) as server:
        file = remote(server)
        server.replace('file.bin', DATA[:-1])
        with pytest.raises(InputError, match='changed on the server'):
            read(file, 0, len(DATA))


def test_answers_that_keep_ending_early_end_the_patience(server):
    file = remote(server, attempts=3)
    server.misbehave(Fault('length too short', after_bytes=0, times=None))
    with pytest.raises(InputError, match='3 attempts'):
        read(file, 0, len(DATA))


def test_certificates_that_are_not_there_are_said_at_once(server, monkeypatch):
    monkeypatch.setenv('REQUESTS_CA_BUNDLE', 'nowhere.pem')
    url = server.url.replace('http:', 'https:') + 'file.bin'
    with pytest.raises(InputError, match=r'cannot be asked.*nowhere.pem'):
        RemoteFile(url, connections=Connections(patience=Patience()))


@pytest.mark.skipif(shutil.which('openssl') is None, reason='makes a certificate')
def test_a_certificate_that_the_system_knows_is_trusted(tmp_path, monkeypatch):
    for name in ('REQUESTS_CA_BUNDLE', 'CURL_CA_BUNDLE', 'SSL_CERT_FILE'):
        monkeypatch.delenv(name, raising=False)
    key, certificate = tmp_path / 'key.pem', tmp_path / 'certificate.pem'
    make = 'openssl req -x509 -newkey rsa:2048 -nodes -days 2 -subj /CN=localhost'
    command = [*make.split(), '-addext', 'subjectAltName=IP:127.0.0.1']
    files = ['-keyout', key, '-out', certificate]
    subprocess.run([*command, *files], check=True, capture_output=True, timeout=60)
    with CocoServer({'file.bin': DATA}) as server:
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.load_cert_chain(certificate, key)
        server.encrypt(context)
        with pytest.raises(Unreachable, match=r'asked safely.*SSL_CERT_FILE'):
            remote(server)
        monkeypatch.setenv('SSL_CERT_FILE', str(certificate))
        assert read(remote(server), 0, len(DATA)) == DATA


def test_a_proxy_that_wants_a_password_is_said_at_once(server):
    server.misbehave(Fault('status', status=407))
    with pytest.raises(InputError, match='proxy that wants a name and a password'):
        remote(server)


def test_a_proxy_of_the_environment_is_asked(server, monkeypatch):
    monkeypatch.setenv('http_proxy', server.url)
    monkeypatch.setenv('no_proxy', '')
    file = RemoteFile(
        'http://images.example/file.bin', connections=Connections(patience=QUICK)
    )
    assert file.size == len(DATA)
