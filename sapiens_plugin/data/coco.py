"""Bring COCO 2017 to the disk, whole, from a server or from what the user has.

The images come out of the archives on the server one by one, by ranges of bytes: what
is there is never fetched again, and the 19 GB archive never lies on the disk. Only
where that cannot be, or is not wanted, an archive is fetched whole.
"""

import errno
import shutil
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from filelock import FileLock, Timeout

from sapiens_plugin.data.annotations import keypoint_images
from sapiens_plugin.data.archive import Archive, Member, extract, runs
from sapiens_plugin.data.coco_layout import (
    ANNOTATIONS,
    DETECTIONS,
    KEYPOINT_FILES,
    SERVER,
    TRAIN,
    VAL,
    Layout,
    Part,
    missing,
    sizes,
)
from sapiens_plugin.data.free_space import gigabytes, require_space
from sapiens_plugin.data.image_check import Expected, check_images
from sapiens_plugin.data.parallel import for_each
from sapiens_plugin.data.progress import byte_bar
from sapiens_plugin.data.transfer import (
    Connections,
    Patience,
    RemoteFile,
    download,
    part_of,
    partial_size,
)
from sapiens_plugin.data.weights import fetch_person_detections
from sapiens_plugin.errors import InputError

_RUN = 16 * 1024**2  # bytes of neighbouring images that one request brings
_LOOKS = 3  # times that files are asked for which arrive damaged
_KEYPOINT_SHARE = 0.5  # of train2017, by bytes, before its annotations are read
_UNPACKED = 4  # times the archive of annotations; images are stored as they are


@dataclass(frozen=True, kw_only=True)
class Order:
    """What is wanted, and from where.

    Attributes:
        root: Where COCO goes.
        server: Address of the folder with ``zips/`` and ``annotations/``.
        source: A folder with archives or images that the user has already.
        keypoints_only: Of train2017, only the images that a keypoint job reads.
        keep_archives: Fetch archives whole, and leave them in ``archives/``.
        repair: Compare every file that is there, byte for byte, with the archive's CRC.
        detections: Whether the person detections come, too.
        connections: How many at once.
        patience: How long to put up with a server.
        parts: The archives.
    """

    root: Path
    server: str = SERVER
    source: Path | None = None
    keypoints_only: bool = False
    keep_archives: bool = False
    repair: bool = False
    detections: bool = True
    connections: int = 16
    patience: Patience | None = None
    parts: tuple[Part, ...] = (ANNOTATIONS, VAL, TRAIN)


def bring(order: Order, *, say: Callable[[str], None] = print) -> None:
    """Bring what is ordered and not there yet.

    Whatever ends it before it is done, the same call goes on from there.

    Args:
        order: What is wanted.
        say: Told in a line what is done.

    Raises:
        InputError: It cannot be brought; what has arrived is kept.
    """
    if order.source is not None and not order.source.is_dir():
        raise InputError(f'{order.source} is not a folder. Correct --from.')
    layout = Layout(order.root)
    with _disk_errors(order.root), _alone(layout):
        connections = Connections(patience=order.patience, say=say)
        deliveries = [
            _Delivery(part, order=order, layout=layout, connections=connections)
            for part in order.parts
        ]
        for delivery in deliveries:
            if delivery.is_done():
                say(f'{delivery.part.name}: all there')
        deliveries = [delivery for delivery in deliveries if not delivery.is_done()]
        for delivery in deliveries:
            delivery.open(say)
        _check_space(deliveries, order)
        for delivery in deliveries:
            delivery.bring(say)
        if order.detections:
            _bring_detections(order, say)


