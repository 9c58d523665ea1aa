"""One file out of a repository of the Hugging Face hub: whole, or not there at all.

The hub is asked through ``huggingface_hub``: its address (``HF_ENDPOINT``), its token
(``HF_TOKEN``), its offline mode (``HF_HUB_OFFLINE``), proxies and certificates are
those that this library takes. Only the bytes are written here, because
``hf_hub_download`` throws away what has arrived whenever a download is cut, and because
it compares the size of what arrived, but not its hash.
"""

import glob
import hashlib
import os
import re
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import TypeVar

from huggingface_hub import HfApi, constants, hf_hub_url
from huggingface_hub.errors import (
    GatedRepoError,
    HTTPError,
    OfflineModeIsEnabled,
)
from huggingface_hub.utils import build_hf_headers, get_session, hf_raise_for_status

from sapiens_plugin.core.utils.alone import alone
from sapiens_plugin.core.utils.amounts import gigabytes
from sapiens_plugin.core.utils.free_space import is_full_disk, require_space
from sapiens_plugin.core.utils.progress import Bar, byte_bar
from sapiens_plugin.errors import InputError, first_line

from .transfer import WAITABLE, retry_after

_PAUSES = (1, 2, 4, 8, 16, 30)  # s, between attempts that brought nothing
_FEW_PAUSES = (1, 3)  # s, while nothing has been fetched yet
_LONGEST_PAUSE = 120  # s, that a server may ask for
_BLOCK = 1024**2  # bytes

T = TypeVar('T')
Say = Callable[[str], None]


class HubUnreachable(InputError):
    """The hub gives no answer: there is no network, or offline mode is on."""


class _Unexpected(Exception):
    """A server answered with something else than the file."""


@dataclass(frozen=True)
class HubFile:
    """A file at one commit of a repository, as the hub describes it.

    Attributes:
        repo_id: Such as ``'facebook/sapiens-pretrain-1b-torchscript'``.
        commit: The commit's hash.
        path: Inside the repository, with slashes.
        size: Bytes.
        sha256: Of a large file, which the hub keeps outside git; None of another.
        blob_id: Git's hash: of the file, or of what stands for a large one in git.
    """

    repo_id: str
    commit: str
    path: str
    size: int
    sha256: str | None
    blob_id: str

    @property
    def name(self) -> str:
        """The last part of the path."""
        return PurePosixPath(self.path).name

    @property
    def digest(self) -> str:
        """What :meth:`hasher` gives for the right bytes."""
        return self.sha256 or self.blob_id

    @property
    def hash_name(self) -> str:
        """The name of the hash, for a reader."""
        return 'SHA-256' if self.sha256 else 'git hash'

    def hasher(self):
        """Return a new hash that is to be fed with the file's bytes."""
        if self.sha256:
            return hashlib.sha256()
        return hashlib.sha1(b'blob %d\0' % self.size, usedforsecurity=False)


@dataclass(frozen=True)
class Repository:
    """A repository at one commit.

    Attributes:
        repo_id: Owner and name.
        commit: The commit's hash.
        files: All its files.
        licence: What its card names, such as ``'cc-by-nc-4.0'``, if anything.
        licence_link: Where its card says that the text of the licence is, if it does.
        address: Its page.
    """

    repo_id: str
    commit: str
    files: tuple[HubFile, ...]
    licence: str | None
    licence_link: str | None
    address: str


