"""Read files from HTTP servers that cut, stall, answer late or answer nonsense."""

import hashlib
import os
import re
import ssl
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from pathlib import Path

import requests
import urllib3

from sapiens_plugin.errors import InputError

BLOCK = 256 * 1024  # bytes read at once
_PIECE = 32 * 1024  # bytes read at once where a cut loses what is not whole
_FIRST_ATTEMPTS = 4  # to reach a server that has not answered yet
_SELDOM = 5.0  # s between two lines about waiting, whatever all the threads wait for
_CUT = (requests.RequestException, urllib3.exceptions.HTTPError)
_MISSING = {401, 403, 404, 410}
_WAITABLE = {408, 425, 429, 500, 502, 503, 504}


class SourceError(InputError):
    """A server or an archive does not give what it should."""


class Unreachable(SourceError):
    """A server cannot be asked, or gives no answer in spite of all patience."""


class Stopped(Exception):
    """The transfer was told to stop."""


@dataclass(frozen=True)
class Patience:
    """How long to put up with a server.

    Attributes:
        attempts: Failures in a row, without a byte in between, before giving up.
        first_wait: Seconds before the second attempt; doubled for each further one.
        longest_wait: Seconds, also for what a server asks for by ``Retry-After``.
        silence: Seconds without a byte after which a connection counts as cut.
    """

    attempts: int = 8
    first_wait: float = 1.0
    longest_wait: float = 300.0
    silence: float = 60.0


class Connections:
    """HTTP connections, kept open, one session a thread.

    Proxies and certificates are those of the environment, as `requests` reads them,
    and the certificates of the system or of ``SSL_CERT_FILE``.

    Args:
        patience: How long to put up with a server.
        auth: Adds to a request who asks; `requests` does not tell another host to
            which it is redirected. The user's netrc unless given.
        say: Told in a line what is waited for, now and then.
    """

    def __init__(
        self,
        *,
        patience: Patience | None = None,
        auth: Callable | None = None,
        say: Callable[[str], None] = lambda line: None,
    ):
        self.patience = patience or Patience()
        self._auth = auth
        self._say = say
        self._said = -_SELDOM
        self._stop = threading.Event()
        self._sessions = threading.local()

    def stop(self) -> None:
        """Make every transfer raise :class:`Stopped` at its next block or wait."""
        self._stop.set()

    def check_running(self) -> None:
        """Raise :class:`Stopped` after :meth:`stop`."""
        if self._stop.is_set():
            raise Stopped

    def wait(self, seconds: float, reason: str) -> None:
        """Sleep, or raise :class:`Stopped`."""
        now = time.monotonic()
        if seconds >= 1 and now - self._said >= _SELDOM:
            self._said = now
            self._say(f'{reason}; next attempt in {seconds:.0f} s')
        end = now + seconds
        # Not in one go: Ctrl-C would wait on Windows.
        while (left := end - time.monotonic()) > 0:
            if self._stop.wait(min(left, 0.5)):
                raise Stopped
        self.check_running()

    def get(self, url: str, byte_range: str | None) -> requests.Response:
        """Ask for a file or a part of it; the body is left to be read."""
        if not hasattr(self._sessions, 'session'):
            self._sessions.session = requests.Session()
            self._sessions.session.mount('https://', _SystemCertificates())
        headers = {'Accept-Encoding': 'identity'}
        if byte_range is not None:
            headers['Range'] = f'bytes={byte_range}'
        return self._sessions.session.get(
            url,
            headers=headers,
            auth=self._auth,
            stream=True,
            timeout=self.patience.silence,
        )


class _SystemCertificates(requests.adapters.HTTPAdapter):
    """Trusts also what the system trusts, such as the certificate of a proxy."""

    def init_poolmanager(self, *args, **options):
        context = ssl.create_default_context()
        super().init_poolmanager(*args, ssl_context=context, **options)

    def proxy_manager_for(self, proxy, **options):
        context = ssl.create_default_context()
        return super().proxy_manager_for(proxy, ssl_context=context, **options)


class _TryAgain(Exception):
    """An answer, or a cut, that another attempt may mend."""

    def __init__(self, reason: str, retry_after: float | None = None):
        super().__init__(reason)
        self.retry_after = retry_after


