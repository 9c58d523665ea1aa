"""What a job needs of a machine, read off its config as plain values."""

import os
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch

from sapiens_plugin.core.streaming.memory import HostMemory, host_memory
from sapiens_plugin.core.streaming.moments import moment_bytes
from sapiens_plugin.core.vit.architectures import PATCH_SIZE
from sapiens_plugin.core.vit.model import SapiensViT
from sapiens_plugin.errors import InputError
from sapiens_plugin.workbench.planning.job import COCO_PERSONS, Checkpoints, Streaming
from sapiens_plugin.workbench.planning.job_reader import (
    check_schedule,
    is_named,
    read_checkpoints,
    read_head,
    read_parts,
    read_precision,
    read_streaming,
    read_worker_memory,
)

from .setup_report import Commands

_SPLITS = ('train', 'val', 'test')
_BUFFERED_BATCHES = 2  # that a worker of PyTorch's loader makes ahead
_FLOAT = 4  # bytes
_PERSON_BYTES = 1_590  # that COCO's annotation files have for each person of a job


@dataclass(frozen=True)
class DataSource:
    """A data set that a job reads.

    Attributes:
        split: ``'train'``, ``'val'`` or ``'test'``.
        root: The folder that the other paths are under.
        annotations: The COCO file.
        images: The folder of its images.
        detections: The file of person detections, if boxes come from one.
        counted: Whether its persons are those that ``CocoDataset`` finds.
    """

    split: str
    root: Path
    annotations: Path
    images: Path
    detections: Path | None
    counted: bool = True


@dataclass(frozen=True)
class Loader:
    """How a split is loaded.

    Attributes:
        split: ``'train'``, ``'val'`` or ``'test'``.
        workers: Processes that load.
        batch_bytes: What they hand over at a time.
    """

    split: str
    workers: int
    batch_bytes: int

    @property
    def shared_bytes(self) -> int:
        """What lies in shared memory at most: batches made ahead, and one in use."""
        return (_BUFFERED_BATCHES * self.workers + 1) * self.batch_bytes


@dataclass(frozen=True)
class SetupJob:
    """What a job needs.

    Attributes:
        config: Its file.
        options: Changes to it, as ``--cfg-options`` takes them.
        vit: The backbone, on the meta device.
        num_params: Parameters of backbone and head.
        num_trainable: Those that train once everything does that ever will.
        batch: Images a step.
        precision: What is asked of the GPU: ``'auto'`` or the name of a type.
        streaming: How it is streamed; None: the model stays on the GPU.
        backbone_weights: The file that the backbone starts from.
        whole_weights: The checkpoint that the whole model starts from.
        sources: The data.
        loaders: How they are loaded.
        worker_memory: Bytes of all processes that load while it trains.
        work_dir: Where checkpoints and logs go.
        other_dirs: More folders that it writes to.
        max_epochs: All epochs.
        checkpoints: What is written.
    """

    config: Path
    options: Sequence[str]
    vit: SapiensViT
    num_params: int
    num_trainable: int
    batch: int
    precision: str
    streaming: Streaming | None
    backbone_weights: str | None
    whole_weights: str | None
    sources: Sequence[DataSource]
    loaders: Sequence[Loader]
    worker_memory: int
    work_dir: Path
    other_dirs: Sequence[Path]
    max_epochs: int
    checkpoints: Checkpoints

    def train_command(
        self, commands: Commands, *changes: str, work_dir: str | None = None
    ) -> str:
        """Write the command that trains it, with more changes to the config."""
        keys = {change.partition('=')[0] for change in changes}
        kept = [text for text in self.options if text.partition('=')[0] not in keys]
        arguments = [self.config]
        if work_dir is not None:
            arguments += ['--work-dir', work_dir]
        if kept or changes:
            arguments += ['--cfg-options', *kept, *changes]
        return commands.tool('train.py', *arguments)

    @property
    def persons(self) -> int:
        """Persons of the annotations that training reads, about: by their size.

        COCO's, where a file is not there yet.
        """
        files = {s.annotations: s.split for s in self.sources if s.split != 'test'}
        return sum(
            path.stat().st_size // _PERSON_BYTES
            if path.is_file()
            else COCO_PERSONS[split]
            for path, split in files.items()
        )

    @property
    def disk_bytes(self) -> int:
        """What checkpoints take at most."""
        moments = 'float32' if self.streaming is None else self.streaming.moment_dtype
        weights = _FLOAT * self.num_params
        parts = self.checkpoints.disk(
            max_epochs=self.max_epochs,
            weights=weights,
            full=weights + moment_bytes(self.num_trainable, moments),
        )
        return sum(parts.values())

    @property
    def resident_bytes(self) -> int:
        """Weights, gradients and moments of ordinary training, before activations."""
        return _FLOAT * (self.num_params + 3 * self.num_trainable)

    @property
    def boundary_bytes(self) -> int:
        """What the activations between all blocks of a streamed step take.

        How many of them are kept, and where, follows from the GPU as the job starts.
        """
        grid, extra = self.vit.grid, self.vit.num_extra_tokens
        dims, blocks = self.vit.arch.embed_dims, self.vit.arch.num_layers
        width = getattr(torch, self.streaming.boundary_dtype).itemsize
        return blocks * self.batch * (grid[0] * grid[1] + extra) * dims * width

    def streamed_memory(
        self,
        *,
        boundary_bytes: int = 0,
        gradient_dtype: str | None = None,
        moment_dtype: str | None = None,
    ) -> HostMemory:
        """Return what streamed training keeps in host memory, beside the program."""
        return host_memory(
            num_params=self.num_params,
            num_trainable=self.num_trainable,
            gradient_dtype=getattr(
                torch, gradient_dtype or self.streaming.gradient_dtype
            ),
            moment_dtype=moment_dtype or self.streaming.moment_dtype,
            boundary_bytes=boundary_bytes,
        )


