"""The tools: hand-over to the stock scripts, and what they say of bad input."""

import json
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from mmengine.config import Config
from mmengine.registry import init_default_scope
from mmpose.registry import MODELS

from sapiens_plugin import launch
from sapiens_plugin.core.vit.model import SapiensViT
from sapiens_plugin.launch import stock_tool
from sapiens_plugin.workbench.report.kept_validation import read_kept_validation


@pytest.fixture
def tool(launched):
    def run(name, *argv):
        code, _, err = launched(name, *argv)
        return code, err

    return run


@pytest.fixture
def job(demo, demo_config, tmp_path):
    """A job of its own data that can be spoiled: its config file and its data."""
    root = shutil.copytree(demo.root, tmp_path / 'data')
    for split in ('train', 'val', 'test'):
        demo_config[f'{split}_dataloader'].dataset.data_root = str(root)
    demo_config.train_cfg.max_epochs = 1
    demo_config.param_scheduler = None
    path = tmp_path / 'job.py'
    demo_config.dump(path)
    return path, root


def with_weights(job, path):
    """The same job, started from a weight file."""
    config, _ = job
    init_cfg = dict(type='Pretrained', checkpoint=str(path))
    text = (
        f'_base_ = {str(config)!r}\nmodel = dict(backbone=dict(init_cfg={init_cfg}))\n'
    )
    (config.parent / 'with_weights.py').write_text(
        text.replace('init_cfg={', "init_cfg={'_delete_': True, "), encoding='utf-8'
    )
    return config.parent / 'with_weights.py'


def test_schedules_that_end_before_they_begin_are_told(tool, demo, repo, tmp_path):
    code, said = tool(
        *('train', repo / 'configs' / 'sapiens_tiny_demo.py'),
        *('--work-dir', tmp_path / 'run', '--cfg-options', 'train_cfg.max_epochs=1'),
        f'train_dataloader.dataset.data_root={demo.root}',
    )
    assert code == 2
    assert 'begins at epoch 1 and ends at epoch 1' in said


def spoil_annotations(root, change):
    path = root / 'annotations' / 'person_keypoints_train.json'
    change(path)
    return path.name


@pytest.mark.parametrize(
    'change, message',
    [
        (lambda p: p.unlink(), 'does not exist'),
        (lambda p: p.write_bytes(p.read_bytes()[:-500]), 'cut short'),
        (lambda p: p.write_text('<html>'), 'is not JSON'),
        (lambda p: p.write_text(''), 'is not JSON'),
    ],
)
def test_bad_annotation_files_are_named_before_anything_starts(
    change, message, job, tool, tmp_path
):
    config, root = job
    name = spoil_annotations(root, change)
    code, said = tool('train', config)
    assert code == 2
    assert name in said and message in said and 'data_root' in said
    assert 'Traceback' not in said
    assert not (tmp_path / 'work').exists()


def test_an_entry_that_would_stop_the_job_is_named(job, tool):
    config, root = job
    path = root / 'annotations' / 'person_keypoints_train.json'
    content = json.loads(path.read_text('utf-8'))
    content['annotations'][7]['keypoints'].pop()
    path.write_text(json.dumps(content), encoding='utf-8')
    code, said = tool('train', config)
    assert code == 2
    number = content['annotations'][7]['id']
    assert f'annotation {number} of image ' in said and str(path) in said
    assert '"keypoints" has 50 numbers' in said
    assert 'Traceback' not in said.strip().splitlines()[-1]


def test_two_ways_to_name_the_loop_are_one_too_many(job, tool):
    code, said = tool('train', job[0], '--cfg-options', 'train_cfg.by_epoch=True')
    assert code == 2 and 'Leave by_epoch out' in said


@pytest.mark.parametrize(
    ('name', 'option', 'text'),
    [
        ('train', 'model.backbone.img_size=(64,64)', 'is (96, 128), and model.backb'),
        ('train', 'model.head.out_channels=1', 'out_channels is 1,'),
        (
            'train',
            'default_hooks.checkpoint.save_best=EPE',
            "scores have 'coco/' before",
        ),
        ('test', 'model.head.in_channels=7', 'in_channels is 7,'),
    ],
)
def test_parts_that_disagree_start_nothing(name, option, text, job, tool, tmp_path):
    weights = [tmp_path / 'no.pth'] if name == 'test' else []
    work_dir = ['--work-dir', tmp_path / 'work']
    code, said = tool(name, job[0], *weights, *work_dir, '--cfg-options', option)
    assert code == 2 and text in said
    assert not (tmp_path / 'work').exists()


