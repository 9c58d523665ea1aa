"""A short run of benchmarks/fuzz_inputs.py, and what it would say of broken code."""

import importlib.util
import sys
from pathlib import Path

import pytest


@pytest.fixture(scope='module')
def fuzz_inputs():
    path = Path(__file__).parents[2] / 'benchmarks' / 'fuzz_inputs.py'
    spec = importlib.util.spec_from_file_location('fuzz_inputs', path)
    module = importlib.util.module_from_spec(spec)
    sys.modules['fuzz_inputs'] = module  # its dataclass looks for it
    spec.loader.exec_module(module)
    yield module
    del sys.modules['fuzz_inputs']


@pytest.mark.filterwarnings('ignore')
@pytest.mark.parametrize(
    'kind, seconds', [('annotations', 4), ('detections', 2), ('images', 3)]
)
def test_spoiled_inputs_are_read_or_refused(fuzz_inputs, kind, seconds, tmp_path):
    outcome = fuzz_inputs.fuzz(kind, tmp_path, seconds=seconds, seed=1)
    assert outcome.failures == {}
    # Neither is everything refused, nor is all of it good.
    assert outcome.cases > 20
    assert 0.2 < outcome.refused / outcome.cases < 0.95
    assert outcome.slowest < fuzz_inputs.SLOW
    assert outcome.growth < 30


def test_other_errors_are_failures(fuzz_inputs, monkeypatch, tmp_path):
    def broken(*args, **kwargs):
        raise KeyError('area')

    monkeypatch.setattr(fuzz_inputs, 'decode', broken)
    outcome = fuzz_inputs.fuzz('images', tmp_path, seconds=0.1, seed=1)
    assert len(outcome.failures) == outcome.cases > 0
    assert "KeyError: 'area'" in outcome.failures[0]
