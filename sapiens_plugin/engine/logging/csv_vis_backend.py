"""The numbers of a run as a table."""

import logging
from datetime import datetime
from pathlib import Path

from mmengine.logging import print_log
from mmengine.visualization import BaseVisBackend

from sapiens_plugin.registry import VISBACKENDS

from .csv_log import CsvLog


@VISBACKENDS.register_module()
class CsvVisBackend(BaseVisBackend):
    """Write every log line and validation as a row of ``WORK_DIR/metrics.csv``.

    The table goes on through all starts of a job. ``start`` tells them apart by their
    timestamps; ``record`` is ``train``, with ``epoch`` and ``iter``, or ``validation``,
    with the number of epochs trained before it. Rows that cannot be written, as on a
    full disk, wait for the next one; a warning in the log says so once.

    Args:
        save_dir: MMEngine gives ``WORK_DIR/TIMESTAMP/vis_data``.
    """

    def __init__(self, save_dir: str):
        super().__init__(save_dir)
        self._start = Path(save_dir).parent
        self._path = self._start.parent / 'metrics.csv'
        self._log = CsvLog(self._path)
        self._has_warned = False

    def _init_env(self) -> None:
        """Nothing: the file is made with its first row."""

    @property
    def experiment(self) -> CsvLog:
        """The table."""
        return self._log

    def add_scalars(
        self, scalar_dict: dict, step: int = 0, file_path: str | None = None, **kwargs
    ) -> None:
        """Write a row.

        Args:
            scalar_dict: What ``LoggerHook`` collected; with an ``iter`` when training.
            step: Epochs trained, of a validation.
            file_path: Of another backend.
            **kwargs: Of other backends.
        """
        trains = 'iter' in scalar_dict
        row = dict(
            start=self._start.name,
            logged_at=datetime.now().isoformat(sep=' ', timespec='seconds'),
            record='train' if trains else 'validation',
            epoch='' if trains else step,
            iter='',
        )
        self._warn(self._log.append(row | scalar_dict))

    def close(self) -> None:
        """Write the rows that still wait."""
        self._warn(self._log.flush())

    def _warn(self, error: OSError | None) -> None:
        if error is None or self._has_warned:
            return
        self._has_warned = True
        print_log(
            f'{self._path} cannot be written: {error}. Its rows are kept and tried '
            'again with every next one.',
            logger='current',
            level=logging.WARNING,
        )
