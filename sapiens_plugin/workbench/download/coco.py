"""Bring COCO 2017 to the disk, whole, from a server or from what the user has.

The images come out of the archives on the server one by one, by ranges of bytes: what
is there is never fetched again, and the 19 GB archive never lies on the disk. Only
where that cannot be, or is not wanted, an archive is fetched whole.
"""

from collections.abc import Callable, Sequence
from pathlib import Path

from sapiens_plugin.core.coco.layout import DETECTIONS, Layout
from sapiens_plugin.core.utils.alone import alone
from sapiens_plugin.core.utils.free_space import disk_errors, nearest, require_space
from sapiens_plugin.errors import InputError

from .delivery import Delivery, Order, Room, link
from .transfer import Connections, SourceError
from .weights import fetch_person_detections

__all__ = ['Order', 'bring']


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
    lock = Layout(order.root).archives / 'lock'
    refusal = f'Another download is writing to {order.root}. Wait for it to end.'
    try:
        with disk_errors(order.root), alone(lock, refusal=refusal):
            _bring_archives(order, say)
            if order.detections:
                _bring_detections(order, say)
    except SourceError as error:
        raise InputError(
            f'{error} Another server can be named with --mirror, and a folder of '
            'what you have already with --from.'
        ) from None


def _bring_archives(order: Order, say: Callable[[str], None]) -> None:
    connections = Connections(patience=order.patience, say=say)
    deliveries = []
    for part in order.parts:
        delivery = Delivery(part, order=order, connections=connections, say=say)
        if delivery.is_done():
            say(f'{part.name}: all there')
        else:
            deliveries.append(delivery)
    for delivery in deliveries:
        delivery.open()
    chosen_by = not any(delivery.part.images is None for delivery in deliveries)
    rooms = [delivery.room(annotations_are_there=chosen_by) for delivery in deliveries]
    _check_room(rooms, order)
    for delivery in deliveries:
        delivery.bring()


def _check_room(rooms: Sequence[Room], order: Order) -> None:
    """Check that every disk has room at the time when it needs the most."""
    archives = Layout(order.root).archives
    passing = [room.passes for room in rooms]
    needs = [(room.directory, room.stays) for room in rooms]
    # Archives that are not kept are there one at a time.
    needs.append(
        (archives, sum(passing) if order.keep_archives else max(passing, default=0))
    )
    by_disk: dict[int, tuple[Path, int]] = {}
    for path, count in needs:
        disk = nearest(path).stat().st_dev
        path, before = by_disk.get(disk, (path, 0))
        by_disk[disk] = (path, before + count)
    for path, count in by_disk.values():
        if count:
            require_space(path, count, what='COCO')


def _bring_detections(order: Order, say: Callable[[str], None]) -> None:
    target = order.root / DETECTIONS
    if order.source is not None and not target.exists():
        for path in (order.source / DETECTIONS, order.source / target.name):
            if path.is_file():
                target.parent.mkdir(parents=True, exist_ok=True)
                link(path, target)
                break
    try:
        fetch_person_detections(order.root, say=say)
    except InputError as error:
        raise InputError(
            f'{error} Everything else is there. To go without person detections, add '
            '--no-detections.'
        ) from None
