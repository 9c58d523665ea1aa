"""One of COCO's archives, on its way into its directory."""

import shutil
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

from sapiens_plugin.core.coco.annotations import keypoint_images
from sapiens_plugin.core.coco.layout import (
    ANNOTATIONS,
    KEYPOINT_FILES,
    SERVER,
    TRAIN,
    VAL,
    Layout,
    Part,
    missing,
)
from sapiens_plugin.core.images.check import Expected, check_images
from sapiens_plugin.core.utils.amounts import counted, gigabytes, some
from sapiens_plugin.core.utils.free_space import nearest
from sapiens_plugin.core.utils.listing import sizes
from sapiens_plugin.core.utils.parallel import for_each
from sapiens_plugin.core.utils.progress import byte_bar
from sapiens_plugin.core.utils.whole_file import part_of, whole_path

from .archive import Archive, Member, damaged, extract, runs
from .transfer import Connections, Patience, RemoteFile, SourceError, download

_RUN = 16 * 1024**2  # bytes of neighbouring images that one request brings
_LOOKS = 3  # times that files are asked for which arrive damaged
_KEYPOINT_SHARE = 0.5  # of train2017, by bytes, before its annotations are read
_UNPACKED = 4  # times the archive of annotations; images are stored as they are

Say = Callable[[str], None]


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


@dataclass(frozen=True)
class Room:
    """What a delivery will take of the disk.

    Attributes:
        directory: Where its files go.
        stays: Bytes that these add.
        passes: Bytes of its archive that are still to be fetched, where it is fetched
            whole.
    """

    directory: Path
    stays: int
    passes: int = 0