def open_repository(repo_id: str, *, endpoint: str | None = None) -> Repository:
    """Ask the hub what is in a repository of models now.

    Args:
        repo_id: Owner and name.
        endpoint: The hub's address; that of ``HF_ENDPOINT`` unless given.

    Raises:
        HubUnreachable: The hub does not answer, or may not be asked.
        InputError: There is no such repository, it is not for this user, or what
            answers is no hub.
    """
    endpoint = _address(endpoint)
    api = HfApi(endpoint=endpoint)
    try:
        info = _patiently(
            lambda: api.model_info(
                repo_id, files_metadata=True, timeout=constants.HF_HUB_ETAG_TIMEOUT
            ),
            pauses=_FEW_PAUSES,
        )
    except (HTTPError, OSError) as error:
        raise _explained(error, repo_id, endpoint) from error
    except (ValueError, TypeError, KeyError, AttributeError) as error:
        raise InputError(
            f'{endpoint} did not answer as a hub does when asked about {repo_id} '
            f'({type(error).__name__}): a login page of your network, a proxy, or a '
            'wrong HF_ENDPOINT stands in between. Open the address in a browser, then '
            'run the command again.'
        ) from error
    files = tuple(
        HubFile(
            repo_id,
            info.sha,
            sibling.rfilename,
            sibling.size,
            sibling.lfs.sha256 if sibling.lfs else None,
            sibling.blob_id,
        )
        for sibling in info.siblings or ()
    )
    if not info.sha or any(file.size is None or not file.digest for file in files):
        raise InputError(
            f'{endpoint} lists {repo_id} without sizes and hashes, so that nobody '
            'could tell whether a file arrives whole. Use the hub itself (unset '
            'HF_ENDPOINT) or another mirror.'
        )
    address = f'{endpoint}/{repo_id}'
    card = info.card_data.to_dict() if info.card_data else {}
    link = card.get('license_link')
    if link and '://' not in link:  # a file of the repository
        link = f'{address}/blob/{info.sha}/{link}'
    return Repository(
        repo_id,
        info.sha,
        files,
        card.get('license_name') or card.get('license'),
        link,
        address,
    )


def fetch(
    file: HubFile,
    destination: str | Path,
    *,
    endpoint: str | None = None,
    say: Say = print,
) -> Path:
    """Fetch a file, unless just this one is there already.

    It appears under its name once its size and hash are those that the hub has. Until
    then it lies beside it as ``NAME.HASH.part``, and the next call goes on behind the
    last byte of that, be it that the connection or the process was cut. The hash in
    the name keeps apart what belongs to another commit.

    Args:
        file: What to fetch, of :func:`open_repository`.
        destination: Where it is to appear; the folder is made where missing.
        endpoint: As in :func:`open_repository`.
        say: Takes a line for the user.

    Returns:
        ``destination``.

    Raises:
        HubUnreachable: The hub does not answer any more.
        InputError: There is no room; the folder cannot be written; another process is
            fetching this file; the hub refuses; or what arrives is not the file.
    """
    endpoint, destination = _address(endpoint), Path(destination)
    part = destination.with_name(f'{destination.name}.{file.digest[:12]}.part')
    refusal = (
        f'Another process is fetching {file.name} into {destination.parent}. Wait for '
        'it to end, or stop it; then run the command again.'
    )
    try:
        with alone(destination.with_name(f'{destination.name}.lock'), refusal=refusal):
            if _is_there(file, destination, say):
                _remove_parts(destination)
                return destination
            _remove_parts(destination, keep=part)
            require_space(destination.parent, file.size - _size(part), what=file.name)
            _download(file, part, endpoint, say)
            _verify(file, part, endpoint, say)
            part.replace(destination)
    except _Unexpected as error:
        raise InputError(
            f'{endpoint} was asked for {file.path} of {file.repo_id}, {file.size} '
            f'bytes, and answered with {error}: a login page of your network, a proxy '
            'or a mirror stands in between. Nothing of it was kept. Run the command '
            'again when the address opens in a browser, or unset HF_ENDPOINT.'
        ) from None
    except (HTTPError, OSError) as error:
        raise _explained(error, f'{file.name} of {file.repo_id}', endpoint) from error
    return destination


# --- Bytes --------------------------------------------------------------------------


