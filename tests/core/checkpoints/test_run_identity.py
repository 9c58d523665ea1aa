import logging
import shutil
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from sapiens_plugin.core.checkpoints import run_identity
from sapiens_plugin.core.checkpoints.run_identity import (
    Origin,
    Run,
    identify,
    origin_of,
    run_of,
)
from sapiens_plugin.core.checkpoints.saving import save_to_local

LOGGER = logging.getLogger()


def begin(work_dir, folder=None, *, anew=False):
    return identify(work_dir, folder or work_dir, anew=anew, logger=LOGGER)[0]


def folder_for(work_dir, folder, *, anew=False):
    return identify(work_dir, folder, anew=anew, logger=LOGGER)[1]


def save(path, note=None, iteration=3):
    meta = {'iter': iteration} | ({run_identity.KEY: note} if note else {})
    save_to_local({'meta': meta}, path)
    return path


def test_a_directory_keeps_its_run_until_another_begins_in_it(tmp_path):
    first = begin(tmp_path / 'a')
    assert begin(tmp_path / 'a').id == first.id
    assert begin(tmp_path / 'a', anew=True).id != first.id


def test_a_renamed_directory_is_the_same_run(tmp_path):
    first = begin(tmp_path / 'a')
    (tmp_path / 'a').rename(tmp_path / 'b')
    again = begin(tmp_path / 'b')
    assert (again.id, again.work_dir) == (first.id, str(tmp_path / 'b'))
    # Also when another run has begun where it was.
    other = begin(tmp_path / 'a')
    (tmp_path / 'b').rename(tmp_path / 'c')
    assert begin(tmp_path / 'c').id == first.id != other.id


def test_a_copied_directory_is_another_run_with_the_files_in_it(tmp_path):
    a, b = tmp_path / 'a', tmp_path / 'b'
    original = begin(a)
    save(a / 'epoch_1.pth', original.note)
    shutil.copytree(a, b)
    copy = begin(b)
    assert copy.id != original.id and copy.copy_of == (original.id,)
    assert begin(b) == copy and begin(a) == original
    assert copy.owns(b / 'epoch_1.pth')
    save(tmp_path / 'disk' / 'epoch_1.pth', original.note)
    assert not copy.owns(tmp_path / 'disk' / 'epoch_1.pth')
    shutil.copytree(b, tmp_path / 'c')
    assert begin(tmp_path / 'c').copy_of == (original.id, copy.id)


def test_a_copy_is_known_by_the_folder_that_both_would_save_in(tmp_path):
    job, copy, folder = tmp_path / 'job', tmp_path / 'bk' / 'job', tmp_path / 'disk'
    original = begin(job, folder)
    shutil.copytree(job, copy)
    job.rename(tmp_path / 'job2')  # so it does not lie where the copy says
    assert begin(tmp_path / 'job2', folder).id == original.id
    other = begin(copy, folder)
    assert other.id != original.id and other.copy_of == (original.id,)
    assert folder_for(copy, folder) != folder == folder_for(tmp_path / 'job2', folder)


def test_what_a_copy_has_taken_is_not_this_runs(tmp_path):
    run = begin(tmp_path / 'job')
    other = replace(run, work_dir=str(tmp_path / 'copy'))
    for folder in (tmp_path / 'copy', tmp_path / 'disk'):
        other.write(folder, LOGGER)
    assert run.shares(tmp_path / 'disk')
    shutil.rmtree(tmp_path / 'copy')  # it was this run, before it was renamed
    assert not run.shares(tmp_path / 'disk')


def test_another_path_to_the_same_directory_makes_no_copy(tmp_path):
    first = begin(tmp_path / 'a')
    try:
        (tmp_path / 'link').symlink_to(tmp_path / 'a', target_is_directory=True)
    except OSError:
        pytest.skip('this system lets no user make links')
    assert begin(tmp_path / 'link').id == first.id


def test_without_its_note_a_directory_keeps_its_files(tmp_path):
    save(tmp_path / 'epoch_1.pth', begin(tmp_path).note)
    (tmp_path / 'run.json').unlink()
    assert begin(tmp_path).owns(tmp_path / 'epoch_1.pth')
    assert not begin(tmp_path, anew=True).owns(tmp_path / 'epoch_1.pth')


