"""A web server of the tests' own: HTTP/1.1 with ranges, and any fault on demand."""

import hashlib
import random
import re
import socket
import ssl
import struct
import sys
import threading
import time
from collections.abc import Mapping
from dataclasses import dataclass
from email.utils import formatdate
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Literal, get_args
from urllib.parse import unquote, urlsplit

_CHUNK = 64 * 1024
_MODIFIED = 1_504_267_200  # every file's date
_HTML = b'<!DOCTYPE html><html><body>Please log in.</body></html>\n'

Kind = Literal[
    'cut',  # the connection ends inside the body
    'reset',  # the same, with an RST
    'drop',  # the connection ends before any answer
    'length too long',  # Content-Length promises more than comes
    'length too short',  # Content-Length promises less; so much comes
    'range shifted',  # other bytes than asked for, as Content-Range says
    'range too short',  # fewer bytes than asked for, as Content-Range says
    'range lied',  # other bytes than asked for, and Content-Range says the right ones
    'range unnamed',  # status 206 without Content-Range
    'range ignored',  # status 200 and the whole file
    'status',  # the status of `status`, with Retry-After if given
    'html',  # a page in place of the file, status 200
    'redirect',  # 302 to `location`: a login page
    'corrupt',  # a byte of the body is flipped
    'hang',  # nothing for `seconds`; before the answer, or inside the body
    'slow',  # `rate` bytes a second
    'replace',  # the file is now `data`, before this request is answered
]


@dataclass
class Fault:
    """What goes wrong with the next requests of a path.

    Attributes:
        kind: What happens.
        path: The end of the paths that are struck, such as ``'train2017.zip'``.
        times: How many requests are struck; None for all.
        skip: How many requests of that path pass unharmed before.
        method: ``'GET'``, ``'HEAD'``, or None for both.
        after_bytes: Where in the body sent; None for anywhere (for ``'hang'``: before
            the answer). For ``'length too long'``: how much too long.
        seconds: Of ``'hang'``.
        rate: Of ``'slow'``, bytes a second.
        status: Of ``'status'``.
        retry_after: Of ``'status'``: seconds, or an HTTP date (see `http_date`).
        location: Of ``'redirect'``; a path, or a whole URL.
        data: Of ``'replace'``.
    """

    kind: Kind
    path: str = ''
    times: int | None = 1
    skip: int = 0
    method: str | None = 'GET'
    after_bytes: int | None = None
    seconds: float = 60
    rate: float = 10_000
    status: int = 503
    retry_after: str | int | None = None
    location: str = '/login'
    data: bytes = b''


@dataclass
class Request:
    """A request that came, and what was sent.

    Attributes:
        method: ``'GET'`` or ``'HEAD'``.
        path: Without the leading slash.
        range: The Range header as it came, or None.
        headers: All headers, names in lower case.
        status: Of the answer; 0 if there was none.
        sent: Bytes of the body that were sent.
        fault: What struck it, if anything.
    """

    method: str
    path: str
    range: str | None
    headers: dict[str, str]
    status: int = 0
    sent: int = 0
    fault: Kind | None = None