@pytest.mark.parametrize(
    'left', ['epoch_3.pth', 'iter_7.pth', 'best_coco_AP_epoch_2.pth', 'last_checkpoint']
)
@pytest.mark.parametrize('elsewhere', [False, True])
def test_no_run_begins_in_the_place_of_another(left, elsewhere, job, tool, tmp_path):
    work_dir = tmp_path / 'runs' / 'one'
    argv = ['train', job[0], '--work-dir', work_dir]
    folder = work_dir
    if elsewhere:
        argv += ['--cfg-options', f'default_hooks.checkpoint.out_dir={tmp_path}/disk']
        folder = work_dir if left == 'last_checkpoint' else tmp_path / 'disk' / 'one'
    folder.mkdir(parents=True)
    (folder / left).write_text('one', encoding='utf-8')
    code, said = tool(*argv)
    assert code == 2
    assert left in said and str(folder) in said
    assert '--resume' in said and '--work-dir' in said
    assert [path.name for path in folder.iterdir()] == [left]


@pytest.mark.parametrize('state', ['missing', 'empty'])
def test_a_bad_image_directory_is_named(state, job, tool):
    config, root = job
    shutil.rmtree(root / 'images' / 'train')
    if state == 'empty':
        (root / 'images' / 'train').mkdir()
    code, said = tool('train', config)
    assert code == 2 and str(root / 'images' / 'train') in said
    assert ('does not exist' if state == 'missing' else 'is empty') in said


def test_missing_detections_name_the_way_to_true_boxes(job, tool, tmp_path):
    config, _ = job
    options = ('--cfg-options', 'test_dataloader.dataset.bbox_file=no/boxes.json')
    code, said = tool('test', config, tmp_path / 'any.pth', *options)
    assert code == 2 and 'no/boxes.json' in said.replace('\\', '/')
    assert "test_dataloader.dataset.bbox_file=''" in said


@pytest.mark.parametrize('workers', [0, 1])  # an error in a worker arrives wrapped
def test_a_test_names_an_image_that_does_not_decode(workers, job, tool, tmp_path):
    config, root = job
    init_default_scope('mmpose')
    model = MODELS.build(Config.fromfile(config).model)
    torch.save(model.state_dict(), tmp_path / 'model.pth')
    victim = sorted((root / 'images' / 'val').iterdir())[3]
    victim.write_bytes(victim.read_bytes()[:100])
    options = ('--cfg-options', f'test_dataloader.num_workers={workers}')
    code, said = tool('test', config, tmp_path / 'model.pth', *options)
    assert code == 2
    last = said.strip().splitlines()[-1]
    assert last.startswith(f'tools/test.py: The image {victim} cannot be read')
    assert 'Traceback' not in last


def test_an_annotated_image_that_is_missing_is_named(job, tool):
    config, root = job
    victim = sorted((root / 'images' / 'train').iterdir())[3]
    victim.unlink()
    code, said = tool('train', config)
    assert code == 2 and victim.name in said and 'are missing' in said


def test_an_unknown_arch_is_named(job, tool):
    config, _ = job
    code, said = tool(
        'train', config, '--cfg-options', 'model.backbone.arch=sapiens_9b'
    )
    assert code == 2 and "'sapiens_9b' is not a Sapiens size" in said


def test_weights_of_another_size_are_named(job, tool, tmp_path):
    arch = dict(embed_dims=48, num_layers=2, num_heads=2, feedforward_channels=64)
    vit = SapiensViT(arch, img_size=(64, 64))
    torch.save(vit.state_dict(), tmp_path / 'other.pth')
    code, said = tool('train', with_weights(job, tmp_path / 'other.pth'))
    assert code == 2 and '48 dims' in said and 'model.backbone.arch' in said


@pytest.mark.parametrize('content', [None, b'', b'<!doctype html>', b'PK\x03\x04 cut'])
def test_bad_weights_are_named_before_the_data_are_read(content, job, tool, tmp_path):
    path = tmp_path / 'weights.pt2'
    if content is not None:
        path.write_bytes(content)
    config = with_weights(job, path)
    code, said = tool('train', config)
    assert code == 2 and str(path) in said
    assert not (tmp_path / 'work').exists()
    assert tool('test', config, path)[0] == 2


