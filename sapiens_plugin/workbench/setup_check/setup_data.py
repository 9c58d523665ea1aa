"""Is what a job reads there, and can it write? Looked at without reading it all."""

import os
import shutil
from collections.abc import Iterable, Mapping
from pathlib import Path

import torch

from sapiens_plugin.core.coco.annotations import keypoint_images
from sapiens_plugin.core.coco.layout import (
    ANNOTATIONS,
    KEYPOINT_FILES,
    TRAIN,
    VAL,
    Layout,
    Part,
)
from sapiens_plugin.core.utils.amounts import size
from sapiens_plugin.core.utils.free_space import nearest
from sapiens_plugin.core.utils.json_file import check_json_file
from sapiens_plugin.core.utils.listing import missing, names_in
from sapiens_plugin.core.vit.architectures import ARCHITECTURES
from sapiens_plugin.core.vit.lifting import check_backbone
from sapiens_plugin.core.vit.model import SapiensViT
from sapiens_plugin.errors import InputError
from sapiens_plugin.workbench.demo.make_demo import DemoPaths
from sapiens_plugin.workbench.job.job import DataSource, Job

from .setup_checks import check_can_write
from .setup_report import Check, Commands, shorten

# Larger files take seconds to read.
_COUNTED = 40_000_000  # bytes


def check_job_files(job: Job, commands: Commands) -> list[Check]:
    """Look at weights, data and folders of a job."""
    checks = check_weights(job, commands)
    seen: dict[tuple[Path, Path], None] = {}
    for source in job.sources:
        if (source.annotations, source.images) not in seen:
            seen[source.annotations, source.images] = None
            checks += check_data(source, commands)
        if source.detections is not None:
            checks.append(check_detections(source, commands))
    folders = [job.work_dir, *job.other_dirs]
    checks += [check_folder(folder, job, commands) for folder in folders]
    checks.append(check_disk(job, commands))
    return checks


def is_soon_counted(job: Job) -> bool:
    """Tell whether it takes no time to count the persons of all annotations."""
    files = [s.annotations for s in job.sources if s.annotations.is_file()]
    return all(path.stat().st_size <= _COUNTED for path in files)


def check_weights(job: Job, commands: Commands) -> list[Check]:
    """Open the weights that the job starts from, and compare names and shapes.

    A job that names those of the backbone and those of the whole model reads both.
    """
    named = {
        'weights': (job.backbone_weights, 'model.backbone.init_cfg.checkpoint'),
        'load_from': (job.whole_weights, 'load_from'),
    }
    checks = [
        _check_weights(name, path, setting, job, commands)
        for name, (path, setting) in named.items()
        if path is not None
    ]
    random = Check('weights', 'warn', 'none named: the job starts from random ones')
    return checks or [random]


def _check_weights(
    name: str, path: str, setting: str, job: Job, commands: Commands
) -> Check:
    if '://' in path:
        return Check(name, 'warn', f'{path} is fetched, and checked, by the job')
    path = Path(os.path.normpath(path))
    mend = _way_to_weights(path, setting, commands)
    if not path.exists():
        return Check(name, 'fail', f'{shorten(path)} is missing', mend)
    try:
        check_backbone(_backbone(job), path)
    except InputError as error:
        return Check(name, 'fail', str(error), mend)
    length = size(path.stat().st_size)
    depth, dims = job.arch.num_layers, job.arch.embed_dims
    detail = f'{shorten(path)}, {length}, fits ({depth} layers, {dims} wide)'
    return Check(name, 'ok', detail)


def _backbone(job: Job) -> SapiensViT:
    with torch.device('meta'):
        return SapiensViT(
            job.arch, img_size=job.img_size, with_cls_token=bool(job.extra_tokens)
        )


