"""Which published files there are, fetched from the hub and opened.

Importing this imports no PyTorch.
"""

import re
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

from sapiens_plugin.core.coco.layout import DETECTIONS
from sapiens_plugin.errors import InputError

from .hub import HubFile, Repository, Say, fetch, open_repository
from .transfer import Unreachable

SIZES = ('0.3b', '0.6b', '1b', '2b')
POSE_REPOSITORY = 'noahcao/sapiens-pose-coco'
_PRETRAINED_REPOSITORY = 'facebook/sapiens-pretrain-{size}-torchscript'
_DETECTIONS = PurePosixPath(DETECTIONS)
_COCO_KEYPOINTS = 17
_MAX_LISTED = 12


@dataclass(frozen=True)
class Published:
    """A kind of published weights.

    Attributes:
        size: One of :data:`SIZES`.
        finetuned: Whether it is a pose model trained on COCO (17 keypoints, 1024×768);
            otherwise the pre-trained backbone (1024×1024).
    """

    size: str
    finetuned: bool = False

    @property
    def arch(self) -> str:
        """The name of the architecture, and of the folder."""
        return f'sapiens_{self.size}'

    @property
    def repo_id(self) -> str:
        """The repository on the hub."""
        if self.finetuned:
            return POSE_REPOSITORY
        return _PRETRAINED_REPOSITORY.format(size=self.size)

    def matches(self, path: str) -> bool:
        """Tell whether a file is this, by its path in the repository."""
        if self.finetuned:
            return bool(
                re.search(rf'/{self.arch}/[\w.-]*coco_best_coco_AP_\d+\.pth$', path)
            )
        return bool(re.search(r'(^|/)[\w.-]+_torchscript\.pt2$', path))

    def __str__(self):
        kind = 'fine-tuned on COCO' if self.finetuned else 'pre-trained'
        return f'{self.arch} {kind}'


def find(published: Published, repository: Repository) -> HubFile:
    """Return the one file of a repository that holds these weights.

    Raises:
        InputError: There is none or more than one; the message names what is there.
    """
    return _only(
        [file for file in repository.files if published.matches(file.path)],
        repository,
        what=f'weights of {published}',
    )


def fetch_weights(
    published: Published,
    folder: str | Path,
    *,
    endpoint: str | None = None,
    say: Say = print,
    on_found=lambda repository, file: None,
) -> Path:
    """Fetch published weights and open them.

    Where the hub cannot be reached, weights that are there are opened all the same.

    Args:
        published: Which.
        folder: They go into a folder in it that has the architecture's name.
        endpoint: The hub's address; that of ``HF_ENDPOINT`` unless given.
        say: Takes a line for the user.
        on_found: Called with the repository and the file before anything is fetched.

    Returns:
        The file.

    Raises:
        InputError: As :func:`~.hub.open_repository`, :func:`find`,
            :func:`~.hub.fetch` and :func:`check_weights`.
    """
    folder = Path(folder, published.arch)
    try:
        repository = open_repository(published.repo_id, endpoint=endpoint)
    except Unreachable as error:
        path = _already_there(published, folder)
        if path is None:
            raise
        say(f'{error} {path} is there, but its hash could not be compared.')
    else:
        file = find(published, repository)
        on_found(repository, file)
        path = fetch(file, folder / file.name, endpoint=endpoint, say=say)
    say(f'Opening {path}.')
    check_weights(path, published)
    return path


def check_weights(path: str | Path, published: Published) -> None:
    """Read every backbone tensor of a file and compare it with the architecture's.

    Nothing of a model's size is held in memory.

    Raises:
        InputError: The file cannot be read; a tensor of the backbone is missing, left
            over or of another shape; or a fine-tuned one has no head for COCO.
    """
    import torch

    from sapiens_plugin.core.vit.lifting import load_backbone
    from sapiens_plugin.core.vit.model import SapiensViT
    from sapiens_plugin.core.weight_files.checkpoint import open_weights

    with torch.device('meta'):
        vit = SapiensViT(
            published.arch,
            img_size=(1024, 768) if published.finetuned else (1024, 1024),
            patch_padding=2 if published.finetuned else 0,
            with_cls_token=not published.finetuned,
        )
    try:
        load_backbone(vit, path)
    except InputError as error:
        raise InputError(
            f'{path} does not hold {published}. Delete it and run the command again; '
            f'if it says the same, the published file has been changed. {error}'
        ) from None
    if published.finetuned:
        final = open_weights(path).get('head.final_layer.weight')
        keypoints = 0 if final is None else final.shape[0]
        if keypoints != _COCO_KEYPOINTS:
            raise InputError(
                f'{path} does not hold {published}: it has a head for {keypoints} '
                f'keypoints, not for {_COCO_KEYPOINTS}.'
            )


def fetch_person_detections(
    root: str | Path, *, endpoint: str | None = None, say: Say = print
) -> Path:
    """Fetch the detector's boxes that published COCO figures are measured with.

    Args:
        root: The COCO folder; they go into ``person_detection_results`` in it.
        endpoint: As in :func:`fetch_weights`.
        say: As in :func:`fetch_weights`.

    Returns:
        The file.

    Raises:
        InputError: As :func:`~.hub.open_repository` and :func:`~.hub.fetch`, or the
            repository has no such file.
    """
    path = Path(root, _DETECTIONS)
    try:
        repository = open_repository(POSE_REPOSITORY, endpoint=endpoint)
    except Unreachable as error:
        if not path.exists():
            raise
        say(f'{error} {path} is there, but its hash could not be compared.')
        return path
    found = [
        file
        for file in repository.files
        if PurePosixPath(file.path).parts[-2:] == _DETECTIONS.parts
    ]
    file = _only(found, repository, what='person detections')
    return fetch(file, path, endpoint=endpoint, say=say)


def _already_there(published: Published, folder: Path) -> Path | None:
    """Return the file that has the name of such weights, if there is just one."""
    found = [path for path in folder.glob('*') if published.matches(path.as_posix())]
    return found[0] if len(found) == 1 else None


def _only(found: list[HubFile], repository: Repository, *, what: str) -> HubFile:
    if len(found) == 1:
        return found[0]
    paths = [file.path for file in found or repository.files]
    listed = ', '.join(paths[:_MAX_LISTED]) or 'nothing'
    more = f' and {len(paths) - _MAX_LISTED} more' if len(paths) > _MAX_LISTED else ''
    raise InputError(
        f'{repository.address} has {"more than one file" if found else "no file"} that '
        f'may be the {what}: there is {listed}{more}. The repository has been '
        'rearranged: fetch the file by hand.'
    )
