"""What the checkpoint files of a run are called."""

from pathlib import Path

import pytest

from sapiens_plugin.core.checkpoints import run_files


def touch(folder, *names):
    folder.mkdir(parents=True, exist_ok=True)
    for name in names:
        (folder / name).touch()


def test_what_can_be_resumed_from(tmp_path):
    touch(tmp_path, 'iter_7.pth', 'epoch_2.pth', 'best_AP_epoch_2.pth')
    touch(tmp_path, 'frozen_0.pth', 'iter_8.pth.part', 'iter_6.pth.damaged', 'my.pth')
    found = run_files.resumable(tmp_path)
    assert sorted(path.name for path in found) == ['epoch_2.pth', 'iter_7.pth']
    touch(tmp_path, 'state-3.pth')
    found = run_files.resumable(tmp_path, 'state-{}.pth')
    assert sorted(path.name for path in found) == ['iter_7.pth', 'state-3.pth']
    touch(tmp_path, 'e_004.pth')
    assert tmp_path / 'e_004.pth' in run_files.resumable(tmp_path, 'e_{:03d}.pth')
    assert run_files.resumable(tmp_path / 'none') == set()


def test_those_by_time(tmp_path):
    touch(tmp_path, 'iter_7.pth', 'iter_7_copy.pth', 'epoch_2.pth')
    assert run_files.by_time(tmp_path) == [tmp_path / 'iter_7.pth']


def test_what_is_left_of_saves(tmp_path):
    names = ('iter_7.pth', 'epoch_2.pth', 'best_AP_epoch_2.pth', 'frozen_0.pth')
    parts = [f'{name}.part' for name in names]
    touch(tmp_path / 'disk', *names, *parts, 'data.zip.part')
    # It was the disk before this one.
    touch(tmp_path, 'last_checkpoint', 'last_checkpoint.part', 'iter_9.pth.part')
    expected = [tmp_path / 'disk' / part for part in parts]
    expected += [tmp_path / 'last_checkpoint.part', tmp_path / 'iter_9.pth.part']
    found = list(run_files.unfinished(tmp_path, tmp_path / 'disk'))
    assert sorted(found) == sorted(expected)
    same = list(run_files.unfinished(tmp_path, tmp_path))
    assert sorted(same) == sorted(expected[-2:])


def test_the_last_one(tmp_path):
    assert run_files.last_of(tmp_path) is None
    run_files.forget_last(tmp_path)
    run_files.set_last(tmp_path, 'disk/iter_7.pth')
    assert run_files.last_of(str(tmp_path)) == 'disk/iter_7.pth'
    run_files.forget_last(tmp_path)
    assert run_files.last_of(tmp_path) is None
    (tmp_path / 'last_checkpoint').write_bytes(b' \n')
    assert run_files.last_of(tmp_path) is None


@pytest.mark.parametrize(
    'out_dir, folder',
    [
        (None, '/runs/one'),
        ('/runs/one', '/runs/one'),
        ('/disk', '/disk/one'),
        ('s3://bucket/runs', '/runs/one'),
    ],
)
def test_where_they_go(out_dir, folder):
    assert run_files.folder_of('/runs/one', out_dir) == Path(folder)