def _way_to_weights(path: Path, setting: str, commands: Commands) -> str:
    demo = DemoPaths(path.parent)
    if path == demo.weights:
        return _make_demo(demo.root, commands)
    for arch in ARCHITECTURES:
        if path.name.startswith(f'{arch}_'):
            folder, usual = path.parent.parent, commands.root / 'data' / 'pretrained'
            model = arch.removeprefix('sapiens_')
            options = [] if folder == usual else ['--dir', folder]
            return commands.tool('download_pretrained.py', model, *options)
    return f'name your file: --cfg-options {setting}=FILE'


def check_data(source: DataSource, commands: Commands) -> list[Check]:
    """Look at an annotation file and the folder of its images."""
    name = f'{source.split} persons'
    if not source.annotations.exists():
        detail = f'{shorten(source.annotations)} is missing'
        absent = Check(name, 'fail', detail, _way_to_data(source, commands))
        return [absent, check_images(source, None, commands)]
    try:
        check_json_file(source.annotations, what='annotation file', way_out='')
        named, counted = _count(source)
    except InputError as error:
        mend = _way_to_data(source, commands)
        checks, named = [Check(name, 'fail', str(error).strip(), mend)], None
    else:
        checks = [Check(name, 'ok', f'{counted} in {shorten(source.annotations)}')]
    return [*checks, check_images(source, named, commands)]


def _count(source: DataSource) -> tuple[Mapping[str, int] | None, str]:
    """Return what images are named, if that can be told soon, and a count in words."""
    part = _part_of_coco(source)
    length = source.annotations.stat().st_size
    if part is not None and _is_published(source, length):
        return None, f'{part.persons:,}'
    if length > _COUNTED:
        return None, f'not counted: {size(length)}'
    try:
        named = keypoint_images(source.annotations)
    except InputError:
        if source.counted:
            raise
        named = {}
    if not named and not source.counted:
        return None, 'not counted: no persons in the form of COCO'
    if not named:
        raise InputError(
            f'{source.annotations} has no person to train on: tools/check_dataset.py '
            'says why.'
        )
    return named, f'{sum(named.values()):,} on {len(named):,} images'


def check_images(
    source: DataSource, named: Iterable[str] | None, commands: Commands
) -> Check:
    """List the images that are there, and compare them with those there should be.

    Args:
        source: The data.
        named: Those that the annotations name, None where that takes too long to tell.
        commands: Those of this checkout.
    """
    name, folder = f'{source.split} images', shorten(source.images)
    mend = _way_to_data(source, commands)
    part, index = _part_of_coco(source), None
    if not source.images.is_dir():
        fewer = '; --keypoints-only fetches the half with persons' * (part is TRAIN)
        return Check(name, 'fail', f'the folder {folder} is missing{fewer}', mend)
    if part is not None:
        index = Layout(source.root).read_index(part)
    if index is not None:
        if index.selective:
            mend = _way_to_data(source, commands, '--keypoints-only')
        if not index.sealed:
            detail = f'the download into {folder} did not end'
            return Check(name, 'fail', detail, mend)
        named = {file.name for file in index.files}
    if named is None:
        return _judge_count(name, source, part, mend)
    named = set(named)
    absent = sorted(missing(source.images, named))
    if absent:
        detail = f'{len(absent):,} of {len(named):,} not in {folder}: {absent[0]}'
        detail += ', …' if absent[1:] else ''
        return Check(name, 'fail', detail, mend)
    return Check(name, 'ok', f'all {len(named):,} in {folder}')


def _judge_count(name: str, source: DataSource, part: Part | None, mend: str) -> Check:
    """Judge images by their number alone."""
    count = len(names_in(source.images))
    found = f'{count:,} in {shorten(source.images)}'
    if part is None:
        if not count:
            return Check(name, 'fail', found, mend)
        return Check(name, 'ok', f'{found}; the job compares their names')
    persons = part.images_with_persons
    if count < persons:
        detail = f'{found}; COCO has {persons:,} with persons'
        return Check(name, 'fail', detail, mend)
    if count in (persons, part.images):
        return Check(name, 'ok', f'{found}, as many as COCO has')
    detail = f'{found}; COCO has {part.images:,}, {persons:,} of them with persons'
    return Check(name, 'warn', detail, f'{mend} --verify')


