"""Published weights: which file, and whether it is what it is said to be."""

import json
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from hub_server import HubServer, status
from huggingface_hub import close_session, constants
from mmengine.config import Config

from sapiens_plugin.core.vit import architectures
from sapiens_plugin.core.vit.architectures import Architecture
from sapiens_plugin.core.vit.model import SapiensViT
from sapiens_plugin.core.weight_files.checkpoint import open_weights
from sapiens_plugin.errors import InputError
from sapiens_plugin.workbench.demo.stand_in import make_stand_in
from sapiens_plugin.workbench.download.transfer import Connections, Unreachable
from sapiens_plugin.workbench.download.weights import (
    POSE_REPOSITORY,
    SIZES,
    Published,
    check_weights,
    fetch_person_detections,
    fetch_weights,
)

ARCH = Architecture(32, 2, 2, 64)
PRETRAINED = Published('0.3b')
FINETUNED = Published('0.3b', finetuned=True)
REPO = 'facebook/sapiens-pretrain-0.3b-torchscript'
NAME = 'sapiens_0.3b_epoch_1600_torchscript.pt2'
CHECKPOINTS = 'sapiens_host/pose/checkpoints'
POSE_NAME = 'sapiens_0.3b_coco_best_coco_AP_796.pth'
BOXES = 'COCO_val2017_detections_AP_H_70_person.json'


@pytest.fixture(autouse=True)
def small_arch(monkeypatch):
    """A 0.3B that is far smaller."""
    monkeypatch.setitem(architectures.ARCHITECTURES, 'sapiens_0.3b', ARCH)


@pytest.fixture
def server(monkeypatch):
    monkeypatch.setenv('NO_PROXY', '*')
    monkeypatch.setattr(Connections, 'wait', lambda self, seconds, why: None)
    close_session()
    with HubServer() as server:
        yield server
        close_session()


@pytest.fixture(scope='session')
def archive(tmp_path_factory) -> bytes:
    """A pre-trained file of the small architecture."""
    path = tmp_path_factory.mktemp('archive') / 'tiny.pt2'
    make_stand_in(path, arch=ARCH, img_size=64, decoder_dims=32, decoder_layers=1)
    return path.read_bytes()


def pose_model(path, *, keypoints: int = 17, arch: Architecture = ARCH) -> bytes:
    vit = SapiensViT(arch, img_size=(1024, 768))
    state = {f'backbone.{name}': value for name, value in vit.state_dict().items()}
    if keypoints:
        state['head.final_layer.weight'] = torch.zeros(keypoints, 8, 1, 1)
    torch.save({'meta': {'epoch': 3}, 'state_dict': state}, path)
    return path.read_bytes()


# --- Which file ---------------------------------------------------------------------


@pytest.mark.parametrize('size', SIZES)
def test_the_folders_are_those_that_the_configs_name(size, repo):
    published = Published(size)
    assert published.repo_id == f'facebook/sapiens-pretrain-{size}-torchscript'
    cfg = Config.fromfile(
        repo / f'configs/sapiens{size}_coco_1024x768.py', import_custom_modules=False
    )
    weights = Path(cfg.model.backbone.init_cfg.checkpoint)
    assert weights.parts[-4:-1] == ('data', 'pretrained', published.arch)


def test_pretrained_weights_are_found_fetched_and_opened(
    server, archive, tmp_path, capsys
):
    server.commit(REPO, {'README.md': b'#', NAME: archive, '.gitattributes': b''})
    found = []
    path = fetch_weights(
        PRETRAINED,
        tmp_path,
        endpoint=server.endpoint,
        on_found=lambda repository, file: found.append((repository.repo_id, file.name)),
    )
    assert path == tmp_path / 'sapiens_0.3b' / NAME
    assert path.read_bytes() == archive
    assert found == [(REPO, NAME)]
    assert f'Opening {path}' in capsys.readouterr().out


def test_the_finetuned_one_is_told_from_its_neighbours(server, tmp_path):
    right = pose_model(tmp_path / 'right.pth')
    folder = f'{CHECKPOINTS}/sapiens_0.3b'
    files = {
        f'{folder}/{POSE_NAME}': right,
        f'{folder}/sapiens_0.3b_coco_wholebody_best_coco_wholebody_AP_620.pth': b'?',
        f'{CHECKPOINTS}/sapiens_1b/sapiens_1b_coco_best_coco_AP_821.pth': b'?',
        f'{folder}/{POSE_NAME}.md5': b'?',
    }
    server.commit(POSE_REPOSITORY, files)
    path = fetch_weights(FINETUNED, tmp_path / 'to', endpoint=server.endpoint)
    assert path == tmp_path / 'to' / 'sapiens_0.3b' / POSE_NAME
    assert path.read_bytes() == right


@pytest.mark.parametrize(
    ('files', 'message'),
    [
        (
            ['README.md', 'model.safetensors'],
            r'no file.*README\.md, model\.safetensors',
        ),
        ([], 'no file.*there is nothing'),
        (
            ['a_torchscript.pt2', 'b_torchscript.pt2', 'c'],
            'more than one.*a_.*, b_[^,]*$',
        ),
        ([f'file{i}' for i in range(40)], 'file11 and 28 more'),
        ([r'..\..\x_torchscript.pt2'], 'no file'),
    ],
)
def test_none_or_several_candidates_are_named(server, tmp_path, files, message):
    server.commit(REPO, {name: b'' for name in files})
    with pytest.raises(InputError, match=message):
        fetch_weights(PRETRAINED, tmp_path, endpoint=server.endpoint)
    assert list(tmp_path.iterdir()) == []