class _Delivery:
    """One of the archives, on its way into its directory."""

    def __init__(
        self, part: Part, *, order: Order, layout: Layout, connections: Connections
    ):
        self.part = part
        self._order = order
        self._layout = layout
        self._connections = connections
        self._directory = layout.directory(part)
        self._selective = order.keypoints_only and part.selective
        # One of the two after open().
        self._archive: Archive | None = None
        self._to_fetch: RemoteFile | None = None

    def is_done(self) -> bool:
        """Whether all of it arrived before, and is there by name and size."""
        index = self._layout.read_index(self.part)
        return (
            index is not None
            and index.sealed
            and not self._order.repair
            and (self._selective or not index.selective)
            and not missing(self._directory, index.files)
        )

    def open(self, say: Callable[[str], None]) -> None:
        """Find the archive; read its contents unless it must be fetched first."""
        for path in self._local_archives():
            try:
                self._archive = Archive.local(path, folder=self.part.folder)
                self._check_published()
            except InputError as error:
                say(f'{self.part.name}: {error}')
            else:
                say(f'{self.part.name}: from {path}')
                return
        url = f'{self._order.server.rstrip("/")}/{self.part.path}'
        remote = RemoteFile(url, connections=self._connections)
        # Without images it is few and large files, which could not be resumed.
        whole = self._order.keep_archives or self.part.images is None
        if whole or not remote.has_ranges:
            self._to_fetch = remote
        else:
            self._archive = Archive.remote(remote, folder=self.part.folder)
            self._check_published()
        say(f'{self.part.name}: from {url}')

    def space(self) -> tuple[int, int]:
        """Return the bytes that will stay, and those of an archive to be fetched."""
        if self._to_fetch is not None:
            size = self._to_fetch.size
            there = partial_size(self._layout.archive(self.part))
            stay = size * (_UNPACKED if self.part.images is None else 1)
            return stay, max(0, size - there)
        share = 1.0
        if self._selective and self.part.images and not self._annotations.exists():
            files, share = _expected(self._archive.members), _KEYPOINT_SHARE
        else:
            files = self._wanted()
        absent = missing(self._directory, files)
        return int(share * sum(f.size for f in files if f.name in absent)), 0

    def bring(self, say: Callable[[str], None]) -> None:
        """Bring what is missing, and check that all is there."""
        if self._to_fetch is not None:
            self._archive = self._fetch_archive(self._to_fetch)
            self._check_published()
        files = self._wanted()
        self._directory.mkdir(parents=True, exist_ok=True)
        absent = self._absent(files)
        self._layout.begin(self.part, files, selective=self._selective)
        absent = self._take_from_folders(absent)
        if absent:
            count, size = f'{len(absent):,}', gigabytes(sum(f.size for f in absent))
            say(f'{self.part.name}: {count} of {len(files):,} files to bring, {size}')
        absent = self._take_from_archive(absent)
        if absent:
            raise self._damaged(absent)
        _remove_leftovers(self._directory)
        self._layout.seal(self.part)
        if not self._order.keep_archives:
            self._layout.archive(self.part).unlink(missing_ok=True)
        say(f'{self.part.name}: all {len(files):,} files are there')

    @property
    def _annotations(self) -> Path:
        return self._layout.annotation_file(self.part)

    def _local_archives(self) -> Iterator[Path]:
        name = Path(self.part.path).name
        places = [self._layout.archive(self.part)]
        if self._order.source is not None:
            places += [self._order.source / self.part.path, self._order.source / name]
        return (path for path in places if path.is_file())

    def _fetch_archive(self, remote: RemoteFile) -> Archive:
        path = self._layout.archive(self.part)
        with byte_bar(path.name, remote.size) as bar:
            download(remote, path, on_bytes=bar.advance)
        return Archive.local(path, folder=self.part.folder)

    def _check_published(self) -> None:
        """Check by its files that an archive is the one that was published."""
        archive = self._archive
        names = {member.name for member in archive.members}
        if self.part.images is not None and len(names) != self.part.images:
            raise InputError(
                f'{archive.name} holds {len(names):,} files in {self.part.folder}/, '
                f'not the {self.part.images:,} of the published archive. Name another '
                'server with --mirror.'
            )
        needed = set(KEYPOINT_FILES)
        if self.part.images is None and not needed <= names:
            raise InputError(
                f'{archive.name} lacks {_some(needed - names)}. Name another server '
                'with --mirror.'
            )

    def _wanted(self) -> list[Expected]:
        files = _expected(self._archive.members)
        if not self._selective:
            return files
        if self.part.images is None:
            return [file for file in files if file.name in KEYPOINT_FILES]
        read = keypoint_images(self._annotations)
        unknown = read.keys() - {file.name for file in files}
        if unknown:
            raise InputError(
                f'{self._annotations} names {len(unknown)} images that '
                f'{self._archive.name} does not have: {_some(unknown)}. The two do '
                'not belong together; delete the one that is not COCO 2017.'
            )
        return [file for file in files if file.name in read]

    def _absent(self, files: list[Expected]) -> list[Expected]:
        """Return the files that are not there as they should be.

        What arrived before the last seal is known by its size; the rest is read.
        """
        index = self._layout.read_index(self.part)
        known = index is not None and index.sealed and not self._order.repair
        trusted = set(index.files) if known else set()
        absent = missing(self._directory, files)
        doubtful = [f for f in files if f.name not in absent and f not in trusted]
        absent |= self._unlike(self._directory, doubtful)
        return [file for file in files if file.name in absent]

    def _unlike(self, directory: Path, files: list[Expected]) -> set[str]:
        """Return the names of files that are not what they should be."""
        if not files:
            return set()
        total = sum(file.size for file in files)
        with byte_bar(f'checking {directory.name}', total) as bar:
            faults = check_images(directory, files, on_bytes=bar.advance)
            return {fault.name for fault in faults}

    def _take_from_folders(self, absent: list[Expected]) -> list[Expected]:
        """Take files that the user has unpacked; return those that are still absent."""
        source = self._order.source
        if source is None:
            return absent
        for folder in (source / self.part.directory, source / self.part.folder):
            if folder.is_dir() and not folder.samefile(self._directory):
                there = missing(folder, absent)
                found = [file for file in absent if file.name not in there]
                unlike = self._unlike(folder, found)
                taken = {file.name for file in found} - unlike
                for name in taken:
                    _link(folder / name, self._directory / name)
                absent = [file for file in absent if file.name not in taken]
        return absent

    def _take_from_archive(self, absent: list[Expected]) -> list[Expected]:
        """Extract files; return those that arrived damaged, time and again."""
        for _ in range(_LOOKS):
            if not absent:
                break
            names = {file.name for file in absent}
            wanted = [m for m in self._archive.members if m.name in names]
            damaged: list[Member] = []
            groups = list(runs(wanted, limit=_RUN))
            total = sum(group[-1].end - group[0].start for group in groups)
            with byte_bar(self.part.name, total) as bar:
                for_each(
                    groups,
                    lambda group, damaged=damaged, bar=bar: damaged.extend(
                        extract(
                            self._archive,
                            group,
                            self._directory,
                            on_bytes=bar.advance,
                        )
                    ),
                    workers=self._order.connections,
                    stop=self._connections.stop,
                )
            absent = _expected(damaged)
        return absent

    def _damaged(self, absent: list[Expected]) -> InputError:
        fetched = self._layout.archive(self.part)
        fetched.unlink(missing_ok=True)  # so that the next call fetches it anew
        names = _some({file.name for file in absent})
        return InputError(
            f'{len(absent)} files arrive damaged from {self._archive.name}: {names}. '
            'The others are in place. Run the command again for these; if that does '
            'not help, name another server with --mirror, or leave a damaged archive '
            'of your own out of --from.'
        )