class Address:
    """What a server answers with at one address.

    Args:
        url: The address.
        connections: What to ask through.

    Attributes:
        answer: The last one, if there was any.
    """

    def __init__(self, url: str, *, connections: Connections):
        self.url = url
        self.connections = connections
        self.answer: requests.Response | None = None

    def read(self) -> bytes:
        """Return the whole answer, such as a listing.

        Raises:
            SourceError: There is none, or it is something else than a file.
            Unreachable: The server does not answer.
        """
        return self._patiently(self._content)

    def _content(self) -> bytes:
        with self._ask(None) as response:
            return response.content

    @contextmanager
    def _ask(self, byte_range: str | None) -> Iterator[requests.Response]:
        """Give an answer that brings the file or a part of it, and close it."""
        try:
            response = self.connections.get(self.url, byte_range)
        except ValueError as error:  # InvalidURL, InvalidSchema, MissingSchema
            raise SourceError(f'{self.url} is no address: {error}.') from None
        except requests.exceptions.SSLError as error:
            raise Unreachable(
                f'{self.url} cannot be asked safely: {error}. Is the clock of this '
                'machine right, and are the certificates of your proxy known '
                '(SSL_CERT_FILE)?'
            ) from None
        except requests.exceptions.TooManyRedirects:
            raise SourceError(f'{self.url} leads round in circles.') from None
        except _CUT as error:
            raise _TryAgain(_reason(error)) from None
        except OSError as error:  # such as certificates that are not there
            raise Unreachable(f'{self.url} cannot be asked: {error}.') from None
        self.answer = response
        with response:
            self._check_status(response)
            try:
                yield response
            except (*_CUT, OSError) as error:
                raise _TryAgain(_reason(error)) from None

    def _check_status(self, response: requests.Response) -> None:
        status = response.status_code
        if status == 407:
            raise Unreachable(
                f'{self.url} is kept back by a proxy that wants a name and a password. '
                'Set HTTPS_PROXY=http://NAME:PASSWORD@HOST:PORT.'
            )
        if status in _WAITABLE:
            raise _TryAgain(
                f'the server says {status} {response.reason}',
                _retry_after(response.headers),
            )
        if status in (412, 416):
            raise self._changed()
        if status not in (200, 206):
            kind = SourceError if status in _MISSING else Unreachable
            raise kind(
                f'{self.url} is not to be had: the server says {status} '
                f'{response.reason}.'
            )
        if response.headers.get('Content-Type', '').startswith('text/html'):
            raise SourceError(
                f'{self.url} was answered with a web page: a login of your network, a '
                'proxy or the server stands in between. Open the address in a browser '
                'to see it, then run the command again.'
            )

    def _changed(self) -> SourceError:
        return SourceError(
            f'{self.url} is not the file that it should be: it changed on the server, '
            'is empty, or a proxy or a mirror stands in between. What arrived is kept '
            'and will be compared: run the command again.'
        )

    def _patiently(self, action: Callable):
        failures = 0
        while True:
            try:
                return action()
            except _TryAgain as error:
                failures += 1
                self._wait(failures, error)

    def _wait(self, failures: int, error: _TryAgain) -> None:
        patience = self.connections.patience
        attempts = patience.attempts
        if self.answer is None:
            attempts = min(attempts, _FIRST_ATTEMPTS)
        if failures >= attempts:
            raise Unreachable(
                f'{self.url} cannot be read: {error} ({failures} attempts '
                'in a row). What has arrived is kept; run the command again to go on.'
            )
        seconds = error.retry_after
        if seconds is None:
            seconds = patience.first_wait * 2 ** (failures - 1)
        seconds = min(seconds, patience.longest_wait)
        self.connections.wait(seconds, f'{self.url}: {error}')


