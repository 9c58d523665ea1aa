"""Package metadata; the versions of what it needs are pinned in ``requirements/``."""

import re
from pathlib import Path

from setuptools import find_packages, setup

ROOT = Path(__file__).resolve().parent


def requirements(name: str) -> list[str]:
    """Return the requirements in ``requirements/<name>.txt``, without comments."""
    path = ROOT / 'requirements' / f'{name}.txt'
    lines = path.read_text(encoding='utf-8').splitlines()
    return [line.strip() for line in lines if line.strip() and line[0] != '#']


def version() -> str:
    """Return the package's version, importing nothing."""
    source = (ROOT / 'sapiens_plugin' / '__init__.py').read_text(encoding='utf-8')
    return re.search(r"^__version__ = '(.+)'$", source, re.MULTILINE)[1]


setup(
    name='sapiens_plugin',
    version=version(),
    description="Meta's Sapiens pose models in stock MMPose",
    license='Apache-2.0',
    python_requires='>=3.11,<3.12',
    packages=find_packages(include=['sapiens_plugin', 'sapiens_plugin.*']),
    install_requires=requirements('runtime'),
    extras_require={'dev': requirements('dev'), 'wandb': requirements('wandb')},
    classifiers=[
        'Programming Language :: Python :: 3.11',
        'Topic :: Scientific/Engineering :: Artificial Intelligence',
    ],
)