def read_setup_job(cfg: Mapping, config: Path, options: Sequence[str] = ()) -> SetupJob:
    """Read what a job needs off its config.

    Args:
        cfg: The config as plain mappings, with its changes.
        config: Its file.
        options: The changes as text.

    Raises:
        InputError: This is no job for a Sapiens, or a number in it is impossible.
    """
    backbone = _get(cfg, 'model', 'backbone') or {}
    known = is_named(backbone.get('type', ''), 'SapiensBackbone')
    if not known or 'train_dataloader' not in cfg:
        raise InputError(
            f'{config} is not a job for a Sapiens: it needs model.backbone.type='
            f"'sapiens_plugin.SapiensBackbone' and a train_dataloader. The shipped "
            'jobs are in configs/.'
        )
    vit = _backbone(backbone, config)
    check_schedule(cfg)
    frozen = _held_by_frozen_stages(vit, backbone.get('frozen_stages', -1))
    head = read_head(cfg['model']['head'])
    total = sum(p.numel() for p in vit.parameters()) + head.num_params(
        vit.arch.embed_dims
    )
    loaders = {s: cfg[f'{s}_dataloader'] for s in _SPLITS if cfg.get(f'{s}_dataloader')}
    pixels = vit.grid[0] * vit.grid[1] * PATCH_SIZE**2
    return SetupJob(
        config=config,
        options=options,
        vit=vit,
        num_params=total,
        num_trainable=total - frozen,
        batch=loaders['train'].get('batch_size', 1),
        precision=read_precision(cfg),
        streaming=read_streaming(cfg['model']),
        backbone_weights=(backbone.get('init_cfg') or {}).get('checkpoint'),
        whole_weights=cfg.get('load_from'),
        sources=[
            source
            for split, loader in loaders.items()
            for dataset, _ in read_parts(loader.get('dataset') or {})
            for source in _sources(split, dataset)
        ],
        loaders=[
            Loader(
                split,
                loader.get('num_workers', 0),
                loader.get('batch_size', 1) * _sample_bytes(cfg['model'], pixels),
            )
            for split, loader in loaders.items()
        ],
        worker_memory=sum(read_worker_memory(cfg).values()),
        work_dir=Path(cfg.get('work_dir') or Path('work_dirs', config.stem)),
        other_dirs=[Path(folder) for folder in _other_dirs(cfg)],
        max_epochs=_get(cfg, 'train_cfg', 'max_epochs') or 1,
        checkpoints=read_checkpoints(cfg),
    )


def _get(mapping: Mapping, *keys: str):
    for key in keys:
        mapping = (mapping or {}).get(key)
    return mapping


def _backbone(backbone: Mapping, config: Path) -> SapiensViT:
    if not {'arch', 'img_size'} <= backbone.keys():
        raise InputError(f'{config}: model.backbone needs an arch and an img_size.')
    taken = ('patch_padding', 'with_cls_token', 'drop_path_rate')
    with torch.device('meta'):
        return SapiensViT(
            backbone['arch'],
            img_size=tuple(backbone['img_size']),
            **{key: backbone[key] for key in taken if key in backbone},
        )


def _held_by_frozen_stages(vit: SapiensViT, stages: int) -> int:
    """Count the parameters of the backbone that never train."""
    if stages < 0:
        return 0
    held = [vit.patch_embed, *vit.layers[:stages]]
    if stages == len(vit.layers):
        held.append(vit.ln1)
    alone = [vit.pos_embed] + ([vit.cls_token] if vit.num_extra_tokens else [])
    return sum(p.numel() for p in alone) + sum(
        p.numel() for module in held for p in module.parameters()
    )


def _sources(split: str, dataset: Mapping) -> Iterator[DataSource]:
    if not dataset.get('ann_file'):
        return
    root = Path(os.path.normpath(dataset.get('data_root') or '.'))
    boxes = dataset.get('bbox_file')
    yield DataSource(
        split=split,
        root=root,
        annotations=root / dataset['ann_file'],
        images=root / (_get(dataset, 'data_prefix', 'img') or ''),
        detections=Path(os.path.normpath(boxes)) if boxes else None,
        counted=is_named(dataset.get('type', ''), 'CocoDataset') and not boxes,
    )


def _sample_bytes(model: Mapping, pixels: int) -> int:
    """Return the size of a picture (three bytes a pixel) and of its heatmaps."""
    keypoints = _get(model, 'head', 'out_channels') or 0
    return 3 * pixels + _FLOAT * keypoints * pixels // 16  # a quarter of each side


def _other_dirs(cfg: Mapping) -> Iterator[str]:
    visualizer = cfg.get('visualizer') or {}
    writers = [visualizer, *(visualizer.get('vis_backends') or ())]
    checkpoint = _get(cfg, 'default_hooks', 'checkpoint') or {}
    yield from (writer['save_dir'] for writer in writers if writer.get('save_dir'))
    if checkpoint.get('out_dir'):
        yield checkpoint['out_dir']
