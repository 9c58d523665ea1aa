import logging
import os
import re
from pathlib import Path

import pytest
import torch

from sapiens_plugin.core.checkpoints import frozen, run_files, run_identity
from sapiens_plugin.core.checkpoints.choose import choose_for, whole_ones
from sapiens_plugin.core.checkpoints.run_identity import Run
from sapiens_plugin.core.checkpoints.saving import save_to_local
from sapiens_plugin.errors import InputError


@pytest.fixture
def three(tmp_path):
    """Return checkpoints of iterations 30, 10 and 20, written in this order."""
    paths = []
    for age, iteration in enumerate((30, 10, 20)):
        path = tmp_path / f'iter_{iteration}.pth'
        save_to_local({'meta': {'iter': iteration}, 'a': torch.ones(9)}, path)
        os.utime(path, (1e9 + age, 1e9 + age))
        paths.append(path)
    return paths


def chosen_for(work_dir, folder):
    run = Run('mine', str(work_dir))
    return choose_for(run, folder, logger=logging.getLogger())


def damage(path):
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 4
    path.write_bytes(content)


def test_the_first_one_is_taken_if_it_is_whole(three, tmp_path, caplog):
    assert chosen_for(tmp_path, tmp_path) == str(three[0])
    assert not caplog.messages


def test_else_the_next_whole_one(three, tmp_path, caplog):
    at_30, at_10, at_20 = three
    damage(at_30)
    assert chosen_for(tmp_path, tmp_path) == str(at_20)
    (problem,) = caplog.messages
    assert f'{at_30} is damaged' in problem
    assert problem.endswith(f'The run goes on from {at_20}.')

    caplog.clear()
    at_30.with_name('iter_30.pth.damaged').rename(at_30)
    damage(at_20)
    assert chosen_for(tmp_path, tmp_path) == str(at_10)
    assert [m.endswith(f'from {at_10}.') for m in caplog.messages] == [True, True]


def test_what_lacks_its_frozen_weights_for_now_keeps_its_name(three, tmp_path, caplog):
    note = frozen.set_aside({'b': torch.ones(3)}, tmp_path)
    at_40 = tmp_path / 'iter_40.pth'
    save_to_local({'meta': {'iter': 40}, 'state_dict': {}, frozen.KEY: note}, at_40)
    away = (tmp_path / note['file']).rename(tmp_path / 'away')
    damage(three[0])

    def chosen():
        return Path(chosen_for(tmp_path, tmp_path))

    assert chosen() == three[2]
    assert 'there is no such file' in caplog.text and at_40.exists()
    assert three[0].with_name('iter_30.pth.damaged').exists()
    away.rename(tmp_path / note['file'])  # as the warning says
    assert chosen() == at_40


def test_in_all_places_of_the_run_they_are_found(tmp_path):
    work_dir, folder = tmp_path / 'work', tmp_path / 'disk' / 'work'
    work_dir.mkdir()
    assert chosen_for(work_dir, folder) is None
    for path, iteration in (
        (work_dir / 'epoch_1.pth', 5),
        (folder / 'iter_31.pth', 31),
        (work_dir / 'iter_40.pth', 40),
    ):
        save_to_local({'meta': {'iter': iteration}}, path)
        assert chosen_for(work_dir, folder) == str(path)


def save(path, run=None, *, start=1, iteration=1):
    meta = {'iter': iteration}
    if run is not None:
        meta[run_identity.KEY] = {'id': run, 'start': start}
    save_to_local({'meta': meta}, path)
    return path


@pytest.mark.parametrize('owner', [None, 'mine', 'other'])
@pytest.mark.parametrize('run', [None, 'mine', 'other'])
def test_elsewhere_only_its_own_is_taken(tmp_path, run, owner):
    work_dir, away = tmp_path / 'work', tmp_path / 'away'
    work_dir.mkdir()
    last = save(away / 'epoch_2.pth', run, iteration=2)
    run_files.set_last(work_dir, last)
    if owner is not None:
        place = work_dir if owner == 'mine' else away
        Run(owner, str(place)).write(away, logging.getLogger())
    is_its_own = run == 'mine' and owner != 'other'
    if is_its_own:
        assert chosen_for(work_dir, work_dir) == str(last)
    else:
        way_out = re.escape(f'To go on from it: --resume {last}')
        with pytest.raises(InputError, match=way_out):
            chosen_for(work_dir, work_dir)
    here = save(work_dir / 'epoch_1.pth', 'mine')
    assert chosen_for(work_dir, work_dir) == str(last if is_its_own else here)