class RemoteFile(Address):
    """A file on a server, as it was when it was first asked for.

    Args:
        url: Its address.
        connections: What to ask through.
        size: Its length in bytes, where it is known; else the server is asked.

    Attributes:
        size: Its length in bytes.
        etag: What the server called this version when it was asked, if it did.
        has_ranges: Whether it is known that parts can be asked for.

    Raises:
        SourceError, Unreachable: As :meth:`Address.read`.
    """

    def __init__(self, url: str, *, connections: Connections, size: int | None = None):
        super().__init__(url, connections=connections)
        self.size, self.etag, self.has_ranges = size, None, False
        if size is None:
            self.size, self.etag, self.has_ranges = self._patiently(self._look)

    @property
    def version(self) -> str:
        """A short name for this address and what it holds now."""
        text = f'{self.url} {self.size} {self.etag}'
        return hashlib.sha256(text.encode()).hexdigest()[:12]

    def stream(self, start: int, end: int, *, block: int = BLOCK) -> Iterator[bytes]:
        """Yield the bytes from ``start`` to before ``end``, in blocks of a size.

        After a cut the next attempt goes on behind the last byte that came. A server
        without ranges sends those before it once more.

        Raises:
            SourceError: The file changed on the server, or patience ended.
            Stopped: The connections were told to stop.
        """
        failures = 0
        while start < end:
            try:
                for piece in self._part(start, end, block):
                    yield piece
                    start += len(piece)
                    failures = 0
                    self.connections.check_running()
            except _TryAgain as error:
                failures += 1
                self._wait(failures, error)

    def _part(self, start: int, end: int, block: int) -> Iterator[bytes]:
        """Yield what one answer brings of the bytes from ``start`` to ``end``."""
        with self._ask(f'{start}-{end - 1}') as response:
            begin, size = _place(response)
            etag = response.headers.get('ETag')
            if size not in (None, self.size) or (
                etag and self.etag and etag != self.etag
            ):
                raise self._changed()
            if begin != start and (begin or self.has_ranges):
                raise _TryAgain(f'the server sent byte {begin} for byte {start}')
            before, left = start - begin, end - start
            for piece in response.raw.stream(block, decode_content=False):
                wanted = piece[before : before + left]
                before = max(0, before - len(piece))
                left -= len(wanted)
                if wanted:
                    yield wanted
                if not left:
                    return
            raise _TryAgain('the answer ended early')

    def _look(self) -> tuple[int, str | None, bool]:
        """Return size, ETag, and whether there are ranges."""
        with self._ask('0-0') as response:
            _, size = _place(response)
            if size is None:
                raise SourceError(
                    f'{self.url} was answered without its length, so that nobody '
                    'could tell whether it arrives whole.'
                )
            return size, response.headers.get('ETag'), response.status_code == 206


def download(
    remote: RemoteFile, path: Path, *, on_bytes: Callable[[int], None]
) -> None:
    """Fetch a whole file behind what an earlier call has left in it.

    Args:
        remote: What to fetch.
        path: Where to write. The name must be this :attr:`RemoteFile.version`'s own, or
            bytes of two versions could meet in it.
        on_bytes: Told the number of bytes as they come, those that are there first.

    Raises:
        SourceError, Stopped: As :meth:`RemoteFile.stream`.
    """
    there = path.stat().st_size if path.exists() else 0
    start = there if there <= remote.size else 0
    on_bytes(start)
    with open(path, 'r+b' if there else 'wb') as file:
        file.truncate(start)
        file.seek(start)
        for block in remote.stream(start, remote.size, block=_PIECE):
            file.write(block)
            on_bytes(len(block))
        file.flush()
        os.fsync(file.fileno())


def _place(response: requests.Response) -> tuple[int, int | None]:
    """Return where in the file an answer begins, and the file's size if it says so."""
    if response.status_code == 200:
        length = response.headers.get('Content-Length', '')
        return 0, int(length) if length.isdecimal() else None
    part = response.headers.get('Content-Range', '')
    found = re.fullmatch(r'bytes (\d+)-\d+/(\d+)', part)
    if not found:
        raise _TryAgain('the server does not say which part it sent')
    return int(found[1]), int(found[2])


def _retry_after(headers: Mapping[str, str]) -> float | None:
    """Return the seconds of ``Retry-After``, written as a number or as a date."""
    text = headers.get('Retry-After', '')
    if text.isdecimal():
        return float(text)
    try:
        return max(
            0.0, (parsedate_to_datetime(text) - datetime.now(UTC)).total_seconds()
        )
    except (ValueError, TypeError, OverflowError):  # no date, or no time zone
        return None


def _reason(error: Exception) -> str:
    """Say in a few words what broke a connection."""
    text = str(error)
    if 'NameResolutionError' in text or 'Failed to resolve' in text:
        return 'the name of the server cannot be resolved; is there a network?'
    if isinstance(error, requests.exceptions.ProxyError):
        return f'the proxy failed ({text})'
    if 'timed out' in text.lower():
        return 'no byte came for a long time'
    if isinstance(error, requests.exceptions.ConnectionError):
        return 'no connection'
    return 'the connection was cut'