@pytest.mark.parametrize(
    'content', ['', '[]', '{"id": 3}', '{"id": "x", "work_dir": "y", "z": 1}', '\xff']
)
def test_a_note_that_cannot_be_read_is_none(tmp_path, content):
    (tmp_path / 'run.json').write_text(content, encoding='latin-1')
    assert run_of(tmp_path) is None
    assert begin(tmp_path).starts == 0


def test_a_note_that_cannot_be_written_is_told(tmp_path, caplog, monkeypatch):
    def refuse(path, text):
        raise OSError(28, 'No space left on device')

    monkeypatch.setattr(run_identity, 'write_whole', refuse)
    assert begin(tmp_path).id
    assert 'run.json could not be written: No space left' in caplog.text


def test_starts_are_counted_and_turns_kept(tmp_path):
    run = Run('x', str(tmp_path)).started(None, tmp_path)
    assert run.starts == 1 and run.turns == ()
    path = save(tmp_path / 'iter_3.pth', dict(id='x', start=4))
    run = run.started(path, tmp_path)
    assert run.starts == 5 and run.turns == ((5, (4, 3)),)
    run.write(tmp_path, LOGGER)
    assert run_of(tmp_path) == run


def test_a_start_comes_after_all_that_was_saved(tmp_path):
    save(tmp_path / 'iter_8.pth', dict(id='x', start=7), iteration=8)
    path = save(tmp_path / 'iter_4.pth', dict(id='x', start=2), iteration=4)
    run = Run('x', str(tmp_path), starts=1).started(path, tmp_path)
    assert run.starts == 8
    assert run.gave_up(origin_of(tmp_path / 'iter_8.pth'))


def test_what_was_gone_back_from_is_given_up_for_good(tmp_path):
    run = Run('x', str(tmp_path), starts=3, turns=((2, (1, 3)), (3, (2, 5))))
    kept = [Origin('x', 1, 3), Origin('x', 2, 5), Origin('x', 3, 1), Origin(None, 0, 9)]
    given_up = [Origin('x', 1, 8), Origin('x', 2, 6)]
    assert [run.gave_up(origin) for origin in kept + given_up] == [False] * 4 + [
        True
    ] * 2


def test_a_checkpoint_of_another_run_is_adopted(tmp_path):
    run = Run('x', str(tmp_path), starts=2)
    path = save(tmp_path / 'other' / 'iter_3.pth', dict(id='y', start=1))
    run = run.started(path, tmp_path)
    assert run.adopted == str(path) and run.gave_up(Origin('x', 1, 0))
    own = save(tmp_path / 'iter_4.pth', dict(id='x', start=3))
    assert run.started(own, tmp_path).adopted is None


def test_origins(tmp_path):
    path = tmp_path / 'a.pth'
    assert origin_of(path) == Origin()
    assert origin_of(save(path)) == Origin(None, 0, 3)
    note = dict(id='x', start=2)
    assert origin_of(save(path, note)) == Origin('x', 2, 3)
    for odd in ({'meta': 3}, [1], {'meta': {'iter': 'x', 'run': 'y'}}):
        torch.save(odd, path)
        assert origin_of(path) == Origin()


def test_a_folder_for_checkpoints_has_one_run(tmp_path):
    folder, x, y = tmp_path / 'disk' / 'job', tmp_path / 'x', tmp_path / 'y'
    assert folder_for(x, folder) == folder
    beside = folder_for(y, folder)
    assert beside == folder.with_name(f'job_{run_of(y).id[:8]}')
    assert folder_for(x, folder) == folder and folder_for(y, folder) == beside


def test_a_run_that_saved_nothing_has_no_claim_on_the_folder(tmp_path):
    folder, work_dir = tmp_path / 'disk' / 'job', tmp_path / 'job'
    for _ in range(3):  # started anew in the same directory
        assert folder_for(work_dir, folder, anew=True) == folder
    save(folder / 'epoch_1.pth', run_of(work_dir).note)
    assert folder_for(work_dir, folder) == folder
    assert folder_for(work_dir, folder, anew=True) != folder


def test_its_own_directory_keeps_its_note(tmp_path):
    replace(begin(tmp_path), starts=3).write(tmp_path, LOGGER)
    assert folder_for(tmp_path, Path(tmp_path)) == tmp_path
    assert run_of(tmp_path).starts == 3