def test_on_another_disk_those_of_others_stay(tmp_path):
    work_dir, folder = tmp_path / 'work', tmp_path / 'disk'
    work_dir.mkdir()
    save(folder / 'epoch_9.pth', 'other', iteration=9)
    assert chosen_for(work_dir, folder) is None
    own = save(folder / 'epoch_2.pth', None, iteration=2)
    assert chosen_for(work_dir, folder) == str(own)


def test_what_was_given_up_comes_last(tmp_path):
    run = Run('mine', str(tmp_path), starts=2, turns=((2, (1, 10)),))
    for iteration in (10, 20):
        save(tmp_path / f'iter_{iteration}.pth', 'mine', iteration=iteration)

    def chosen():
        return choose_for(run, tmp_path, logger=logging.getLogger())

    assert chosen().endswith('iter_10.pth')
    save(tmp_path / 'iter_12.pth', 'mine', start=2, iteration=12)
    assert chosen().endswith('iter_12.pth')
    for name in ('iter_10.pth', 'iter_12.pth'):
        damage(tmp_path / name)
    assert chosen().endswith('iter_20.pth')


def test_what_another_run_left_here_comes_after_its_own(tmp_path):
    save(tmp_path / 'epoch_9.pth', 'other', start=7, iteration=9)
    assert chosen_for(tmp_path, tmp_path).endswith('epoch_9.pth')
    save(tmp_path / 'epoch_1.pth', 'mine')
    assert chosen_for(tmp_path, tmp_path).endswith('epoch_1.pth')


def test_one_that_is_missing_is_told(three, tmp_path, caplog):
    gone = tmp_path / 'iter_40.pth'
    run_files.set_last(tmp_path, gone)
    damage(three[0])
    assert chosen_for(tmp_path, tmp_path) == str(three[2])
    assert f'{gone}, the last checkpoint, does not exist' in caplog.messages[0]
    assert f'{three[0]} is damaged' in caplog.messages[1]


def test_a_last_one_that_tells_nothing_any_more_is_told(three, tmp_path, caplog):
    path = tmp_path / 'iter_40.pth'
    path.write_bytes(three[0].read_bytes()[:200])
    run_files.set_last(tmp_path, path)
    assert chosen_for(tmp_path, tmp_path) == str(three[0])
    assert 'iter_40.pth is damaged' in caplog.text
    assert not path.exists() and path.with_name('iter_40.pth.damaged').exists()


def test_one_that_has_moved_with_its_directory_is_not(three, tmp_path, caplog):
    run_files.set_last(tmp_path, '/before/iter_30.pth')
    assert chosen_for(tmp_path, tmp_path) == str(three[0])
    assert 'does not exist' not in caplog.text


def test_of_equals_the_newer_one_is_taken(three, tmp_path):
    epoch = tmp_path / 'epoch_3.pth'
    save_to_local({'meta': {'iter': 30}}, epoch)
    assert chosen_for(tmp_path, tmp_path) == str(epoch)
    os.utime(epoch, (1, 1))
    assert chosen_for(tmp_path, tmp_path) == str(three[0])


def test_a_run_is_never_begun_anew_over_damaged_ones(three, tmp_path):
    for path in three:
        damage(path)
    with pytest.raises(InputError, match=r'no whole checkpoint.*load_from') as e:
        chosen_for(tmp_path, tmp_path)
    assert all(str(path) in str(e.value) and path.exists() for path in three)


def test_nor_over_one_that_is_missing(tmp_path):
    run_files.set_last(tmp_path, tmp_path / 'iter_40.pth')
    with pytest.raises(InputError, match=r'no whole checkpoint.*does not exist'):
        chosen_for(tmp_path, tmp_path)


def test_whole_ones_are_named_furthest_first(three):
    at_30, at_10, at_20 = three
    assert whole_ones(three, at_most=2) == [at_30, at_20]
    damage(at_30)
    assert whole_ones(three, at_most=2) == [at_20, at_10]


def test_files_that_say_no_iteration_come_last(three, tmp_path):
    odd = tmp_path / 'iter_99.pth'
    for content in ({'meta': {}}, {'meta': {'iter': 'x'}}, {'meta': 3}, [1]):
        torch.save(content, odd)
        assert chosen_for(tmp_path, tmp_path) == str(three[0])
