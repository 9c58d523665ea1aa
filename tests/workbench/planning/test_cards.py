"""The table of cards."""

import pytest
import torch

from sapiens_plugin.errors import InputError
from sapiens_plugin.workbench.planning.cards import CARDS, get_card

PROMISED = {
    'gtx1650-maxq', 'gtx1650', 'rtx3050-4gb', 'rtx3060', 'rtx4090', 't4', 'a100', 'h100'
}  # fmt: skip


def test_the_promised_cards_are_there_with_their_sources():
    assert CARDS.keys() >= PROMISED
    for card in CARDS.values():
        assert 'assumed' in card.source or 'report' in card.source
        assert card.vram_mib > 3000 and card.bus_gb_s > 0 and card.host_gb_s > 0


@pytest.mark.parametrize(
    'name, dtype, scaled',
    [
        ('gtx1650-maxq', torch.float32, False),  # no tensor cores
        ('gtx1650', torch.float32, False),
        ('t4', torch.float16, True),  # tensor cores, but no bfloat16
        ('rtx3050-4gb', torch.bfloat16, False),
        ('a100', torch.bfloat16, False),
    ],
)
def test_the_precision_is_what_a_job_would_choose_there(name, dtype, scaled):
    precision = get_card(name).precision('auto')
    assert (precision.dtype, precision.loss_scaling) == (dtype, scaled)
    assert get_card(name).speed(dtype) == max(
        get_card(name).tflops[kind] * 1e12 for kind in ('float32', 'float16')
    )


def test_what_gives_wrong_values_is_refused():
    with pytest.raises(InputError, match='no tensor cores'):
        get_card('gtx1650').precision('float16')


def test_names_are_found_as_people_write_them():
    assert get_card('RTX 3060') is CARDS['rtx3060']
    with pytest.raises(InputError, match=r'gtx9000 is not in the table.*rtx3060'):
        get_card('gtx9000')


def test_a_card_can_be_limited_and_never_grows():
    card = get_card('gtx1650')
    assert card.limited(None) == card.limited(8192) == card
    assert card.limited(1024.9).vram_mib == 1024
