"""The command that fetches weights, in processes of its own against a stand-in hub."""

import importlib
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from hub_server import HubServer

from sapiens_plugin.workbench.demo.stand_in import make_stand_in

REPO = Path(__file__).resolve().parents[2]
TOOL = REPO / 'tools' / 'download_pretrained.py'
REPO_ID = 'facebook/sapiens-pretrain-0.3b-torchscript'
NAME = 'sapiens_0.3b_epoch_1600_torchscript.pt2'
ARCH = dict(embed_dims=32, num_layers=2, num_heads=2, feedforward_channels=64)
# The command as it is, but for a 0.3B that is far smaller.
SMALL = f"""
import runpy, sys
from sapiens_plugin.core.vit.architectures import ARCHITECTURES, Architecture
ARCHITECTURES['sapiens_0.3b'] = Architecture(**{ARCH})
sys.path.insert(0, {str(TOOL.parent)!r})
sys.argv[0] = {str(TOOL)!r}
runpy.run_path(sys.argv[0], run_name='__main__')
"""


@pytest.fixture
def server():
    with HubServer() as server:
        yield server


@pytest.fixture(scope='module')
def archive(tmp_path_factory) -> bytes:
    path = tmp_path_factory.mktemp('archive') / 'tiny.pt2'
    make_stand_in(path, arch=ARCH, img_size=64, decoder_dims=32, decoder_layers=1)
    return path.read_bytes()


def options(server, folder: Path, *args: str, **environment: str) -> dict:
    kept = {k: v for k, v in os.environ.items() if not k.startswith('HF_')}
    return {
        'args': [sys.executable, '-c', SMALL, *args, '--dir', str(folder)],
        'env': kept
        | {'HF_ENDPOINT': server.endpoint, 'NO_PROXY': '*', 'PYTHONUTF8': '1'}
        | environment,
        'encoding': 'utf-8',
    }


def call(*args, **environment) -> subprocess.CompletedProcess:
    how = options(*args, **environment)
    return subprocess.run(**how, capture_output=True, timeout=120)


def interrupt_while_fetching(server, *args, **environment) -> None:
    server.pace = 0.05
    stream = subprocess.PIPE
    how = options(server, *args, **environment)
    with subprocess.Popen(**how, stdout=stream, stderr=stream) as child:
        try:
            while sum(request.sent for request in server.asked('cdn')) < 64 * 1024:
                assert child.poll() is None
                time.sleep(0.01)
            child.kill() if os.name == 'nt' else child.send_signal(signal.SIGINT)
            _, errors = child.communicate(timeout=30)
        finally:
            child.kill()
    server.pace = 0
    if os.name != 'nt':
        assert child.returncode == 130
        assert 'tools/download_pretrained.py: ' in errors
        assert 'Traceback' not in errors


def test_from_the_first_call_to_a_call_without_a_network(server, archive, tmp_path):
    server.commit(REPO_ID, {NAME: archive}, license='cc-by-nc-4.0')
    path = tmp_path / 'sapiens_0.3b' / NAME

    # Interrupted in the middle; the next call goes on from there.
    interrupt_while_fetching(server, tmp_path, '0.3b', HF_TOKEN='hf_secret')
    assert not path.exists()
    assert server.asked('api')[-1].token == 'Bearer hf_secret'
    (part,) = path.parent.glob('*.part')
    held = part.stat().st_size
    assert 0 < held < len(archive)

    done = call(server, tmp_path, '0.3b')
    assert (done.returncode, done.stderr) == (0, '')
    assert path.read_bytes() == archive
    assert [path.name for path in path.parent.iterdir()] == [NAME]
    assert server.asked('cdn')[-1].start == held
    first, licence, meta, *_ = done.stdout.splitlines()
    assert first.startswith(f'{NAME}, {len(archive) / 1e6:.1f} MB, from')
    assert licence == 'Licence, as the repository names it: cc-by-nc-4.0'
    assert "Meta's own licence. Read it" in meta
    assert f'{path} holds sapiens_0.3b pre-trained, whole.' in done.stdout
    assert f'init_cfg.checkpoint={path}' in done.stdout
    assert '\r' not in done.stdout  # no bar where there is no terminal
    assert '━' not in done.stdout

    done = call(server, tmp_path, '0.3b', HF_HUB_OFFLINE='1')
    assert (done.returncode, done.stderr) == (0, '')
    assert 'its hash could not be compared' in done.stdout


def test_offline_with_nothing_there(server, tmp_path):
    done = call(server, tmp_path, HF_HUB_OFFLINE='1')
    assert done.returncode == 2
    assert 'facebook/sapiens-pretrain-1b-torchscript cannot be had' in done.stderr
    assert 'Unset HF_HUB_OFFLINE' in done.stderr
    assert server.requests == []


def test_a_published_pose_model_as_mmengine_saves_it(server, tmp_path):
    import torch
    from mmengine.logging.history_buffer import HistoryBuffer

    from sapiens_plugin.core.vit.model import SapiensViT

    vit = SapiensViT(ARCH, img_size=(1024, 768))
    state = {f'backbone.{name}': value for name, value in vit.state_dict().items()}
    state['head.final_layer.weight'] = torch.zeros(17, 8, 1, 1)
    hub = {'log_scalars': {'train/loss': HistoryBuffer([0.5], [1])}}
    torch.save({'state_dict': state, 'message_hub': hub}, tmp_path / 'x.pth')
    folder = 'sapiens_host/pose/checkpoints/sapiens_0.3b'
    name = 'sapiens_0.3b_coco_best_coco_AP_796.pth'
    content = (tmp_path / 'x.pth').read_bytes()
    server.commit('noahcao/sapiens-pose-coco', {f'{folder}/{name}': content})
    done = call(server, tmp_path, '0.3b', '--finetuned')
    assert (done.returncode, done.stderr) == (0, '')
    assert (tmp_path / 'sapiens_0.3b' / name).read_bytes() == content
    assert 'The repository names no licence; look at http://127' in done.stdout
    assert 'tools/test.py configs/sapiens0.3b_coco_1024x768.py' in done.stdout.replace(
        '\\', '/'
    )


def test_the_default_folder_is_where_the_configs_look(monkeypatch):
    monkeypatch.syspath_prepend(TOOL.parent)
    tool = importlib.import_module('download_pretrained')
    for size, name in (
        ('0.3b', NAME),
        ('0.6b', 'sapiens_0.6b_epoch_1600_torchscript.pt2'),
        ('1b', 'sapiens_1b_epoch_173_torchscript.pt2'),
        ('2b', 'sapiens_2b_epoch_660_torchscript.pt2'),
    ):
        published = tool.Published(size)
        folder = tool.DATA / published.arch
        line = tool._use(published, folder / name)
        assert line.startswith('It is what these train from: ')
        assert f'sapiens{size}_coco_1024x768.py' in line
        # Should the hub have another file one day, the configs must be told.
        newer = folder / 'sapiens_epoch_9999_torchscript.pt2'
        assert f'init_cfg.checkpoint={newer}' in tool._use(published, newer)


def test_help_names_sizes_and_examples():
    done = subprocess.run(
        [sys.executable, str(TOOL), '--help'],
        capture_output=True,
        text=True,
        encoding='utf-8',
        env=os.environ | {'PYTHONUTF8': '1'},
        timeout=60,
    )
    assert done.returncode == 0
    for text in ('{0.3b,0.6b,1b,2b}', '--finetuned', 'examples:', 'HF_ENDPOINT'):
        assert text in done.stdout
