import errno
import logging

from mmengine.logging import MMLogger

from sapiens_plugin.engine.logging import csv_log
from sapiens_plugin.engine.logging.csv_vis_backend import CsvVisBackend


def test_a_full_disk_is_one_warning_and_no_row_is_lost(tmp_path, monkeypatch):
    logger = MMLogger.get_instance('test_csv_vis_backend')
    said = []
    monkeypatch.setattr(logger, 'callHandlers', said.append)
    backend = CsvVisBackend(str(tmp_path / '20260101_000000' / 'vis_data'))

    def full(*args, **kwargs):
        raise OSError(errno.ENOSPC, 'No space left on device')

    with monkeypatch.context() as patch:
        patch.setattr(csv_log, 'write_whole', full)
        for step in (1, 2):
            backend.add_scalars({'loss': 0.5, 'iter': step, 'epoch': 1}, step=step)
        backend.close()
    (record,) = said
    assert record.levelno == logging.WARNING
    assert 'metrics.csv' in record.getMessage() and 'No space' in record.getMessage()
    backend.close()
    lines = (tmp_path / 'metrics.csv').read_text(encoding='utf-8').splitlines()
    assert [line.split(',')[4] for line in lines] == ['iter', '1', '2']