def _check_space(deliveries: Sequence[_Delivery], order: Order) -> None:
    """Check that there is room at the time when most is needed."""
    spaces = [delivery.space() for delivery in deliveries]
    if not spaces:
        return
    stay, archives = zip(*spaces, strict=True)
    on_the_way = sum(archives) if order.keep_archives else max(archives)
    require_space(order.root, sum(stay) + on_the_way, what='COCO')


def _bring_detections(order: Order, say: Callable[[str], None]) -> None:
    target = order.root / DETECTIONS
    if order.source is not None and not target.exists():
        for path in (order.source / DETECTIONS, order.source / target.name):
            if path.is_file():
                target.parent.mkdir(parents=True, exist_ok=True)
                _link(path, target)
                break
    try:
        fetch_person_detections(order.root, say=say)
    except InputError as error:
        raise InputError(
            f'{error} Everything else is there. To go without person detections, add '
            '--no-detections.'
        ) from None


def _expected(members: Iterable[Member]) -> list[Expected]:
    return [Expected(m.name, m.size, m.crc) for m in members]


def _link(source: Path, target: Path) -> None:
    """Give a file a second name, or a copy where that cannot be."""
    part = part_of(target)
    part.unlink(missing_ok=True)
    try:
        part.hardlink_to(source)
    except OSError:  # another disk, or a file system without links
        shutil.copyfile(source, part)
    part.replace(target)


def _remove_leftovers(directory: Path) -> None:
    """Remove what a killed run was writing."""
    for name in sizes(directory):
        if name.endswith('.part'):
            (directory / name).unlink()


def _some(names: Iterable[str]) -> str:
    names = sorted(names)
    return ', '.join(names[:3]) + (', …' if len(names) > 3 else '')


@contextmanager
def _alone(layout: Layout) -> Iterator[None]:
    """Hold the folder against a second call at the same time."""
    layout.archives.mkdir(parents=True, exist_ok=True)
    lock = FileLock(layout.archives / 'lock')
    try:
        lock.acquire(timeout=0)
    except Timeout:
        raise InputError(
            f'Another download is writing to {layout.root}. Wait for it to end.'
        ) from None
    try:
        yield
    finally:
        lock.release()


@contextmanager
def _disk_errors(root: Path) -> Iterator[None]:
    """Turn errors of the disk into what the user can do about them."""
    try:
        yield
    except OSError as error:
        if error.errno in (errno.ENOSPC, errno.EDQUOT):
            raise InputError(
                f'The disk of {root} is full. What has arrived is whole and stays; '
                'make room and run the command again.'
            ) from None
        raise InputError(
            f'{error.filename or root}: {error.strerror or error}. Mend that and run '
            'the command again; what has arrived stays.'
        ) from None