def test_an_unwritable_work_directory_is_named_and_nothing_is_lost(job, tool, tmp_path):
    config, _ = job
    (tmp_path / 'file').write_text('kept')
    code, said = tool('train', config, '--work-dir', tmp_path / 'file' / 'work')
    assert code == 2 and 'cannot be written' in said and '--work-dir' in said
    assert (tmp_path / 'file').read_text() == 'kept'


def test_a_missing_config_is_named(tool):
    code, said = tool('train', 'configs/nothing.py')
    assert code == 2 and 'configs/nothing.py does not exist' in said


def test_amp_beside_a_wrapper_that_chooses_its_precision_is_explained(job, tool):
    config, _ = job
    options = ('--cfg-options', 'optim_wrapper.type=sapiens_plugin.Streamed')
    code, said = tool('train', config, '--amp', *options)
    assert code == 2 and 'Leave --amp out' in said and 'model.precision' in said


def test_auto_scale_lr_without_its_base_is_explained(job, tool):
    config, _ = job
    code, said = tool('train', config, '--auto-scale-lr')
    assert code == 2 and 'base_batch_size' in said


@pytest.mark.parametrize('flag', [('--launcher', 'none'), ('--work-dir', 'runs')])
def test_flags_may_come_before_the_config(flag, job, tool):
    config, root = job
    spoil_annotations(root, Path.unlink)
    code, said = tool('train', *flag, config)
    assert code == 2 and 'annotation file' in said


@pytest.mark.parametrize(
    'value, expected', [('', None), ('D:\\coco data', Path('D:\\coco data').as_posix())]
)
def test_any_coco_root_can_be_put_into_a_config(value, expected, monkeypatch, tool):
    monkeypatch.setenv('COCO_ROOT', value)
    tool('train', 'configs/nothing.py')
    assert os.environ.get('COCO_ROOT') == expected


def test_the_stock_scripts_answer_for_their_flags(capsys, monkeypatch):
    for name, flag in [('train', '--auto-scale-lr'), ('test', '--badcase')]:
        monkeypatch.setattr(sys, 'argv', [f'{name}.py', '--help'])
        with pytest.raises(SystemExit) as exit_:
            launch.main(name)
        assert exit_.value.code == 0
        assert flag in capsys.readouterr().out


def test_train_amp_resume_and_test_from_another_directory(job, demo, repo, tmp_path):
    """The stock tools with their flags, from a directory that is not the project's."""
    config, _ = job
    elsewhere = tmp_path / 'else where'
    elsewhere.mkdir()

    def call(*command):
        answer = subprocess.run(
            [sys.executable, *map(str, command)],
            cwd=elsewhere,
            timeout=300,
            capture_output=True,
            text=True,
            encoding='utf-8',
            env={**os.environ, 'OMP_NUM_THREADS': '1'},
        )
        assert answer.returncode == 0, answer.stderr[-3000:]
        return answer.stdout + answer.stderr

    train = (repo / 'tools' / 'train.py', config, '--work-dir', 'runs')
    assert 'Planned, not measured, on ' in call(*train, '--amp', '--no-validate')
    plan = elsewhere / 'runs' / 'plan.json'
    assert 'Planned' in (elsewhere / 'runs' / 'report.html').read_text(encoding='utf-8')
    plan.write_text('{}', encoding='utf-8')  # a resumed job keeps its plan
    said = call(*train, '--amp', '--resume', '--cfg-options', 'train_cfg.max_epochs=2')
    assert 'resumed epoch: 1' in said
    assert plan.read_text(encoding='utf-8') == '{}'
    last = elsewhere / 'runs' / 'epoch_2.pth'
    assert last.is_file()
    # A new run would begin in its place.
    answer = subprocess.run(
        [sys.executable, *map(str, train)], cwd=elsewhere, capture_output=True,
        text=True, encoding='utf-8', timeout=300,
    )  # fmt: skip
    assert answer.returncode == 2
    assert 'epoch_2.pth, of a run whose checkpoints' in answer.stderr
    assert '--resume' in answer.stderr and '--work-dir' in answer.stderr
    flags = ('--out', 'metrics.json', '--dump', 'dump.pkl', '--show-dir', 'drawn')
    call(repo / 'tools' / 'test.py', config, last, '--work-dir', 'tested', *flags)
    assert 'coco/AP' in (elsewhere / 'metrics.json').read_text(encoding='utf-8')
    assert (elsewhere / 'dump.pkl').is_file()
    assert list((elsewhere / 'tested').glob('*/drawn/*.jpg'))


def _interrupt(*args, **kwargs):
    raise KeyboardInterrupt


