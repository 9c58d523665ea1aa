import shutil

import pytest
import torch

from sapiens_plugin.core.checkpoints import run_identity
from sapiens_plugin.core.checkpoints.run_identity import (
    Origin,
    Run,
    identify,
    origin_of,
    run_of,
    take_folder,
)
from sapiens_plugin.core.checkpoints.saving import save_to_local


def begin(work_dir, *, anew=False):
    run = identify(work_dir, anew=anew)
    run.write()
    return run


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


def test_another_path_to_the_same_directory_makes_no_copy(tmp_path):
    first = begin(tmp_path / 'a')
    try:
        (tmp_path / 'link').symlink_to(tmp_path / 'a', target_is_directory=True)
    except OSError:
        pytest.skip('this system lets no user make links')
    assert identify(tmp_path / 'link', anew=False).id == first.id


@pytest.mark.parametrize(
    'content', ['', '[]', '{"id": 3}', '{"id": "x", "work_dir": "y", "z": 1}', '\xff']
)
def test_a_note_that_cannot_be_read_is_none(tmp_path, content):
    (tmp_path / 'run.json').write_text(content, encoding='latin-1')
    assert run_of(tmp_path) is None
    assert begin(tmp_path).starts == 0


def test_starts_are_counted(tmp_path):
    run = Run('x', str(tmp_path)).started(None)
    assert run.starts == 1 and run.went_on_from is None
    path = save(tmp_path / 'iter_3.pth', dict(id='x', start=4))
    run = run.started(path)
    assert run.starts == 5 and run.went_on_from == (4, 3)
    run.write()
    assert run_of(tmp_path) == run


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
    folder = tmp_path / 'disk' / 'job'
    one, other = Run('1' * 32, str(tmp_path / 'x')), Run('2' * 32, str(tmp_path / 'y'))
    assert take_folder(one, folder) == folder
    assert take_folder(other, folder) == folder.with_name('job_22222222')
    assert take_folder(one, folder) == folder
    assert take_folder(other, folder) == folder.with_name('job_22222222')


def test_a_run_that_saved_nothing_has_no_claim_on_the_folder(tmp_path):
    folder, work_dir = tmp_path / 'disk' / 'job', tmp_path / 'job'
    one, other = (Run(name * 32, str(work_dir)) for name in '12')
    for run in (one, other, one):  # started anew in the same directory
        assert take_folder(run, folder) == folder
    save(folder / 'epoch_1.pth', one.note)
    assert take_folder(other, folder) == folder.with_name('job_22222222')


def test_its_own_directory_keeps_its_note(tmp_path):
    run = Run('x', str(tmp_path), starts=3)
    run.write()
    assert take_folder(run, tmp_path) == tmp_path
    assert run_of(tmp_path).starts == 3