def _download(file: HubFile, part: Path, endpoint: str, say: Say) -> None:
    if held := _size(part):
        say(f'{gigabytes(held)} of {file.name} are there; fetching the rest.')
    with byte_bar(file.name, file.size) as bar:
        bar.advance(held)
        part.touch()
        while (start := _size(part)) < file.size:
            _patiently(
                lambda: _receive(file, part, endpoint, bar),
                pauses=_PAUSES,
                has_progressed=lambda start=start: _size(part) > start,
            )
    if _size(part) > file.size:
        part.unlink()
        raise _Unexpected('more bytes than that')


def _receive(file: HubFile, part: Path, endpoint: str, bar: Bar) -> None:
    """Append what one answer brings of the bytes that are missing."""
    held = _size(part)
    headers = build_hf_headers() | {'Accept-Encoding': 'identity'}
    if held:
        headers['Range'] = f'bytes={held}-'
    url = hf_hub_url(file.repo_id, file.path, revision=file.commit, endpoint=endpoint)
    with get_session().stream(
        'GET', url, headers=headers, timeout=constants.HF_HUB_DOWNLOAD_TIMEOUT
    ) as response:
        hf_raise_for_status(response)
        start = _start_of(response, file, held)
        with open(part, 'ab') as out:
            out.truncate(start)
            bar.advance(start - held)
            for block in response.iter_bytes():
                out.write(block)
                bar.advance(len(block))
                if out.tell() > file.size:
                    return
    if _size(part) == start:
        raise HTTPError('the answer was empty')


def _start_of(response, file: HubFile, held: int) -> int:
    """Return where in the file an answer begins.

    Raises:
        _Unexpected: The answer is no part of the file that goes on where ``held``
            bytes end, and not the whole of it either.
    """
    kind = response.headers.get('Content-Type', 'an unknown type')
    length = response.headers.get('Content-Length')
    if response.status_code == 206:
        part = response.headers.get('Content-Range', '')
        found = re.fullmatch(r'bytes (\d+)-\d+/(\d+|\*)', part)
        if not found or int(found[1]) != held or found[2] not in ('*', str(file.size)):
            raise _Unexpected(f'the part {part!r} for the bytes from {held} on')
        return held
    if length not in (None, str(file.size)) or kind.startswith('text/html'):
        raise _Unexpected(f'{length or "some"} bytes of {kind}')
    return 0


def _verify(file: HubFile, part: Path, endpoint: str, say: Say) -> None:
    """Delete what arrived unless it is the file."""
    found = _digest(file, part, say)
    if found == file.digest:
        # A power cut must not leave an empty file under the final name.
        with open(part, 'r+b') as whole:
            os.fsync(whole.fileno())
        return
    part.unlink()
    raise InputError(
        f'{file.name} arrived from {endpoint} with the right number of bytes, but '
        f'their {file.hash_name} is {found[:16]}… and should be {file.digest[:16]}…: '
        'something on the way changed them. They were deleted. Run the command again; '
        'if that gives the same, try another network, or unset HF_ENDPOINT.'
    )


def _is_there(file: HubFile, destination: Path, say: Say) -> bool:
    """Compare what is there already with what the hub has."""
    if not destination.exists():
        return False
    if destination.stat().st_size == file.size:
        if _digest(file, destination, say) == file.digest:
            say(f'{destination} is there, and is what the hub has.')
            return True
    say(f'{destination} is there, but is not what the hub has; fetching it anew.')
    return False


def _digest(file: HubFile, path: Path, say: Say) -> str:
    say(f'Comparing {gigabytes(file.size)} with the {file.hash_name} of the hub.')
    hasher, block = file.hasher(), memoryview(bytearray(_BLOCK))
    with (
        open(path, 'rb', buffering=0) as content,
        byte_bar('comparing', file.size) as bar,
    ):
        while count := content.readinto(block):
            hasher.update(block[:count])
            bar.advance(count)
    return hasher.hexdigest()


def _size(path: Path) -> int:
    return path.stat().st_size if path.exists() else 0


