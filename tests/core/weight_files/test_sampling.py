import itertools

import pytest
import torch

from sapiens_plugin.core.weight_files.sampling import sample, sample_spans


@pytest.mark.parametrize('numel', [0, 1, 1000, 1024, 1025, 5_000, 2**31 + 7])
def test_runs_are_spread_from_the_first_element_to_the_last(numel):
    spans = sample_spans(numel)
    assert spans[0][0] == 0 and spans[-1][1] == numel
    assert sum(end - begin for begin, end in spans) == min(numel, 1024)
    gaps = [b[0] - a[1] for a, b in itertools.pairwise(spans)]
    assert all(gap >= 0 for gap in gaps)
    assert not gaps or max(gaps) - min(gaps) <= 1


def test_values_are_taken_in_row_order_and_copied():
    tensor = torch.arange(6000.0).reshape(2, 30, 100)
    expected = torch.cat([tensor.flatten()[a:b] for a, b in sample_spans(6000)])
    taken = sample(tensor.transpose(0, 2).contiguous().transpose(0, 2))
    assert torch.equal(taken, expected)
    assert torch.equal(sample(torch.nn.Parameter(tensor)), expected)
    tensor.zero_()
    assert torch.equal(taken, expected)
    assert sample(torch.ones(3, dtype=torch.bfloat16)).dtype == torch.bfloat16
