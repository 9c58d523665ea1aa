"""A stand-in for the Hugging Face hub and its CDN, that misbehaves on demand.

It answers what ``huggingface_hub`` asks: a repository's commit, files and card, and
``resolve`` for a file, which is a redirect to the CDN for large files. The CDN goes by
another host name, as the real one does.
"""

import hashlib
import json
import re
import socket
import struct
import threading
import time
from collections import deque
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Self
from urllib.parse import unquote, urlsplit

LARGE = 1000  # bytes; from here on a file is kept outside git, with a SHA-256
_BLOCK = 16 * 1024


@dataclass
class Request:
    """What was asked, and how many bytes of a file went out in answer."""

    kind: str  # 'api', 'resolve' or 'cdn'
    start: int  # first byte asked for
    token: str | None
    sent: int = 0


@dataclass
class Commit:
    sha: str
    files: dict[str, bytes]
    card: dict = field(default_factory=dict)


Fault = Callable[['_Handler', bytes, int], None]
"""Answers in place of the server, for a file's bytes, from a position on."""


class HubServer:
    """Serves repositories on a port of its own, in threads, while in a ``with``.

    Attributes:
        requests: All that was asked so far.
        pace: Seconds to wait after each 16 KiB of a file.
        has_ranges: Whether the CDN honours ``Range``.
    """

    def __init__(self):
        self.requests: list[Request] = []
        self.pace = 0.0
        self.has_ranges = True
        self._repositories: dict[str, list[Commit]] = {}
        self._faults: dict[str, deque[Fault]] = {}
        self._server = ThreadingHTTPServer(('127.0.0.1', 0), _Handler)
        self._server.daemon_threads = True
        self._server.hub = self
        self._thread = threading.Thread(target=self._server.serve_forever, args=(0.02,))

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(self, *_):
        self._server.shutdown()
        self._server.server_close()
        self._thread.join()

    @property
    def endpoint(self) -> str:
        return f'http://127.0.0.1:{self._server.server_port}'

    @property
    def cdn(self) -> str:
        return f'http://localhost:{self._server.server_port}'

    def commit(self, repo_id: str, files: dict[str, bytes], **card) -> str:
        """Make a new commit with these files alone, and return its hash."""
        history = self._repositories.setdefault(repo_id, [])
        text = f'{repo_id} {len(history)} {sorted(files)}'
        history.append(Commit(hashlib.sha1(text.encode()).hexdigest(), files, card))
        return history[-1].sha

    def misbehave(self, kind: str, *faults: Fault) -> None:
        """Answer the next requests of a kind with these faults, then behave again."""
        self._faults.setdefault(kind, deque()).extend(faults)

    def behave(self) -> None:
        self._faults.clear()

    def asked(self, kind: str) -> list[Request]:
        return [request for request in self.requests if request.kind == kind]

    def fault(self, kind: str) -> Fault | None:
        faults = self._faults.get(kind)
        return faults.popleft() if faults else None

    def find(self, repo_id: str, revision: str | None) -> Commit | None:
        for commit in reversed(self._repositories.get(repo_id, [])):
            if revision in (None, 'main', commit.sha):
                return commit
        return None

    def large(self, digest: str) -> bytes:
        return next(
            content
            for history in self._repositories.values()
            for commit in history
            for content in commit.files.values()
            if hashlib.sha256(content).hexdigest() == digest
        )


def blob_id(content: bytes) -> str:
    return hashlib.sha1(b'blob %d\0' % len(content) + content).hexdigest()


def lfs_pointer(content: bytes) -> bytes:
    return (
        'version https://git-lfs.github.com/spec/v1\n'
        f'oid sha256:{hashlib.sha256(content).hexdigest()}\nsize {len(content)}\n'
    ).encode()


# --- Faults -------------------------------------------------------------------------


def status(code: int, *, error_code: str = '', **headers) -> Fault:
    """Answer with a status; ``retry_after='3'`` gives the header ``Retry-After: 3``."""

    def answer(handler: '_Handler', content: bytes, start: int) -> None:
        fields = {name.replace('_', '-'): value for name, value in headers.items()}
        if error_code:
            fields['X-Error-Code'] = error_code
        handler.answer(code, b'{"error": "as asked"}', fields)

    return answer


def other(body: bytes, *, kind: str, with_length: bool = True) -> Fault:
    """Answer 200 with another body, whatever part of the file was asked for."""

    def answer(handler: '_Handler', content: bytes, start: int) -> None:
        fields = {'Content-Type': kind}
        if not with_length:
            fields |= {'Connection': 'close', 'Content-Length': None}
        handler.answer(200, body, fields)

    return answer


def changed(edit: Callable[[bytes], bytes]) -> Fault:
    """Serve edited bytes as if they were the file's."""
    return lambda handler, content, start: handler.serve(edit(content), start)


