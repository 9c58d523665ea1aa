"""Share work out to threads that end together."""

import threading
import time
from collections.abc import Callable, Iterable
from typing import TypeVar

_Item = TypeVar('_Item')
_LAST_BLOCK = 2.0  # s; threads that hang longer in a read are left behind


def for_each(
    items: Iterable[_Item],
    work: Callable[[_Item], None],
    *,
    workers: int,
    stop: Callable[[], None],
) -> None:
    """Do the work on every item, in several threads.

    After the first error, and on Ctrl-C, no further item is begun.

    Args:
        items: What to work on; taken one by one.
        work: What to do.
        workers: Number of threads.
        stop: Called after an error, so that work under way ends soon.

    Raises:
        Exception: The first that the work raised.
    """
    pending, lock = iter(items), threading.Lock()
    errors: list[BaseException] = []

    def worker() -> None:
        while not errors:
            with lock:
                item = next(pending, _END)
            if item is _END:
                return
            try:
                work(item)
            except BaseException as error:  # noqa: BLE001  (raised again below)
                errors.append(error)
                stop()

    # Daemons: after Ctrl-C nobody waits for a server that has gone silent.
    threads = [threading.Thread(target=worker, daemon=True) for _ in range(workers)]
    for thread in threads:
        thread.start()
    try:
        for thread in threads:
            while thread.is_alive() and not errors:
                thread.join(0.1)  # not for good: Ctrl-C would wait on Windows
    except KeyboardInterrupt:
        errors.append(KeyboardInterrupt())
        stop()
        raise
    deadline = time.monotonic() + _LAST_BLOCK
    for thread in threads:
        thread.join(max(0.0, deadline - time.monotonic()))
    if errors:
        raise errors[0]


_END = object()
