"""One file out of a repository of the Hugging Face hub: whole, or not there at all.

Its address (``HF_ENDPOINT``), the token (``HF_TOKEN``), offline mode
(``HF_HUB_OFFLINE``) and timeouts are those that ``huggingface_hub`` takes. All that is
asked goes through :mod:`.transfer`, because ``hf_hub_download`` throws away what has
arrived whenever a download is cut, and because it compares the size of what arrived,
but not its hash.
"""

import glob
import hashlib
import json
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

import requests
from huggingface_hub import constants, hf_hub_url
from huggingface_hub.utils import build_hf_headers

from sapiens_plugin.core.utils.alone import alone
from sapiens_plugin.core.utils.amounts import gigabytes
from sapiens_plugin.core.utils.free_space import disk_errors, require_space
from sapiens_plugin.core.utils.progress import byte_bar
from sapiens_plugin.errors import InputError

from .transfer import (
    BLOCK,
    Address,
    Connections,
    Patience,
    RemoteFile,
    SourceError,
    Unreachable,
    download,
)

Say = Callable[[str], None]


@dataclass(frozen=True)
class HubFile:
    """A file at one commit of a repository, as the hub describes it.

    Attributes:
        repo_id: Such as ``'facebook/sapiens-pretrain-1b-torchscript'``.
        commit: The commit's hash.
        path: Inside the repository, with slashes.
        size: Bytes.
        digest: What :meth:`hasher` gives for the right bytes.
        hash_name: ``'SHA-256'`` of a large file, which the hub keeps outside git;
            ``'git hash'`` of another.
    """

    repo_id: str
    commit: str
    path: str
    size: int
    digest: str
    hash_name: str

    @property
    def name(self) -> str:
        """The last part of the path."""
        return PurePosixPath(self.path).name

    def hasher(self):
        """Return a new hash that is to be fed with the file's bytes."""
        if self.hash_name == 'SHA-256':
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
        Unreachable: The hub does not answer, or may not be asked.
        InputError: There is no such repository, it is not for this user, or what
            answers is no hub.
    """
    endpoint = (endpoint or constants.ENDPOINT).rstrip('/')
    if constants.HF_HUB_OFFLINE:
        raise Unreachable(
            f'{repo_id} cannot be had from the hub: offline mode is on. Unset '
            'HF_HUB_OFFLINE, or bring the file from another machine.'
        )
    # Not for long: what is there already may do without a listing.
    silence = constants.HF_HUB_ETAG_TIMEOUT
    patience = Patience(attempts=3, longest_wait=10, silence=silence)
    url = f'{endpoint}/api/models/{repo_id}?blobs=true'
    listing = Address(url, connections=Connections(patience=patience, auth=_as_user))
    with _ways_out(listing, endpoint):
        answer = listing.read()
    try:
        info = json.loads(answer)
        commit = info['sha']
        files = tuple(_listed(repo_id, commit, one) for one in info['siblings'])
        if not commit or not all(file.digest for file in files):
            raise ValueError('no hash')
        card = info.get('cardData') or {}
        link = card.get('license_link')
        licence = card.get('license_name') or card.get('license')
    except (ValueError, TypeError, KeyError, AttributeError) as error:
        raise InputError(
            f'{endpoint} did not answer as a hub does when asked about {repo_id} '
            f'({error!r}): something of your network, or a mirror that gives no sizes '
            'and hashes, stands in between. Unset HF_ENDPOINT, or open the address in '
            'a browser to see it; then run the command again.'
        ) from error
    address = f'{endpoint}/{repo_id}'
    if link and '://' not in link:  # a file of the repository
        link = f'{address}/blob/{commit}/{link}'
    return Repository(repo_id, commit, files, licence, link, address)


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
        Unreachable: The hub does not answer any more.
        InputError: There is no room; the folder cannot be written; another process is
            fetching this file; the hub refuses; or what arrives is not the file.
    """
    endpoint = (endpoint or constants.ENDPOINT).rstrip('/')
    destination = Path(destination)
    part = destination.with_name(f'{destination.name}.{file.digest[:12]}.part')
    url = hf_hub_url(file.repo_id, file.path, revision=file.commit, endpoint=endpoint)
    patience = Patience(silence=constants.HF_HUB_DOWNLOAD_TIMEOUT)
    connections = Connections(patience=patience, say=say, auth=_as_user)
    remote = RemoteFile(url, connections=connections, size=file.size)
    refusal = (
        f'Another process is fetching {file.name} into {destination.parent}. Wait for '
        'it to end, or stop it; then run the command again.'
    )
    with (
        disk_errors(destination.parent),
        alone(destination.with_name(f'{destination.name}.lock'), refusal=refusal),
    ):
        if _is_there(file, destination, say):
            _remove_parts(destination)
            return destination
        _remove_parts(destination, keep=part)
        held = part.stat().st_size if part.exists() else 0
        require_space(destination.parent, file.size - held, what=file.name)
        if held:
            say(f'{gigabytes(held)} of {file.name} are there; fetching the rest.')
        with _ways_out(remote, endpoint), byte_bar(file.name, file.size) as bar:
            download(remote, part, on_bytes=bar.advance)
        found = _digest(file, part, say)
        if found != file.digest:
            part.unlink()
            raise InputError(
                f'{file.name} arrived from {endpoint} with the right number of bytes, '
                f'but their {file.hash_name} is {found[:16]}… and should be '
                f'{file.digest[:16]}…: something on the way changed them. They were '
                'deleted. Run the command again; if that gives the same, try another '
                'network, or unset HF_ENDPOINT.'
            )
        part.replace(destination)
    return destination