def cut(after: int, *, reset: bool = False) -> Fault:
    """Close the connection after so many bytes of the answer."""

    def answer(handler: '_Handler', content: bytes, start: int) -> None:
        handler.serve(content, start, stop=start + after)
        handler.wfile.flush()
        if reset:
            linger = struct.pack('ii', 1, 0)
            handler.connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, linger)
            handler.connection.close()
        handler.close_connection = True

    return answer


def hang_up(handler: '_Handler', content: bytes, start: int) -> None:
    """Close the connection without an answer."""
    handler.close_connection = True


class _Handler(BaseHTTPRequestHandler):
    protocol_version = 'HTTP/1.1'

    def log_message(self, *_):
        pass

    def do_GET(self):
        url = urlsplit(unquote(self.path))
        if url.path.startswith('/cdn/'):
            content = self.server.hub.large(url.path.removeprefix('/cdn/'))
            self._bytes('cdn', content)
        elif found := re.fullmatch(r'/api/models/([^/]+/[^/]+)', url.path):
            self._info(found[1], blobs='blobs=true' in url.query.lower())
        elif found := re.fullmatch(r'/([^/]+/[^/]+)/resolve/([^/]+)/(.+)', url.path):
            self._resolve(*found.groups())
        else:
            self.answer(404, b'')

    def _info(self, repo_id: str, *, blobs: bool) -> None:
        self._note('api')
        hub = self.server.hub
        commit = hub.find(repo_id, None)
        if fault := hub.fault('api'):
            return fault(self, b'', 0)
        if commit is None:
            return self.answer(401, b'{"error": "Invalid username or password."}')
        info = {
            'id': repo_id,
            'sha': commit.sha,
            'cardData': commit.card,
            'siblings': [
                {'rfilename': path} | (_blob(content) if blobs else {})
                for path, content in commit.files.items()
            ],
        }
        return self.answer(200, json.dumps(info).encode())

    def _resolve(self, repo_id: str, revision: str, path: str) -> None:
        commit = self.server.hub.find(repo_id, revision)
        if commit is None or path not in commit.files:
            self._note('resolve')
            return self.answer(404, b'', {'X-Error-Code': 'EntryNotFound'})
        content = commit.files[path]
        if len(content) < LARGE:
            return self._bytes('resolve', content)
        self._note('resolve')
        if fault := self.server.hub.fault('resolve'):
            return fault(self, content, 0)
        digest = hashlib.sha256(content).hexdigest()
        fields = {
            'Location': f'{self.server.hub.cdn}/cdn/{digest}',
            'X-Repo-Commit': commit.sha,
            'X-Linked-Etag': f'"{digest}"',
            'X-Linked-Size': str(len(content)),
        }
        return self.answer(302, b'', fields)

    def _bytes(self, kind: str, content: bytes) -> None:
        start = self._note(kind)
        fault = self.server.hub.fault(kind)
        if fault is not None:
            return fault(self, content, start)
        return self.serve(content, start)

    def serve(self, content: bytes, start: int, stop: int | None = None) -> None:
        """Send a file from a position on, or from its beginning without ranges."""
        hub = self.server.hub
        fields = {'Content-Type': 'application/octet-stream'}
        if start and hub.has_ranges:
            last, size = len(content) - 1, len(content)
            fields['Content-Range'] = f'bytes {start}-{last}/{size}'
        elif start:
            start, stop = 0, None
        end = len(content) if stop is None else stop
        self._head(
            206 if 'Content-Range' in fields else 200, len(content) - start, fields
        )
        # A reader that is killed closes its end.
        with suppress(ConnectionError):
            for at in range(start, end, _BLOCK):
                block = content[at : min(at + _BLOCK, end)]
                self.wfile.write(block)
                self._request.sent += len(block)
                time.sleep(hub.pace)

    def answer(self, code: int, body: bytes, fields: dict | None = None) -> None:
        self._head(code, len(body), fields or {})
        self.wfile.write(body)

    def _head(self, code: int, length: int, fields: dict) -> None:
        self.send_response(code)
        for name, value in ({'Content-Length': length} | fields).items():
            if value is not None:
                self.send_header(name, str(value))
        self.end_headers()

    def _note(self, kind: str) -> int:
        found = re.fullmatch(r'bytes=(\d+)-\d*', self.headers.get('Range', ''))
        start = int(found[1]) if found else 0
        self._request = Request(kind, start, self.headers.get('Authorization'))
        self.server.hub.requests.append(self._request)
        return start


def _blob(content: bytes) -> dict:
    if len(content) < LARGE:
        return {'size': len(content), 'blobId': blob_id(content)}
    pointer = lfs_pointer(content)
    return {
        'size': len(content),
        'blobId': blob_id(pointer),
        'lfs': {
            'sha256': hashlib.sha256(content).hexdigest(),
            'size': len(content),
            'pointerSize': len(pointer),
        },
    }