def _misread(*args, **kwargs):
    raise SyntaxError('a mistake in the config')


def test_ctrl_c_while_a_config_is_formatted_is_told_as_such(tool, job, monkeypatch):
    """Where MMEngine takes it for an error of syntax, with the whole config."""
    monkeypatch.setattr('mmengine.config.config.FormatCode', _interrupt)
    monkeypatch.setattr(launch, '_check_training', lambda cfg: cfg.pretty_text)
    assert tool('train', job[0]) == (130, '\ntools/train.py: interrupted.\n')


def test_an_error_of_syntax_stays_one(tool, job, monkeypatch):
    monkeypatch.setattr(launch, '_read_config', _misread)
    with pytest.raises(SyntaxError, match='a mistake in the config'):
        tool('train', job[0])


def test_a_model_may_have_other_keypoints_than_the_data(job, tool, tmp_path):
    """Without eyes and ears: trained, validated twice, tested with flips, drawn."""
    config, _ = job
    converter = dict(
        num_keypoints=13,
        mapping=[(0, 0), *((index, index - 4) for index in range(5, 17))],
    )
    cfg = Config.fromfile(config)
    cfg.model.head.out_channels = 13
    # So tolerant that predictions of random weights are worth something.
    meta = stock_tool('train.py').parents[1] / 'configs/_base_/datasets/coco.py'
    text = re.sub(r'sigmas=\[[^]]*]', 'sigmas=[0.6] * 17', meta.read_text('utf-8'))
    (tmp_path / 'meta.py').write_text(text, encoding='utf-8')
    for split in ('train', 'val', 'test'):
        dataset = cfg[f'{split}_dataloader'].dataset
        dataset.pipeline.insert(2, dict(type='KeypointConverter', **converter))
        dataset.metainfo = dict(from_file=str(tmp_path / 'meta.py'))
    cfg.val_evaluator.gt_converter = cfg.test_evaluator.gt_converter = converter
    cfg.train_cfg.update(max_epochs=2, val_interval=1)
    cfg.optim_wrapper.optimizer.update(lr=0.0, weight_decay=0.0)
    for name in ('phase_switch', 'step_guard', 'weights_guard', 'flip_test'):
        cfg.default_hooks[name] = None
    cfg.visualizer.name = str(tmp_path)  # MMEngine keeps one for each name
    cfg.default_hooks.report = dict(type='sapiens_plugin.ReportHook')
    cfg.dump(config)
    code, said = tool('train', config)
    assert code == 0, said
    work_dir = tmp_path / 'work'
    (records,) = work_dir.glob('*/vis_data/scalars.json')
    found = [json.loads(line) for line in records.read_text('utf-8').splitlines()]
    precisions = [each['coco/AP'] for each in found if 'coco/AP' in each]
    assert len(precisions) == 2 and precisions[0] == precisions[1] > 0
    assert len([*work_dir.glob('*/vis_data/vis_image/validation_persons_*.png')]) == 2
    (log,) = work_dir.glob('*/*.log')
    assert 'has failed' not in log.read_text('utf-8')
    kept = read_kept_validation(work_dir)
    assert len(kept.keypoints) == 13 and 'left_eye' not in kept.keypoints
    page = (work_dir / 'report.html').read_text('utf-8')
    assert 'AP by keypoint' in page and 'Nothing to show here' not in page

    (checkpoint,) = work_dir.glob('best_*.pth')
    for flags in (['--show-dir', 'pictures'], ['--badcase']):
        code, said = tool(
            *('test', config, checkpoint, '--work-dir', tmp_path / 'test', *flags),
            *('--cfg-options', 'model.test_cfg.flip_test=True'),
        )
        assert code == 0, said


def test_options_of_workers_do_not_matter_without_workers(job, tool, tmp_path):
    """Shipped configs have workers that persist; one option is to turn them off."""
    options = [
        f'{split}_dataloader.{option}'
        for split in ('train', 'val', 'test')
        for option in ('num_workers=0', 'persistent_workers=True', 'prefetch_factor=4')
    ]
    options.append('train_cfg.val_interval=1')
    code, said = tool('train', job[0], '--cfg-options', *options)
    assert code == 0, said
    (checkpoint,) = (tmp_path / 'work').glob('best_*.pth')
    code, said = tool('test', job[0], checkpoint, '--cfg-options', *options[:-1])
    assert code == 0, said