class Delivery:
    """One of the archives.

    Args:
        part: Which.
        order: What is wanted.
        connections: What to ask a server through.
        say: Told in a line what is done.
    """

    def __init__(self, part: Part, *, order: Order, connections: Connections, say: Say):
        self.part = part
        self._order = order
        self._layout = Layout(order.root)
        self._connections = connections
        self._say = lambda line: say(f'{part.name}: {line}')
        self._directory = self._layout.directory(part)
        self._index = self._layout.read_index(part)
        # What was once chosen is what is repaired.
        chosen = order.repair and self._index is not None and self._index.selective
        self._selective = part.selective and (order.keypoints_only or chosen)
        self._local: list[Archive] = []
        # One of the two, once the server was asked.
        self._remote: Archive | None = None
        self._to_fetch: RemoteFile | None = None

    def is_done(self) -> bool:
        """Whether all of it arrived before, and is there by name and size."""
        index = self._index
        return (
            index is not None
            and index.sealed
            and not self._order.repair
            and (self._selective or not index.selective)
            and (not self._order.keep_archives or any(self._local_archives()))
            and not missing(self._directory, index.files)
        )

    def open(self) -> None:
        """Find the archive, and read its contents unless it must be fetched first.

        Raises:
            SourceError: There is none that is the published one.
        """
        for path in self._local_archives():
            try:
                archive = Archive.local(path, folder=self.part.folder)
                self._check_published(archive, path.stat().st_size)
            except SourceError as error:
                self._say(f'{error} It is left alone.')
            else:
                self._say(f'from {path}')
                self._local.append(archive)
        if not self._local:
            self._open_remote()

    def room(self, *, annotations_are_there: bool) -> Room:
        """Return what it will take of the disk.

        Args:
            annotations_are_there: Whether those that choose from it are in place.
        """
        if self._to_fetch is not None:
            size = self._to_fetch.size
            part = self._part_of_archive(self._to_fetch)
            fetched = min(part.stat().st_size, size) if part.exists() else 0
            stays = size * (_UNPACKED if self.part.images is None else 1)
            there = sum(sizes(self._directory).values())
            return Room(self._directory, max(0, stays - there), size - fetched)
        archive = self._local[0] if self._local else self._remote
        share = 1.0
        if self._chooses_images and not annotations_are_there:
            files, share = _expected(archive.members), _KEYPOINT_SHARE
        else:
            files = self._wanted(archive)
        names = missing(self._directory, files)
        for folder in self._folders():
            if _share_a_disk(folder, self._directory):  # a link takes no room
                names &= missing(folder, files)
        stays = sum(file.size for file in files if file.name in names)
        return Room(self._directory, int(share * stays))

    def bring(self) -> None:
        """Bring what is missing, and check that all is there.

        Raises:
            SourceError: Files arrive damaged, or what :class:`RemoteFile` raises.
        """
        archives = self._archives()
        archive = next(archives)
        files = self._wanted(archive)
        self._directory.mkdir(parents=True, exist_ok=True)
        absent = self._absent(files)
        self._layout.begin(self.part, files, selective=self._selective)
        wanting = len(absent)
        absent = self._take_from_folders(absent)
        if self._order.source and not self._local and len(absent) == wanting:
            name = Path(self.part.path).name
            self._say(
                f'nothing of it in {self._order.source}, where {name} was looked for, '
                f'also in zips, annotations and archives, and files, also in '
                f'{self.part.directory} and {self.part.folder}'
            )
        if absent:
            of_them = counted(len(files), 'file')
            size = gigabytes(sum(f.size for f in absent))
            self._say(f'{len(absent):,} of {of_them} to bring, {size}')
        while absent := self._take_from_archive(archive, absent):
            names = some(file.name for file in absent)
            count = counted(len(absent), 'file')
            damage = f'{count} arrived damaged from {archive.name}: {names}'
            archive = next(archives, None)
            if archive is None:
                self._forget_fetched()
                raise SourceError(
                    f'{damage}. The others are in place. Run the command again for '
                    'these.'
                )
            self._say(damage)
        self._settle_fetched()
        self._remove_leftovers(files)
        self._layout.seal(self.part)
        self._say(f'all there: {counted(len(files), "file")}')

    # --- Where from -----------------------------------------------------------------

    def _local_archives(self) -> Iterator[Path]:
        """Yield archives that are on the disk already."""
        name = Path(self.part.path).name
        places = [self._layout.archive(self.part)]
        if (source := self._order.source) is not None:
            places += [source / self.part.path, source / 'archives' / name]
            places += [source / name]
        seen = {path.resolve(): path for path in reversed(places) if path.is_file()}
        return reversed(seen.values())

    def _folders(self) -> list[Path]:
        """Return folders in which the user may have the files unpacked."""
        source = self._order.source
        if source is None:
            return []
        folders = (source / self.part.directory, source / self.part.folder, source)
        there = {folder.resolve(): folder for folder in folders if folder.is_dir()}
        there.pop(self._directory.resolve(), None)
        return list(there.values())

    def _open_remote(self) -> None:
        url = f'{self._order.server.rstrip("/")}/{self.part.path}'
        remote = RemoteFile(url, connections=self._connections)
        if self.part.size not in (None, remote.size):
            raise SourceError(
                f'{url} has {remote.size:,} bytes, not the {self.part.size:,} of the '
                'published archive.'
            )
        # Without images it is few and large files, which could not be resumed.
        whole = self._order.keep_archives or self.part.images is None
        if whole or not remote.has_ranges:
            self._to_fetch = remote
            why = '' if whole else ', whole: this server gives no parts of files'
            self._say(f'from {url}{why}')
            return
        archive = Archive.remote(remote, folder=self.part.folder)
        self._check_published(archive, remote.size)
        self._remote = archive
        self._say(f'from {url}')

    def _archives(self) -> Iterator[Archive]:
        """Yield archives to take from; the server's is asked for last."""
        yield from self._local
        if self._remote is None and self._to_fetch is None:
            self._open_remote()
        yield self._remote or self._fetch_archive(self._to_fetch)

    def _fetch_archive(self, remote: RemoteFile) -> Archive:
        part = self._part_of_archive(remote)
        with byte_bar(self._layout.archive(self.part).name, remote.size) as bar:
            download(remote, part, on_bytes=bar.advance)
        try:
            archive = Archive.local(part, folder=self.part.folder)
            self._check_published(archive, remote.size)
        except SourceError:
            part.unlink()
            raise
        return archive

    def _part_of_archive(self, remote: RemoteFile) -> Path:
        whole = self._layout.archive(self.part)
        return part_of(whole.with_name(f'{whole.name}.{remote.version}'))

    def _forget_fetched(self) -> None:
        """Delete an archive that is damaged, so that the next call fetches it anew."""
        if self._to_fetch is not None:
            self._part_of_archive(self._to_fetch).unlink(missing_ok=True)

    def _settle_fetched(self) -> None:
        """Keep an archive that was fetched whole, if that is wanted and it is right."""
        whole = self._layout.archive(self.part)
        if self._order.keep_archives and self._to_fetch is not None:
            part = self._part_of_archive(self._to_fetch)
            archive = Archive.local(part, folder=self.part.folder)
            with byte_bar(f'checking {whole.name}', part.stat().st_size) as bar:
                broken = damaged(archive, archive.members, on_bytes=bar.advance)
            if broken:
                self._forget_fetched()
                names = some(member.name for member in broken)
                raise SourceError(
                    f'{counted(len(broken), "file")} arrived damaged in '
                    f'{self._to_fetch.url}: {names}. Run the command again.'
                )
            part.replace(whole)
        for leftover in whole.parent.glob(f'{whole.name}.*.part'):
            leftover.unlink()

    def _check_published(self, archive: Archive, size: int) -> None:
        """Check that an archive is the one that was published."""
        if self.part.size not in (None, size):
            raise SourceError(
                f'{archive.name} has {size:,} bytes, not the {self.part.size:,} of the '
                'published archive.'
            )
        names = {member.name for member in archive.members}
        if self.part.images is not None and len(names) != self.part.images:
            raise SourceError(
                f'{archive.name} holds {counted(len(names), "file")} in '
                f'{self.part.folder}/, not the {self.part.images:,} of the published '
                'archive.'
            )
        if self.part.images is None and not names >= set(KEYPOINT_FILES):
            lacking = some(set(KEYPOINT_FILES) - names)
            raise SourceError(f'{archive.name} lacks {lacking}.')

    # --- What -----------------------------------------------------------------------

    @property
    def _chooses_images(self) -> bool:
        return self._selective and self.part.images is not None

    def _wanted(self, archive: Archive) -> list[Expected]:
        files = _expected(archive.members)
        if not self._selective:
            return files
        if self.part.images is None:
            return [file for file in files if file.name in KEYPOINT_FILES]
        annotations = self._layout.annotation_file(self.part)
        read = keypoint_images(annotations)
        unknown = read.keys() - {file.name for file in files}
        if unknown:
            raise SourceError(
                f'{annotations} names {counted(len(unknown), "image")} that '
                f'{archive.name} does not have: {some(unknown)}. The two do not '
                'belong together; run with --repair to get the published annotations.'
            )
        return [file for file in files if file.name in read]

    def _absent(self, files: list[Expected]) -> list[Expected]:
        """Return the files that are not there as they should be.

        What arrived before the last seal is known by its size; the rest is read.
        """
        index = self._index
        known = index is not None and index.sealed and not self._order.repair
        trusted = set(index.files) if known else set()
        absent = missing(self._directory, files)
        doubtful = [f for f in files if f.name not in absent and f not in trusted]
        there = sizes(self._directory)
        unlike = self._unlike(self._directory, doubtful)
        replaced = unlike | {name for name in absent if there.get(name)}
        if replaced:
            self._say(
                f'{counted(len(replaced), "file")} unlike the published ones will be '
                f'replaced: {some(replaced)}'
            )
        return [file for file in files if file.name in absent | unlike]

    def _unlike(self, directory: Path, files: list[Expected]) -> set[str]:
        """Return the names of files that are not what they should be."""
        if not files:
            return set()
        total = sum(file.size for file in files)
        with byte_bar(f'checking {directory.name}', total) as bar:
            faults = check_images(directory, files, on_bytes=bar.advance)
            return {fault.name for fault in faults}

    # --- Taking ---------------------------------------------------------------------

    def _take_from_folders(self, absent: list[Expected]) -> list[Expected]:
        """Take files that the user has unpacked; return those that are still absent."""
        for folder in self._folders():
            there = missing(folder, absent)
            found = [file for file in absent if file.name not in there]
            taken = {file.name for file in found} - self._unlike(folder, found)
            for name in taken:
                link(folder / name, self._directory / name)
            if found:
                self._say(f'{counted(len(taken), "file")} from {folder}')
            absent = [file for file in absent if file.name not in taken]
        return absent

    def _take_from_archive(
        self, archive: Archive, absent: list[Expected]
    ) -> list[Expected]:
        """Extract files, from a server repeatedly; return those that are damaged."""
        for _ in range(_LOOKS if archive is self._remote else 1):
            if absent:
                absent = self._extract(archive, absent)
        return absent

    def _extract(self, archive: Archive, absent: list[Expected]) -> list[Expected]:
        names = {file.name for file in absent}
        wanted = [member for member in archive.members if member.name in names]
        groups = list(runs(wanted, limit=_RUN))
        broken: list[Member] = []
        total = sum(group[-1].end - group[0].start for group in groups)
        with byte_bar(self.part.name, total) as bar:

            def take(group: list[Member]) -> None:
                broken.extend(
                    extract(archive, group, self._directory, on_bytes=bar.advance)
                )

            for_each(
                groups,
                take,
                workers=self._order.connections,
                stop=self._connections.stop,
            )
        return _expected(broken)

    def _remove_leftovers(self, files: list[Expected]) -> None:
        """Remove what a killed call was writing."""
        ours = {part_of(Path(file.name)).name for file in files}
        for name in sizes(self._directory):
            if name in ours:
                (self._directory / name).unlink()


def link(source: Path, target: Path) -> None:
    """Give a file a second name, or a copy where that cannot be."""
    with whole_path(target) as part:
        try:
            part.hardlink_to(source.resolve())
        except OSError:  # another disk, or a file system without links
            shutil.copyfile(source, part)


def _share_a_disk(one: Path, other: Path) -> bool:
    return nearest(one).stat().st_dev == nearest(other).stat().st_dev


def _expected(members: Iterable[Member]) -> list[Expected]:
    return [Expected(m.name, m.size, m.crc) for m in members]