def _listed(repo_id: str, commit: str, listed: dict) -> HubFile:
    """Read what the hub says of a file; raise KeyError and the like if it is no hub."""
    digest, kind = listed['blobId'], 'git hash'
    if large := listed.get('lfs'):
        digest, kind = large['sha256'], 'SHA-256'
    return HubFile(
        repo_id, commit, listed['rfilename'], int(listed['size']), digest, kind
    )


def _as_user(request: requests.PreparedRequest) -> requests.PreparedRequest:
    """Add the token; of a redirect, `requests` takes it off for another host."""
    request.headers.update(build_hf_headers())
    return request


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
    hasher = file.hasher()
    with open(path, 'rb') as content, byte_bar('comparing', file.size) as bar:
        while block := content.read(BLOCK):
            hasher.update(block)
            bar.advance(len(block))
    return hasher.hexdigest()


def _remove_parts(destination: Path, keep: Path | None = None) -> None:
    name = glob.escape(destination.name)
    for path in destination.parent.glob(f'{name}.*.part'):
        if path != keep:
            path.unlink()


@contextmanager
def _ways_out(asked: Address, endpoint: str) -> Iterator[None]:
    """Add to an error what a user of the hub can do about it."""
    try:
        yield
    except SourceError as error:
        answer = asked.answer
        status = 0 if answer is None else answer.status_code
        if status and answer.headers.get('X-Error-Code') == 'GatedRepo':
            way_out = (
                'It is given only to those who have accepted its terms. Log in at '
                f'{endpoint}, accept them on the page of the repository, make a token '
                '(Settings, Access Tokens), and run the command again with the '
                'environment variable HF_TOKEN set to it.'
            )
        elif status in (401, 403):
            way_out = (
                'It is not there, or not for this user. If a token is set (HF_TOKEN, '
                'or by `hf auth login`), renew or unset it; public repositories need '
                'none. If the repository is private or asks to accept terms, a token '
                'of a user who may read it is needed.'
            )
        elif status in (404, 410):
            way_out = (
                'If HF_ENDPOINT names a mirror, unset it; otherwise the repository has '
                'been changed or moved: look for it on the hub.'
            )
        elif status == 429:
            way_out = 'Wait some minutes, or set HF_TOKEN, which raises the limit.'
        else:
            way_out = (
                'Check the network, and HF_ENDPOINT, which names a mirror of the hub '
                'where it is set; behind a proxy set HTTPS_PROXY.'
            )
        raise type(error)(f'{error} {way_out}') from None
