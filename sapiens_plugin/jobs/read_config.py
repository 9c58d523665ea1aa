"""Reads a config into the plain numbers that planning works with.

Registers nothing; importing it imports the MM packages.
"""

import contextlib
import io
import os
from collections.abc import Mapping
from dataclasses import asdict, replace
from functools import cache
from pathlib import Path

import torch
from mmengine.config import Config
from mmengine.registry import DATASETS, init_default_scope

import sapiens_plugin.registry  # noqa: F401  (makes the names known)
from sapiens_plugin.core.coco.annotations import keypoint_images
from sapiens_plugin.core.coco.layout import DETECTIONS, TRAIN, VAL
from sapiens_plugin.core.streaming.memory import Step
from sapiens_plugin.core.utils.home import expand_texts
from sapiens_plugin.core.utils.json_file import load_json
from sapiens_plugin.errors import InputError
from sapiens_plugin.workbench.config_files import (
    check_config_name,
    check_config_text,
    mend_coco_root,
    unreadable,
)
from sapiens_plugin.workbench.job.job import Job, Persons
from sapiens_plugin.workbench.job.reader import (
    check_hook_name,
    get,
    is_named,
    read_job,
)

from .schedule import schedule_notes

# A config is a program, and may fail as one.
_NO_CONFIG = (
    *(SyntaxError, NameError, ImportError, OSError, RuntimeError),
    *(LookupError, TypeError, ValueError, AttributeError, ArithmeticError),
)


def load_config(path: str | Path, options: Mapping | None = None) -> Config:
    """Load a config file, and set what its job needs in the environment.

    Raises:
        InputError: It is not there, is no config, or the options do not go with it.
    """
    check_config_name(path)
    mend_coco_root()
    try:
        check_config_text(path)
        # MMEngine prints which variables it put in, where others want JSON.
        with contextlib.redirect_stdout(io.StringIO()):
            cfg = Config.fromfile(path)
    except InputError as error:
        if str(error).startswith(str(path)):
            raise
        raise InputError(f'{path}: {error}') from error  # of a recipe
    except _NO_CONFIG as error:
        raise unreadable(path, error) from error
    try:
        for key in options or ():
            match key.split('.'):
                case ['default_hooks', name, *rest] if rest != ['type']:
                    check_hook_name(name, cfg.get('default_hooks') or {})
        cfg.merge_from_dict(dict(options or {}))
    except InputError:
        raise
    except _NO_CONFIG as error:
        raise InputError(
            f'--cfg-options do not go with {path}: {type(error).__name__}: {error}'
        ) from error
    expand_texts(cfg._cfg_dict)
    if (cfg.get('randomness') or {}).get('deterministic'):
        # Or cuBLAS, and with it the first step, refuses. It is counted as memory, too.
        os.environ.setdefault('CUBLAS_WORKSPACE_CONFIG', ':4096:8')
    return cfg