def _remove_parts(destination: Path, keep: Path | None = None) -> None:
    name = glob.escape(destination.name)
    for path in destination.parent.glob(f'{name}.*.part'):
        if path != keep:
            path.unlink()


# --- What the hub answers -----------------------------------------------------------


def _patiently(
    attempt: Callable[[], T],
    *,
    pauses: tuple[int, ...],
    has_progressed: Callable[[], bool] = lambda: False,
) -> T | None:
    """Try again while another attempt may help; return None after some progress."""
    for pause in (*pauses, None):
        try:
            return attempt()
        except HTTPError as error:
            if has_progressed():
                return None
            asked = _asked_pause(error)
            if pause is None or not _may_pass(error) or asked > _LONGEST_PAUSE:
                raise
            time.sleep(max(pause, asked))
    raise AssertionError('the last attempt returns or raises')


def _may_pass(error: Exception) -> bool:
    status = _status(error)
    return status is None or status in WAITABLE


def _asked_pause(error: Exception) -> float:
    """Return the seconds that the server wants to be left alone."""
    response = getattr(error, 'response', None)
    return 0 if response is None else retry_after(response.headers) or 0


def _status(error: Exception) -> int | None:
    response = getattr(error, 'response', None)
    return None if response is None else response.status_code


def _address(endpoint: str | None) -> str:
    address = (endpoint or constants.ENDPOINT).rstrip('/')
    if not re.fullmatch(
        r'https?://(\[[\da-fA-F:.]+\]|[^\s/:]+)(:\d+)?(/\S*)?', address
    ):
        raise InputError(
            f'HF_ENDPOINT={address} is no address of a hub. It should look like '
            'https://huggingface.co; unset it to use that.'
        )
    return address


def _explained(error: Exception, what: str, endpoint: str) -> InputError:
    """Say what an error means for the user, and the way out."""
    status = _status(error)
    if isinstance(error, OfflineModeIsEnabled):
        return HubUnreachable(
            f'{what} cannot be had from the hub: offline mode is on. Unset '
            'HF_HUB_OFFLINE, or bring the file from another machine.'
        )
    if isinstance(error, GatedRepoError):
        return InputError(
            f'{what} is given only to those who have accepted its terms. Log in at '
            f'{endpoint}, accept them on the page of the repository, make a token '
            '(Settings, Access Tokens), and run the command again with the environment '
            'variable HF_TOKEN set to it.'
        )
    if status in (401, 403):
        return InputError(
            f'{endpoint} refuses {what} ({status}): it is not there, or not for this '
            'user. If a token is set (HF_TOKEN, or by `hf auth login`), renew or '
            'unset it; public repositories need none. If the repository is private or '
            'asks to accept terms, a token of a user who may read it is needed.'
        )
    if status in (404, 410):
        return InputError(
            f'{endpoint} has no {what} ({status}). If HF_ENDPOINT names a mirror, '
            'unset it; otherwise the repository has been changed or moved: look for '
            'it on the hub.'
        )
    if status == 429:
        return HubUnreachable(
            f'{endpoint} answers too many requests from here (429) to give {what}. '
            'Wait some minutes, or set HF_TOKEN, which raises the limit; then run the '
            'command again: it goes on where it stopped.'
        )
    if status is not None:
        return HubUnreachable(
            f'{endpoint} fails to give {what}: it answers {status}. Run the command '
            'again later; it goes on where it stopped.'
        )
    if isinstance(error, HTTPError):
        return HubUnreachable(
            f'{endpoint} cannot be reached for {what} ({first_line(error)}). Check '
            'the network; behind a proxy set HTTPS_PROXY, and for a mirror of the hub '
            'HF_ENDPOINT. Then run the command again: it goes on where it stopped.'
        )
    if is_full_disk(error):
        return InputError(
            f'The disk became full while {what} was written. What arrived is kept: '
            'make room, then run the command again, and it goes on where it stopped.'
        )
    return InputError(f'{what} cannot be written: {error}.')