def check_detections(source: DataSource, commands: Commands) -> Check:
    """Look at the file of person detections, which tests alone need."""
    name = f'{source.split} boxes'
    mend = _way_to_data(source, commands)
    if not source.detections.exists():
        detail = (
            f'{shorten(source.detections)} is missing; tools/test.py needs it, or '
            f"--cfg-options {source.split}_dataloader.dataset.bbox_file=''"
        )
        return Check(name, 'warn', detail, mend)
    try:
        check_json_file(source.detections, what='file of detections', way_out='')
    except InputError as error:
        detail = f'{str(error).strip()} tools/test.py needs it'
        return Check(name, 'warn', detail, mend)
    length = size(source.detections.stat().st_size)
    return Check(name, 'ok', f'{shorten(source.detections)}, {length}')


def check_folder(folder: Path, job: Job, commands: Commands) -> Check:
    """Check that a folder can be written, without making it."""
    name = 'work directory' if folder == job.work_dir else 'log directory'
    mend = commands.train(job, work_dir='DIR')
    try:
        check_can_write(folder, way_out='')
    except InputError as error:
        return Check(name, 'fail', str(error).strip(), mend)
    what = ', for checkpoints and logs' if folder == job.work_dir else ''
    return Check(name, 'ok', f'{shorten(folder)} can be written{what}')


def check_disk(job: Job, commands: Commands) -> Check:
    """Compare the room for checkpoints with what they will take.

    Those of an earlier run in the same directory make room for new ones.
    """
    there = sum(path.stat().st_size for path in job.work_dir.glob('*.pth'))
    free = shutil.disk_usage(nearest(Path(job.work_dir))).free
    needed = sum(job.disk_use().values())
    detail = f'{size(free)} free; checkpoints take {size(needed)}'
    if there:
        detail += f', of which {size(there)} lie there'
    if needed - there <= free:
        return Check('disk', 'ok', detail)
    mend = commands.train(job, work_dir='DIR')
    return Check('disk', 'fail', detail, f'make room, or go to another disk: {mend}')


def _part_of_coco(source: DataSource) -> Part | None:
    """Tell which part of COCO 2017 these images are, by where everything lies."""
    for part in (TRAIN, VAL):
        layout = Layout(source.root)
        if (source.annotations, source.images) == (
            layout.annotation_file(part),
            layout.directory(part),
        ):
            return part
    return None


def _is_published(source: DataSource, size: int) -> bool:
    """Whether an annotation file has the size of the published one."""
    index = Layout(source.root).read_index(ANNOTATIONS)
    published = {file.name: file.size for file in index.files} if index else {}
    return published.get(source.annotations.name) == size


def _way_to_data(source: DataSource, commands: Commands, *options: str) -> str:
    demo = DemoPaths(source.root)
    if source.annotations in (demo.annotations('train'), demo.annotations('val')):
        return _make_demo(demo.root, commands)
    if source.annotations.name in KEYPOINT_FILES:
        named = os.environ.get('COCO_ROOT')
        if Path(named or commands.root / 'data' / 'coco') != source.root:
            options = (*options, '--root', source.root)
        fetch = commands.tool('download_coco.py', *options)
        if named and not source.root.is_dir():
            return (
                f'COCO_ROOT={named} is not a folder: correct or unset it, or fetch '
                f'COCO there: {fetch}'
            )
        return fetch
    return (
        'put the data there, or name their folder: --cfg-options '
        f'{source.split}_dataloader.dataset.data_root=DIR'
    )


def _make_demo(root: Path, commands: Commands) -> str:
    return commands.module('sapiens_plugin.workbench.demo.make_demo', root)