def planned_job(cfg: Config, persons: Persons | None = None) -> Job:
    """Read a job that is to be planned, with its persons.

    Args:
        cfg: A config.
        persons: The data sets; None counts those of the config.

    Returns:
        The job; what is odd about its schedules is among the notes on its persons.

    Raises:
        InputError: The config is not a Sapiens pose job, or a value is out of its
            range; or it counts iterations.
    """
    job = read_job(cfg, Path(cfg.filename or 'config'))
    if job.max_epochs is None:
        raise InputError(
            f'The config {job.name} is not a Sapiens training job: '
            'train_cfg.max_epochs is missing or of another kind. Start from one of '
            "configs/ with model.backbone.type='sapiens_plugin.SapiensBackbone'."
        )
    persons = persons or count_persons(cfg)
    notes = schedule_notes(cfg, -(-persons.train // job.batch))
    return job.changed(persons=replace(persons, notes=(*persons.notes, *notes)))


def count_persons(cfg: Config) -> Persons:
    """Count the persons of a config's data sets, or take COCO's published numbers.

    Raises:
        InputError: A file that is there cannot be read, or has nobody to train on.
    """
    notes: list[str] = []
    counted: dict[str, int] = {}  # whatever is read twice is counted once

    def count(split: str) -> int:
        dataset = (cfg.get(f'{split}_dataloader') or {}).get('dataset')
        if not dataset:
            return 0
        published = (TRAIN if split == 'train' else VAL).persons
        what = repr(_without_steps(dataset))
        if what not in counted:
            try:
                counted[what] = _count(dataset, published, notes)
            except InputError as error:
                if split != 'test' or dataset.get('bbox_file'):
                    raise
                notes.append(f'Tests are not planned. {error}')
                counted[what] = 0
        return counted[what]

    persons = {split: count(split) for split in ('train', 'val', 'test')}
    return Persons(**persons, notes=(*dict.fromkeys(notes),))


def persons_in_tests(cfg: Config, validated: int) -> tuple[int, tuple[str, ...]]:
    """Tell how many persons tests look at, and from where, without reading a file.

    Args:
        cfg: A config.
        validated: How many its validations look at.
    """
    val, test = (
        get(cfg, f'{split}_dataloader', 'dataset') or {} for split in ('val', 'test')
    )
    if not test:
        return 0, ()
    # No bbox_file and one of None are the same.
    val, test = (
        {key: value for key, value in _without_steps(dataset).items() if value}
        for dataset in (val, test)
    )
    if val == test:
        return validated, ()
    boxes = Path(test.get('bbox_file') or '').name
    if boxes == Path(DETECTIONS).name:
        return VAL.boxes, (f"{boxes} is not counted: COCO's {VAL.boxes:,} are taken.",)
    return 0, ('Tests are not planned: training does not read their data.',)


def epoch_length(cfg: Config) -> int:
    """Return how many iterations an epoch of training has.

    Raises:
        InputError: As :func:`count_persons`.
    """
    loader = cfg.train_dataloader
    persons = _count(loader.dataset, TRAIN.persons, [])
    return -(-persons // max(loader.batch_size, 1))


def _count(dataset: Mapping, published: int, notes: list[str]) -> int:
    """Count the samples of a data set, those inside wrappers as often as they come."""
    if parts := dataset.get('datasets'):
        factors = dataset.get('sample_ratio_factor') or [1] * len(parts)
        return sum(
            round(factor * _count(part, published, notes))
            for part, factor in zip(parts, factors, strict=True)
        )
    if 'dataset' in dataset:
        return dataset.get('times', 1) * _count(dataset['dataset'], published, notes)
    path = Path(dataset.get('data_root') or '.', dataset['ann_file'])
    if boxes := dataset.get('bbox_file'):
        path, published = Path(boxes), VAL.boxes
    if not path.is_file():
        notes.append(
            f"{path.name} is not there to be counted: COCO's {published:,} "
            f'{"boxes" if boxes else "persons"} are taken.'
        )
        return published
    if boxes:
        return _count_boxes(boxes)
    is_plain = is_named(dataset['type'], 'CocoDataset') and not (
        dataset.keys() & {'indices', 'sample_interval', 'filter_cfg'}
    )
    number = (
        sum(keypoint_images(path).values()) if is_plain else _build_and_count(dataset)
    )
    if number == 0:
        raise InputError(
            f'{path} has no person with keypoints and a box: there is nothing to plan. '
            '`python3 tools/check_dataset.py ANNOTATIONS IMAGES` says why.'
        )
    return number


def _build_and_count(dataset: Mapping) -> int:
    init_default_scope('mmpose')
    with contextlib.redirect_stdout(io.StringIO()):  # "loading annotations …"
        return len(DATASETS.build(_without_steps(dataset)))


def _without_steps(dataset: Mapping) -> dict:
    """Leave out what happens to samples, which is the same for any number of them."""
    inner = {
        key: [_without_steps(part) for part in dataset[key]]
        if key == 'datasets'
        else _without_steps(dataset[key])
        for key in ('datasets', 'dataset')
        if key in dataset
    }
    return {**dataset, **inner, 'pipeline': []}


def _count_boxes(path: str) -> int:
    boxes = load_json(path)
    if not boxes:
        raise InputError(f'The file of person detections {path} holds no boxes.')
    return len(boxes)


def stage_measurer(cfg: Config):
    """Return what describes passes of a config's jobs to the memory model.

    It builds the model on the meta device, where weights take no memory. Jobs may
    differ from the config in what :class:`Job` says of the model.
    """
    init_default_scope('mmpose')
    template = cfg.model.copy()

    @cache
    def built(arch, img_size, frozen_stages, boundary_dtype, gradient_dtype):
        from mmpose.registry import MODELS

        backbone = {
            **template.backbone,
            **dict(arch=asdict(arch), img_size=img_size, frozen_stages=frozen_stages),
            **dict(with_cp=False, init_cfg=None),
        }
        with torch.device('meta'):
            return MODELS.build(
                dict(
                    type='sapiens_plugin.StreamedTopdownPoseEstimator',
                    boundary_dtype=boundary_dtype,
                    gradient_dtype=gradient_dtype,
                    data_preprocessor=template.get('data_preprocessor'),
                    backbone=backbone,
                    neck=template.get('neck'),
                    head=dict(template.head, in_channels=arch.embed_dims),
                )
            )

    @cache
    def measured(model_args, batch, micro_batch, warmup, training, dtype) -> Step:
        model = built(*model_args)
        model.micro_batch = micro_batch
        model.backbone.set_frozen(warmup)
        img_size = model_args[1]
        return model.memory_step(
            batch, img_size, training=training, compute_dtype=dtype
        )

    def measure(job: Job, *, warmup: bool, training: bool, dtype: torch.dtype) -> Step:
        batch = job.batch if training else job.test_batch
        # Stages are the same however many blocks are frozen: measured once.
        depth, frozen = job.arch.num_layers, job.frozen_stages
        some = not warmup and 0 < frozen < depth
        streaming = job.streaming
        dtypes = (
            (streaming.boundary_dtype, streaming.gradient_dtype)
            if streaming
            else ('float32', 'float32')
        )
        seen = measured(
            (job.arch, job.img_size, 0 if some else frozen, *dtypes),
            batch,
            min(job.micro_batch, batch) if streaming else batch,
            warmup,
            training,
            dtype,
        )
        return replace(seen, first_trainable=frozen + 1) if some else seen

    return measure
