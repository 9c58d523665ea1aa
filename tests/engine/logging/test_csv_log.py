import csv
import errno

from sapiens_plugin.engine.logging import csv_log
from sapiens_plugin.engine.logging.csv_log import CsvLog


def read(path) -> list[dict]:
    with path.open(encoding='utf-8', newline='') as file:
        return list(csv.DictReader(file))


def test_every_row_is_in_the_file_at_once(tmp_path):
    path = tmp_path / 'new' / 'metrics.csv'
    log = CsvLog(path)
    for step in (50, 100):
        log.append({'step': step, 'loss': 0.5})
        assert read(path)[-1] == {'step': str(step), 'loss': '0.5'}
    assert path.read_text(encoding='utf-8') == 'step,loss\n50,0.5\n100,0.5\n'


def test_columns_keep_their_places_and_new_ones_come_last(tmp_path):
    path = tmp_path / 'metrics.csv'
    log = CsvLog(path)
    log.append({'step': 1, 'loss': 0.5})
    log.append({'coco/AP (M)': 0.25, 'step': 2})
    log.append({'loss': 0.4, 'step': 3})
    assert path.read_text(encoding='utf-8') == (
        'step,loss,coco/AP (M)\n1,0.5,\n2,,0.25\n3,0.4,\n'
    )
    assert [p.name for p in tmp_path.iterdir()] == ['metrics.csv']


def test_another_start_goes_on_in_the_same_table(tmp_path):
    path = tmp_path / 'metrics.csv'
    CsvLog(path).append({'step': 1, 'loss': 0.5, 'note': 'a,\n"b"'})
    CsvLog(path).append({'loss': 0.4, 'step': 2, 'memory': 7})
    assert read(path) == [
        {'step': '1', 'loss': '0.5', 'note': 'a,\n"b"', 'memory': ''},
        {'step': '2', 'loss': '0.4', 'note': '', 'memory': '7'},
    ]


def test_half_a_row_of_a_killed_run_is_dropped(tmp_path):
    path = tmp_path / 'metrics.csv'
    path.write_text('step,loss\n1,0.5\n2,0.', encoding='utf-8')
    CsvLog(path).append({'step': 2, 'loss': 0.4})
    assert path.read_text(encoding='utf-8') == 'step,loss\n1,0.5\n2,0.4\n'


def test_half_a_header_is_none(tmp_path):
    path = tmp_path / 'metrics.csv'
    path.write_text('step,lo', encoding='utf-8')
    CsvLog(path).append({'step': 1, 'loss': 0.5})
    assert path.read_text(encoding='utf-8') == 'step,loss\n1,0.5\n'


def test_rows_wait_while_another_program_holds_the_file(tmp_path, monkeypatch):
    path = tmp_path / 'metrics.csv'
    log = CsvLog(path)
    log.append({'step': 1, 'loss': 0.5})

    def refuse(*args, **kwargs):
        raise PermissionError(13, 'Permission denied', str(path))

    with monkeypatch.context() as patch:
        patch.setattr(csv_log, 'open', refuse, raising=False)
        log.append({'step': 2, 'loss': 0.4})
        patch.undo()
        patch.setattr(type(path), 'replace', refuse)  # it can be read, not exchanged
        log.append({'step': 3, 'AP': 0.1})
        assert [row['step'] for row in read(path)] == ['1', '2']
    log.append({'step': 4, 'loss': 0.3})
    assert path.read_text(encoding='utf-8') == (
        'step,loss,AP\n1,0.5,\n2,0.4,\n3,,0.1\n4,0.3,\n'
    )


def test_a_full_disk_takes_no_row_and_ends_nothing(tmp_path, monkeypatch):
    path = tmp_path / 'metrics.csv'
    log = CsvLog(path)
    assert log.append({'step': 1, 'loss': 0.5}) is None

    def open_full(*args, **kwargs):
        """A file on a disk with room for half of what is written."""
        file = open(*args, **kwargs)
        write = file.write

        def write_half(text):
            write(text[: len(text) // 2])
            raise OSError(errno.ENOSPC, 'No space left on device')

        if 'b' not in args[1]:
            file.write = write_half
        return file

    with monkeypatch.context() as patch:
        patch.setattr(
            csv_log,
            'open',
            lambda path, mode='r', **kwargs: open_full(path, mode, **kwargs),
            raising=False,
        )
        for step in (2, 3):
            error = log.append({'step': step, 'loss': 0.4})
            assert error.errno == errno.ENOSPC
    assert not path.read_text(encoding='utf-8').endswith('\n')  # half a row
    assert log.flush() is None
    assert path.read_text(encoding='utf-8') == 'step,loss\n1,0.5\n2,0.4\n3,0.4\n'