# --- Whether it is what it is said to be --------------------------------------------


def test_a_file_of_another_size_is_refused(server, archive, tmp_path, monkeypatch):
    other = Architecture(64, 3, 2, 128)
    monkeypatch.setitem(architectures.ARCHITECTURES, 'sapiens_0.3b', other)
    server.commit(REPO, {NAME: archive})
    with pytest.raises(
        InputError, match=r'not hold sapiens_0\.3b pre-tr.*32 dims'
    ) as e:
        fetch_weights(PRETRAINED, tmp_path, endpoint=server.endpoint)
    assert '\n' not in str(e.value)


def test_a_shape_that_differs_is_refused(archive, tmp_path, monkeypatch):
    path = tmp_path / NAME
    path.write_bytes(archive)
    check_weights(path, PRETRAINED)
    wider = Architecture(32, 2, 2, 128)
    monkeypatch.setitem(architectures.ARCHITECTURES, 'sapiens_0.3b', wider)
    with pytest.raises(InputError, match=r'of another shape: layers\.0\.ffn'):
        check_weights(path, PRETRAINED)


def test_damage_inside_is_found(archive, tmp_path):
    """Every tensor is read, and the archive's own checksums compared."""
    path = tmp_path / NAME
    path.write_bytes(archive)
    last = open_weights(path)['backbone.layers.1.ffn.layers.1.weight'].read()
    values = last.numpy().tobytes()
    assert archive.count(values) == 1
    path.write_bytes(archive.replace(values, values[:-1] + b'?'))
    with pytest.raises(InputError, match='damaged inside'):
        check_weights(path, PRETRAINED)


@pytest.mark.parametrize('keypoints', [0, 133])
def test_a_pose_model_without_a_head_for_coco_is_refused(tmp_path, keypoints):
    path = tmp_path / POSE_NAME
    pose_model(path, keypoints=keypoints)
    with pytest.raises(
        InputError, match=f'a head for {keypoints} keypoints, not for 17'
    ):
        check_weights(path, FINETUNED)


def test_checking_takes_no_memory_of_a_models_size(archive, tmp_path, monkeypatch):
    path = tmp_path / NAME
    path.write_bytes(archive)
    devices = set()
    init = SapiensViT.__init__

    def note(vit, *args, **kwargs):
        init(vit, *args, **kwargs)
        devices.update(parameter.device.type for parameter in vit.parameters())

    monkeypatch.setattr(SapiensViT, '__init__', note)
    check_weights(path, PRETRAINED)
    assert devices == {'meta'}


# --- Without a hub ------------------------------------------------------------------


@pytest.mark.parametrize('how', ['offline', 'failing'])
def test_without_a_hub_what_is_there_is_opened(
    server, archive, tmp_path, monkeypatch, capsys, how
):
    server.commit(REPO, {NAME: archive})
    path = fetch_weights(PRETRAINED, tmp_path, endpoint=server.endpoint)
    path.with_name(f'{NAME}.0123.part').touch()
    if how == 'offline':
        monkeypatch.setattr(constants, 'HF_HUB_OFFLINE', True)
    server.misbehave('api', *[status(503)] * 12)
    assert fetch_weights(PRETRAINED, tmp_path, endpoint=server.endpoint) == path
    assert 'its hash could not be compared' in capsys.readouterr().out
    another = path.with_name('another_torchscript.pt2')
    another.touch()
    with pytest.raises(Unreachable):  # which of the two it is, nobody knows
        fetch_weights(PRETRAINED, tmp_path, endpoint=server.endpoint)
    another.unlink()
    path.write_bytes(archive[:-100])
    with pytest.raises(InputError, match=r'not hold sapiens_0\.3b pre-trained'):
        fetch_weights(PRETRAINED, tmp_path, endpoint=server.endpoint)
    path.unlink()
    with pytest.raises(Unreachable):
        fetch_weights(PRETRAINED, tmp_path, endpoint=server.endpoint)


# --- Person detections --------------------------------------------------------------


def test_person_detections(server, tmp_path, capsys):
    content = json.dumps([{'image_id': 1, 'bbox': [0, 0, 9, 9]}] * 100).encode()
    files = {
        f'sapiens_host/pose/person_detection_results/{BOXES}': content,
        'sapiens_host/pose/person_detection_results/other.json': b'[]',
        f'elsewhere/{BOXES}': b'[]',
    }
    server.commit(POSE_REPOSITORY, files)
    path = fetch_person_detections(tmp_path, endpoint=server.endpoint)
    assert path == tmp_path / 'person_detection_results' / BOXES
    assert path.read_bytes() == content
    server.misbehave('api', *[status(503)] * 3)
    assert fetch_person_detections(tmp_path, endpoint=server.endpoint) == path
    assert 'could not be compared' in capsys.readouterr().out
    server.misbehave('api', *[status(503)] * 3)
    with pytest.raises(Unreachable):
        fetch_person_detections(tmp_path / 'new', endpoint=server.endpoint)
    server.commit(POSE_REPOSITORY, {'README.md': b''})
    with pytest.raises(InputError, match=r'person detections: there is README\.md'):
        fetch_person_detections(tmp_path, endpoint=server.endpoint)


def test_fetching_detections_loads_no_pytorch():
    module = 'sapiens_plugin.workbench.download.weights'
    code = f'import sys, {module}\nprint("torch" in sys.modules)'
    done = subprocess.run(
        [sys.executable, '-c', code], capture_output=True, text=True, timeout=60
    )
    assert done.stdout.strip() == 'False'
