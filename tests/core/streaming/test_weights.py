import pytest
import torch
from torch import nn
from toy_chain import CPU, Net

from sapiens_plugin.core.streaming.stage import Stage, owners_of
from sapiens_plugin.core.streaming.weights import SlotWeights


def test_a_slot_is_one_piece():
    """The allocator takes memory in units of 2 MiB, which many pieces would waste."""
    stages = [Stage(None, owners_of(block)) for block in Net(4).blocks]
    weights = SlotWeights(stages, device=CPU, slots=3, lookahead=1)
    try:
        params = stages[0].params
        size = sum(-(-param.nbytes // 512) * 512 for param in params)
        (pool,) = weights._pools.values()
        assert len(pool) == 3
        for slot in pool:
            pieces = {tensor.untyped_storage().data_ptr() for tensor in slot.tensors}
            assert len(pieces) == 1
            assert slot.tensors[0].untyped_storage().nbytes() == size
            for tensor, param in zip(slot.tensors, params, strict=True):
                assert tensor.shape == param.shape and tensor.is_contiguous()
                assert tensor.storage_offset() * tensor.itemsize % 512 == 0
    finally:
        weights.close()


@pytest.mark.parametrize('dtype', [torch.float32, torch.bfloat16])
def test_parameters_in_a_slot_do_not_touch(dtype):
    """Sizes that are no multiples of the allocator's unit, and types that are mixed."""
    module = nn.ParameterList(
        [torch.full([n], float(n), dtype=dtype) for n in (1, 127, 129, 300)]
        + [torch.full([5], 5.0)]
    )
    stage = Stage(None, owners_of(module))
    weights = SlotWeights([stage], device=CPU, slots=1, lookahead=0)
    try:
        weights.start([0])
        (leaves,) = weights.enter([0])
        weights.arrive(0)
        for leaf, param in zip(leaves, stage.params, strict=True):
            assert torch.equal(leaf, param)
    finally:
        weights.close()