def test_home_is_no_folder_of_that_name(job, demo, tool, monkeypatch, tmp_path):
    config, _ = job
    home = tmp_path / 'home'
    shutil.copytree(demo.root, home / 'data')
    for name in ('HOME', 'USERPROFILE'):  # the latter on Windows
        monkeypatch.setenv(name, str(home))
    monkeypatch.chdir(tmp_path)
    cfg = Config.fromfile(config)
    for split in ('train', 'val', 'test'):
        cfg[f'{split}_dataloader'].dataset.data_root = '~/data'
    cfg.default_hooks.badcase.update(enable=True, out_dir='~/bad')
    cfg.train_cfg.val_interval = 1
    cfg.dump(home / 'job.py')
    code, said = tool(
        *('train', '~/job.py', '--work-dir=~/run', '--cfg-options'),
        'default_hooks.checkpoint.out_dir="~/disk"',
    )
    assert code == 0, said
    (checkpoint,) = home.glob('disk/run/best_*.pth')
    code, said = tool(
        *('test', '~/job.py', f'~/disk/run/{checkpoint.name}', '--work-dir=~/test'),
        *('--out=~/metrics.json', '--dump=~/predictions.pkl'),
    )
    assert code == 0, said
    made = {'bad', 'disk', 'run', 'test', 'metrics.json', 'predictions.pkl'}
    assert made <= {path.name for path in home.iterdir()}
    assert not [*tmp_path.rglob('~*')]


def test_slurm_scripts_pass_absolute_paths_to_srun(repo, tmp_path):
    """``srun`` is stood in for: it prints the command it would run, and where."""
    srun = tmp_path / 'srun'
    srun.write_text('#!/bin/sh\necho "$PWD|$*"\n')
    srun.chmod(0o755)
    for name, arguments, expected in [
        ('slurm_train.sh', ('c.py', 'runs', '--resume'), f'--work-dir={tmp_path}/runs'),
        ('slurm_test.sh', ('c.py', 'k.pth'), f'{tmp_path}/k.pth'),
        ('slurm_test.sh', ('c.py', '~/k.pth'), f'{Path.home()}/k.pth'),
    ]:
        answer = subprocess.run(
            ['bash', repo / 'tools' / name, 'gpu', 'job', *arguments],
            cwd=tmp_path,
            timeout=60,
            capture_output=True,
            text=True,
            env={**os.environ, 'PATH': f'{tmp_path}:{_python_path()}'},
        )
        assert answer.returncode == 0, answer.stderr
        directory, _, command = answer.stdout.strip().partition('|')
        assert Path(directory) == repo
        assert f'tools/{name.split("_")[1][:-3]}.py {tmp_path}/c.py' in command
        assert expected in command


def _python_path():
    return f'{Path(sys.executable).parent}:{os.environ["PATH"]}'


@pytest.mark.parametrize(
    'system, release, given, expected',
    [
        ('linux', '6.8.0-48-generic', {}, 'expandable_segments:True'),
        ('linux', '5.15.167.4-microsoft-standard-WSL2', {}, None),
        ('win32', '11', {}, None),
        ('linux', '6.8.0', {'PYTORCH_CUDA_ALLOC_CONF': 'max_split_size_mb:128'}, None),
        ('linux', '6.8.0', {'PYTORCH_ALLOC_CONF': 'backend:native'}, 'backend:native'),
    ],
)
def test_gpu_memory_grows_where_it_can(monkeypatch, system, release, given, expected):
    monkeypatch.setattr(launch.sys, 'platform', system)
    monkeypatch.setattr(launch.platform, 'release', lambda: release)
    environ = dict(given)
    launch.prepare_torch(environ)
    assert environ.pop('OMP_WAIT_POLICY') == 'PASSIVE'
    assert environ.get('PYTORCH_ALLOC_CONF') == expected
    assert given.items() <= environ.items()


@pytest.mark.parametrize('wanted', [True, False])
def test_determinism_gives_cublas_what_it_needs(monkeypatch, launched, repo, wanted):
    monkeypatch.setenv('CUBLAS_WORKSPACE_CONFIG', '')  # is put back in the end
    monkeypatch.delenv('CUBLAS_WORKSPACE_CONFIG')
    config = repo / 'configs' / 'sapiens_tiny_demo.py'
    option = f'randomness.deterministic={wanted}'
    code, _, err = launched('test', config, 'not_there.pth', '--cfg-options', option)
    assert code == 2, err
    expected = ':4096:8' if wanted else None
    assert os.environ.get('CUBLAS_WORKSPACE_CONFIG') == expected
