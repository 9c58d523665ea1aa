"""Fetch Sapiens weights from the Hugging Face hub, verified and opened."""

from bootstrap import ROOT, enter_environment

enter_environment()

import argparse  # noqa: E402  (only there in the environment, as all that follows)
from pathlib import Path  # noqa: E402

from sapiens_plugin.core.utils.amounts import gigabytes  # noqa: E402
from sapiens_plugin.workbench.command import run  # noqa: E402
from sapiens_plugin.workbench.download.hub import HubFile, Repository  # noqa: E402
from sapiens_plugin.workbench.download.weights import SIZES, Published, fetch_weights  # noqa: E402

DATA = ROOT / 'data' / 'pretrained'


def main() -> None:
    """Run the command line."""
    parser = argparse.ArgumentParser(
        description='Fetch published Sapiens weights from the Hugging Face hub into '
        'data/pretrained, where the configs expect them. A cut download goes on where '
        'it stopped; size and hash are compared with those that the hub has, and every '
        'tensor with the architecture.',
        epilog='examples:\n'
        '  python3 tools/download_pretrained.py 1b\n'
        '  python3 tools/download_pretrained.py 0.3b --finetuned\n\n'
        'HF_ENDPOINT (a mirror), HF_TOKEN, HF_HUB_OFFLINE, HTTPS_PROXY are honoured.',
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument(
        'size',
        nargs='?',
        type=str.lower,
        choices=SIZES,
        default='1b',
        help='size of the model (default: 1b)',
    )
    parser.add_argument(
        '--finetuned',
        action='store_true',
        help='the published COCO pose model (17 keypoints, 1024×768), to be tested, '
        'in place of the pre-trained backbone',
    )
    parser.add_argument(
        '--dir',
        type=Path,
        default=DATA,
        metavar='FOLDER',
        help='in which sapiens_SIZE/ is made (default: data/pretrained)',
    )
    args = parser.parse_args()
    published = Published(args.size, args.finetuned)
    if args.finetuned:
        # Checkpoints of MMEngine hold more than tensors.
        from sapiens_plugin.compat.unpickling import allow_mmengine_checkpoints

        allow_mmengine_checkpoints()
    path = fetch_weights(published, args.dir.resolve(), on_found=_announce)
    print(f'\n{path} holds {published}, whole.\n{_use(published, path)}')


def _announce(repository: Repository, file: HubFile) -> None:
    print(
        f'{file.name}, {gigabytes(file.size)}, from {repository.address} at commit '
        f'{repository.commit[:12]}'
    )
    link = f' ({repository.licence_link})' if repository.licence_link else ''
    if repository.licence:
        print(f'Licence, as the repository names it: {repository.licence}{link}')
    else:
        print(f'The repository names no licence; look at {repository.address}')
    print(
        "The Sapiens weights come under Meta's own licence. Read it before you use "
        'them, above all for commercial work.',
        flush=True,
    )


def _use(published: Published, path: Path) -> str:
    """Say which configs use the file, or how they are told of it."""
    from sapiens_plugin.recipe import PRETRAINED

    configs = ROOT / 'configs'
    if published.finetuned:
        config = configs / f'{published.arch.replace("_", "")}_coco_1024x768.py'
        return f'Test it: python3 tools/test.py {_relative(config)} {_relative(path)}'
    files = sorted(configs.glob(f'sapiens{published.size}_*.py'))
    names = ', '.join(str(_relative(file)) for file in files)
    if path == DATA / published.arch / PRETRAINED[published.arch]:
        return f'It is what these train from: {names}'
    return (
        f'These could train from it: {names}; give them --cfg-options '
        f'model.backbone.init_cfg.checkpoint={path}'
    )


def _relative(path: Path) -> Path:
    return path.relative_to(ROOT) if path.is_relative_to(ROOT) else path


if __name__ == '__main__':
    run('tools/download_pretrained.py', main)
