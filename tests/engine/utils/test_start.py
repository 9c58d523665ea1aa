import ast
from pathlib import Path

import pytest
import torch
from mmengine.optim import OptimWrapper

import sapiens_plugin
from sapiens_plugin.engine.utils.accumulation import accumulation
from sapiens_plugin.engine.utils.start import Place

PACKAGE = Path(sapiens_plugin.__file__).parent


def test_one_file_alone_touches_what_a_runner_keeps_to_itself():
    touching = {}
    for path in PACKAGE.rglob('*.py'):
        for node in ast.walk(ast.parse(path.read_text('utf-8'))):
            if isinstance(node, ast.Attribute) and node.attr.startswith('_'):
                if ast.unparse(node.value).endswith('runner'):
                    name = path.relative_to(PACKAGE).as_posix()
                    touching.setdefault(name, set()).add(node.attr)
    assert touching == {
        'engine/utils/start.py': {
            '_resume', '_load_from', '_has_loaded', '_init_model_weights'
        }
    }  # fmt: skip


@pytest.mark.parametrize('place', [Place(2, 13, True, 6), Place(3, 18, False, 6)])
def test_a_place_is_read_as_it_was_written(place):
    assert Place.of(dict(place._asdict(), seed=1)) == place


def test_stock_hooks_write_less():
    assert Place.of(dict(epoch=2, iter=12)) == Place(2, 12, False, None)


def test_the_accumulation_is_that_of_the_wrapper_or_its_config():
    optimizer = torch.optim.SGD([torch.nn.Parameter(torch.ones(1))], lr=1)
    assert accumulation(OptimWrapper(optimizer, accumulative_counts=3)) == 3
    assert accumulation(dict(accumulative_counts=4)) == 4
    assert accumulation({}) == 1
