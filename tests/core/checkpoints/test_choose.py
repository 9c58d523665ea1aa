import logging
import os
from pathlib import Path

import pytest
import torch

from sapiens_plugin.core.checkpoints import frozen, run_files
from sapiens_plugin.core.checkpoints.choose import choose, choose_for, whole_ones
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


def damage(path):
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 4
    path.write_bytes(content)


def test_the_last_one_is_taken_if_it_is_whole(three):
    choice = choose(three[1], three)
    assert (choice.path, choice.passed_over) == (three[1], ())


def test_else_the_furthest_whole_one(three):
    at_30, at_10, at_20 = three
    damage(at_10)
    choice = choose(at_10, three)
    assert choice.path == at_30
    (problem,) = choice.passed_over
    assert f'{at_10} is damaged' in problem

    damage(at_30)
    choice = choose(at_10, three)
    assert choice.path == at_20
    assert len(choice.passed_over) == 2


def test_what_lacks_its_frozen_weights_for_now_keeps_its_name(three, tmp_path, caplog):
    note = frozen.set_aside({'b': torch.ones(3)}, tmp_path)
    at_40 = tmp_path / 'iter_40.pth'
    save_to_local({'meta': {'iter': 40}, 'state_dict': {}, frozen.KEY: note}, at_40)
    away = (tmp_path / note['file']).rename(tmp_path / 'away')
    damage(three[0])

    def chosen():
        return Path(choose_for(tmp_path, tmp_path, logger=logging.getLogger()))

    assert chosen() == three[2]
    assert 'there is no such file' in caplog.text and at_40.exists()
    assert three[0].with_name('iter_30.pth.damaged').exists()
    away.rename(tmp_path / note['file'])  # as the warning says
    assert chosen() == at_40


def test_wherever_checkpoints_have_gone_they_are_found(three, tmp_path):
    work_dir, folder = tmp_path / 'work', tmp_path / 'disk' / 'work'
    work_dir.mkdir()
    assert choose_for(work_dir, folder, logger=logging.getLogger()) is None
    save_to_local({'meta': {'iter': 5}}, work_dir / 'epoch_1.pth')
    chosen = choose_for(work_dir, folder, logger=logging.getLogger())
    assert chosen == str(work_dir / 'epoch_1.pth')
    run_files.set_last(work_dir, tmp_path / 'iter_40.pth')  # gone
    chosen = choose_for(work_dir, folder, logger=logging.getLogger())
    assert chosen == str(three[0])
    save_to_local({'meta': {'iter': 31}}, folder / 'iter_31.pth')
    chosen = choose_for(work_dir, folder, logger=logging.getLogger())
    assert chosen == str(folder / 'iter_31.pth')


def test_one_that_is_missing_is_passed_over(three, tmp_path):
    gone = tmp_path / 'iter_40.pth'
    choice = choose(gone, three)
    assert choice.path == three[0]
    assert f'{gone}, the last checkpoint, does not exist' in choice.passed_over[0]


def test_of_equals_the_newer_one_is_taken(three, tmp_path):
    epoch = tmp_path / 'epoch_3.pth'
    save_to_local({'meta': {'iter': 30}}, epoch)
    assert choose(None, [epoch, *three]).path == epoch
    os.utime(epoch, (1, 1))
    assert choose(None, [epoch, *three]).path == three[0]


def test_a_run_is_never_begun_anew_over_damaged_ones(three, tmp_path):
    for path in three:
        damage(path)
    with pytest.raises(InputError, match=r'no whole checkpoint.*load_from') as e:
        choose(three[0], three)
    assert all(str(path) in str(e.value) for path in three)
    with pytest.raises(InputError, match='does not exist'):
        choose(tmp_path / 'iter_40.pth', [])


def test_none_is_none():
    assert choose(None, []) is None


def test_whole_ones_are_named_furthest_first(three):
    at_30, at_10, at_20 = three
    assert whole_ones(three, at_most=2) == [at_30, at_20]
    damage(at_30)
    assert whole_ones(three, at_most=2) == [at_20, at_10]


def test_files_that_say_no_iteration_come_last(three, tmp_path):
    odd = tmp_path / 'iter_99.pth'
    for content in ({'meta': {}}, {'meta': {'iter': 'x'}}, {'meta': 3}, [1]):
        torch.save(content, odd)
        assert choose(None, [odd, *three]).path == three[0]