def http_date(seconds_from_now: float) -> str:
    """The date that many seconds from now, rounded up, as headers write it."""
    return formatdate(-(-(time.time() + seconds_from_now) // 1), usegmt=True)


class CocoServer:
    """Serves a folder on a port of its own, from another thread, while it is entered.

    Files are read when first asked for and then kept: `replace` changes them. Leaving
    closes every connection, waits for all threads and raises what went wrong in them.

    Args:
        content: A folder, or bytes by path.
        ranges: Whether ranges are served; if not, each answer is the whole file.
        etags: Whether there are ETags.
        latency: Seconds before each answer.
        rate: Bytes a second of each connection; None for no limit.
        seed: Of where faults strike.
    """

    def __init__(
        self,
        content: Path | Mapping[str, bytes],
        *,
        ranges: bool = True,
        etags: bool = True,
        latency: float = 0,
        rate: float | None = None,
        seed: int = 0,
    ):
        self.ranges = ranges
        self.etags = etags
        self.latency = latency
        self.rate = rate
        self.requests: list[Request] = []
        self.most_at_once = 0
        self.closing = threading.Event()
        self.random = random.Random(seed)
        self._folder = content if isinstance(content, Path) else None
        self._files: dict[str, tuple[bytes, str]] = {}
        self._faults: list[Fault] = []
        self._at_once = 0
        self._scheme = 'http'
        self._lock = threading.RLock()
        self._server = _Server(('127.0.0.1', 0), _Handler)
        self._server.owner = self
        self._thread = threading.Thread(target=self._server.serve_forever, args=(0.02,))
        if self._folder is None:
            for path, data in content.items():
                self.replace(path, data)

    def __enter__(self):
        self._thread.start()
        return self

    def __exit__(self, kind, error, traceback):
        self.closing.set()
        self._server.shutdown()
        self._thread.join()
        self._server.close_connections()
        self._server.server_close()
        if self._server.errors and error is None:
            raise self._server.errors[0]

    @property
    def url(self) -> str:
        """Where it is, with a slash at the end."""
        host, port = self._server.server_address[:2]
        return f'{self._scheme}://{host}:{port}/'

    def encrypt(self, context: ssl.SSLContext) -> None:
        """Speak TLS from now on."""
        self._server.socket = context.wrap_socket(self._server.socket, server_side=True)
        self._scheme = 'https'

    def misbehave(self, *faults: Fault) -> None:
        """Let requests fail; of several faults that fit, the first is due first."""
        unknown = {fault.kind for fault in faults} - set(get_args(Kind))
        if unknown:
            raise ValueError(f'no such fault: {unknown}')
        with self._lock:
            self._faults.extend(faults)

    def behave(self) -> None:
        """Forget the faults that are still due."""
        with self._lock:
            self._faults.clear()

    def replace(self, path: str, data: bytes) -> None:
        """Let a path have other bytes, and so another ETag."""
        etag = f'"{hashlib.sha1(data).hexdigest()[:20]}"'
        with self._lock:
            self._files[path] = data, etag

    def sent(self, path: str = '') -> int:
        """Bytes of bodies sent, of all paths that end so."""
        return sum(one.sent for one in self.seen(path))

    def seen(self, path: str = '', method: str | None = None) -> list[Request]:
        """The requests of all paths that end so, in the order in which they came."""
        with self._lock:
            return [
                one
                for one in self.requests
                if one.path.endswith(path) and method in (None, one.method)
            ]

    def enter_request(self, request: Request) -> Fault | None:
        """Note a request; return what shall strike it."""
        with self._lock:
            self.requests.append(request)
            self._at_once += 1
            self.most_at_once = max(self.most_at_once, self._at_once)
            return self._next_fault(request)

    def leave_request(self) -> None:
        """Note that a request is answered."""
        with self._lock:
            self._at_once -= 1

    def file(self, path: str) -> tuple[bytes, str] | None:
        """A file's bytes and ETag, or None if there is no such file."""
        with self._lock:
            if path not in self._files and self._folder:
                file = (self._folder / path).resolve()
                if file.is_relative_to(self._folder.resolve()) and file.is_file():
                    self.replace(path, file.read_bytes())
            return self._files.get(path)

    def _next_fault(self, request):
        for fault in self._faults:
            if not request.path.endswith(fault.path):
                continue
            if fault.method not in (None, request.method):
                continue
            if fault.skip:
                fault.skip -= 1
                continue
            if fault.times is not None:
                fault.times -= 1
                if fault.times == 0:
                    self._faults.remove(fault)
            request.fault = fault.kind
            return fault
        return None


@dataclass
class _Answer:
    """What will be sent; faults change it."""

    status: int
    headers: dict[str, str]
    body: memoryview
    at: int = 0  # where in the body something happens
    ends: Literal['', 'cut', 'reset', 'drop'] = ''
    hang_before: float = 0
    hang_inside: float = 0
    rate: float | None = None


class _Server(ThreadingHTTPServer):
    daemon_threads = False  # so that server_close() waits for them
    request_queue_size = 128

    def __init__(self, *args):
        self.errors = []
        self._connections = set()
        super().__init__(*args)

    def process_request(self, request, client_address):
        self._connections.add(request)
        super().process_request(request, client_address)

    def shutdown_request(self, request):
        self._connections.discard(request)
        super().shutdown_request(request)

    def close_connections(self):
        for connection in list(self._connections):
            try:
                connection.shutdown(socket.SHUT_RDWR)
            except OSError:
                pass  # already gone

    def handle_error(self, request, client_address):
        error = sys.exception()
        if not isinstance(error, OSError):  # a client may leave when it likes
            self.errors.append(error)


class _Handler(BaseHTTPRequestHandler):
    protocol_version = 'HTTP/1.1'
    disable_nagle_algorithm = True

    def log_message(self, *args):
        """Keep quiet."""

    def do_GET(self):
        self._answer()

    def do_HEAD(self):
        self._answer()

    def _answer(self):
        owner = self.server.owner
        request = Request(
            self.command,
            unquote(urlsplit(self.path).path).lstrip('/'),
            self.headers.get('Range'),
            {name.lower(): value for name, value in self.headers.items()},
        )
        fault = owner.enter_request(request)
        try:
            owner.closing.wait(owner.latency)
            if fault and fault.kind == 'replace':
                owner.replace(request.path, fault.data)
            answer = _right_answer(owner, request)
            if fault and fault.kind != 'replace':
                _STRIKE[fault.kind](fault, answer, owner, request)
            self._send(answer, request)
        finally:
            owner.leave_request()

    def _send(self, answer, request):
        self.server.owner.closing.wait(answer.hang_before)
        if answer.ends == 'drop':
            self._end(answer)
            return
        request.status = answer.status
        self.send_response(answer.status)
        for name, value in answer.headers.items():
            self.send_header(name, value)
        self.end_headers()
        if self.command == 'GET':
            self._send_body(answer, request)
        if answer.ends:
            self._end(answer)

    def _send_body(self, answer, request):
        closing = self.server.owner.closing
        chunk = _CHUNK
        if answer.rate:
            chunk = max(1, min(chunk, int(answer.rate / 50)))
        hangs_at = answer.at if answer.hang_inside else None
        stop = answer.at if answer.ends else len(answer.body)
        while request.sent < stop and not closing.is_set():
            if request.sent == hangs_at:
                closing.wait(answer.hang_inside)
                hangs_at = None
            start, end = request.sent, min(request.sent + chunk, stop)
            if hangs_at is not None and start < hangs_at:
                end = min(end, hangs_at)
            if answer.rate:
                closing.wait((end - start) / answer.rate)
            request.sent = end  # first: whoever has got them finds them counted
            self.wfile.write(answer.body[start:end])

    def _end(self, answer):
        self.close_connection = True
        if answer.ends == 'reset':
            linger = struct.pack('hh' if _WINDOWS else 'ii', 1, 0)
            self.connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, linger)
            self.connection.close()


_WINDOWS = hasattr(socket, 'SIO_RCVALL')


def _right_answer(owner, request):
    """The answer of a server that is well."""
    if request.path == 'login':
        return _page(200)
    found = owner.file(request.path)
    if found is None:
        return _page(404)
    data, etag = found
    headers = {
        'Content-Type': 'application/octet-stream',
        'Accept-Ranges': 'bytes' if owner.ranges else 'none',
        'Last-Modified': formatdate(_MODIFIED, usegmt=True),
    }
    if owner.etags:
        headers['ETag'] = etag
    if_match = request.headers.get('if-match')
    if if_match not in (None, '*') and headers.get('ETag') not in _listed(if_match):
        return _page(412)
    body = memoryview(data)
    unchanged = (None, headers.get('ETag'), headers['Last-Modified'])
    part = None
    if (
        owner.ranges
        and request.method == 'GET'
        and request.headers.get('if-range') in unchanged
    ):
        part = _asked_part(request.range, len(data))
    if part is None:
        answer = _Answer(200, headers, body)
    elif part.start >= part.stop:
        answer = _page(416)
        answer.headers['Content-Range'] = f'bytes */{len(data)}'
        return answer
    else:
        answer = _Answer(206, headers, body[part.start : part.stop])
        _name_range(answer, part, len(data))
    headers['Content-Length'] = str(len(answer.body))
    answer.rate = owner.rate
    return answer


def _asked_part(header, size):
    """The part of a file that a Range header asks for; None where it is not one."""
    asked = re.fullmatch(r'bytes=(\d*)-(\d*)', header or '')
    if not asked or asked.group() == 'bytes=-':
        return None
    first, last = asked.groups()
    if not first:
        return range(max(0, size - int(last)), size)
    if last and int(last) < int(first):
        return None
    return range(int(first), min(int(last) + 1, size) if last else size)


def _listed(etags):
    return [etag.strip() for etag in etags.split(',')]


def _name_range(answer, part, size):
    answer.headers['Content-Range'] = f'bytes {part.start}-{part.stop - 1}/{size}'
    answer.headers['Content-Length'] = str(len(part))


def _page(status):
    body = memoryview(_HTML)
    headers = {'Content-Type': 'text/html', 'Content-Length': str(len(body))}
    return _Answer(status, headers, body)


def _place(fault, answer, owner):
    """Where in the body a fault strikes: inside it, never behind its last byte."""
    last = max(0, len(answer.body) - 1)
    if fault.after_bytes is None:
        return owner.random.randint(0, last)
    return min(fault.after_bytes, last)


def _end_early(fault, answer, owner, request):
    answer.ends = fault.kind
    answer.at = _place(fault, answer, owner)


def _promise_more(fault, answer, owner, request):
    answer.headers['Content-Length'] = str(len(answer.body) + (fault.after_bytes or 10))
    answer.ends, answer.at = 'cut', len(answer.body)


def _promise_less(fault, answer, owner, request):
    answer.body = answer.body[: _place(fault, answer, owner)]
    answer.headers['Content-Length'] = str(len(answer.body))


def _move_range(fault, answer, owner, request):
    data, _ = owner.file(request.path)
    part = _asked_part(request.range, len(data))
    if answer.status != 206:
        return
    shift = 1 if part.stop < len(data) else -1
    moved = range(max(0, part.start + shift), part.stop + shift)
    named = answer.headers['Content-Range']
    answer.body = memoryview(data)[moved.start : moved.stop]
    _name_range(answer, moved, len(data))
    if fault.kind == 'range lied':
        answer.headers['Content-Range'] = named


def _shorten_range(fault, answer, owner, request):
    if answer.status != 206:
        return
    data, _ = owner.file(request.path)
    part = _asked_part(request.range, len(data))
    length = max(1, _place(fault, answer, owner))
    answer.body = answer.body[:length]
    _name_range(answer, range(part.start, part.start + length), len(data))


def _hide_range(fault, answer, owner, request):
    answer.headers.pop('Content-Range', None)


def _ignore_range(fault, answer, owner, request):
    data, _ = owner.file(request.path)
    answer.status, answer.body = 200, memoryview(data)
    answer.headers.pop('Content-Range', None)
    answer.headers['Content-Length'] = str(len(data))


def _fail(fault, answer, owner, request):
    page = _page(fault.status)
    if fault.retry_after is not None:
        page.headers['Retry-After'] = str(fault.retry_after)
    if fault.status == 416 and (found := owner.file(request.path)):
        page.headers['Content-Range'] = f'bytes */{len(found[0])}'
    answer.status, answer.headers, answer.body = page.status, page.headers, page.body


def _show_page(fault, answer, owner, request):
    page = _page(200)
    answer.status, answer.headers, answer.body = page.status, page.headers, page.body


def _redirect(fault, answer, owner, request):
    headers = {'Location': fault.location, 'Content-Length': '0'}
    answer.status, answer.headers, answer.body = 302, headers, memoryview(b'')


def _flip(fault, answer, owner, request):
    if len(answer.body):
        body = bytearray(answer.body)
        body[_place(fault, answer, owner)] ^= 0x55
        answer.body = memoryview(body)


def _hang(fault, answer, owner, request):
    if fault.after_bytes is None:
        answer.hang_before = fault.seconds
    else:
        answer.hang_inside = fault.seconds
        answer.at = _place(fault, answer, owner)


def _slow_down(fault, answer, owner, request):
    answer.rate = fault.rate


_STRIKE = {
    'cut': _end_early,
    'reset': _end_early,
    'drop': _end_early,
    'length too long': _promise_more,
    'length too short': _promise_less,
    'range shifted': _move_range,
    'range lied': _move_range,
    'range too short': _shorten_range,
    'range unnamed': _hide_range,
    'range ignored': _ignore_range,
    'status': _fail,
    'html': _show_page,
    'redirect': _redirect,
    'corrupt': _flip,
    'hang': _hang,
    'slow': _slow_down,
}
