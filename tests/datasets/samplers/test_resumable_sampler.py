"""The order of samples, and samples of their own seeds."""

import random

import numpy as np
import pytest
import torch
from mmengine.dataset import BaseDataset, DefaultSampler
from mmengine.registry import DATASETS
from mmengine.structures import BaseDataElement
from torch.utils.data import DataLoader

from sapiens_plugin.datasets.samplers.resumable_sampler import ResumableSampler
from sapiens_plugin.datasets.seeded_dataset import SeededDataset
from sapiens_plugin.errors import InputError, UnreadableImage


def order(sampler, **place):
    sampler.go_to(**place)
    return list(sampler)


def test_an_epoch_goes_on_anywhere_as_it_would_have():
    sampler = ResumableSampler(range(50), seed=3)
    whole = order(sampler, seed=3, epoch=2, start=0)
    assert (
        order(ResumableSampler(range(50), seed=9), seed=3, epoch=2, start=17)
        == (whole[17:])
    )
    assert order(sampler, seed=3, epoch=2, start=50) == []
    assert len(sampler) == 50  # however little is left
    assert sorted(index for _, index in whole) == list(range(50))


def test_epochs_and_seeds_give_other_orders_and_other_seeds():
    sampler = ResumableSampler(range(50), seed=0)
    places = [(0, 0), (0, 1), (1, 0), (1, 1)]
    runs = [order(sampler, seed=s, epoch=e, start=0) for s, e in places]
    assert len({tuple(index for _, index in run) for run in runs}) >= 3
    seeds = {seed for run in runs for seed, _ in run}
    assert len(seeds) == 4 * 50


def test_another_loop_gets_the_indices_of_the_stock_sampler():
    own, stock = (kind(range(9), seed=4) for kind in (ResumableSampler, DefaultSampler))
    for epoch in range(3):
        own.set_epoch(epoch)
        stock.set_epoch(epoch)
        assert list(own) == list(stock)


def test_a_shortened_epoch_leaves_out_others_each_time():
    sampler = ResumableSampler(range(10), seed=0)
    sampler.shorten(8)
    assert len(sampler) == 8
    left_out = set()
    for epoch in range(20):
        indices = {i for _, i in order(sampler, seed=0, epoch=epoch, start=0)}
        assert len(indices) == 8
        left_out |= set(range(10)) - indices
    assert left_out == set(range(10))


class Noise:
    """A transform that draws from every generator; image 3 cannot be read."""

    def __call__(self, results):
        if results['index'] in results['bad']:
            raise UnreadableImage(f'{results["index"]}.jpg', 'cut short')
        drawn = [random.random(), np.random.rand(), torch.rand(()).item()]
        sample = BaseDataElement(metainfo=dict(index=results['index']))
        return dict(inputs=torch.tensor(drawn), data_samples=sample)


@DATASETS.register_module()
class NoiseDataset(BaseDataset):
    METAINFO = dict(kind='noise')

    def __init__(self, bad=()):
        self.bad = bad
        super().__init__(pipeline=[Noise()])

    def load_data_list(self):
        return [dict(index=i, bad=self.bad) for i in range(8)]


def make(**kwargs):
    return SeededDataset(dict(type=NoiseDataset, **kwargs))


def test_a_sample_depends_on_its_seed_alone():
    dataset = make()
    assert dataset.metainfo == dict(kind='noise') and len(dataset) == 8
    first = dataset[5, 2]['inputs']
    dataset[6, 3], torch.rand(9)
    assert torch.equal(dataset[5, 2]['inputs'], first)
    assert (dataset[6, 2]['inputs'] != first).all()  # each generator


def test_the_generators_of_the_process_are_left_alone():
    def draw(between):
        random.seed(1), np.random.seed(1), torch.manual_seed(1)
        between()
        return random.random(), np.random.rand(), torch.rand(()).item()

    dataset = make()
    assert draw(lambda: dataset[5, 2]) == draw(lambda: None)


@pytest.mark.parametrize('workers', [1, 2])
def test_the_number_of_workers_has_no_say(workers):
    def inputs(num_workers):
        dataset = make()
        sampler = ResumableSampler(dataset, seed=0)
        sampler.go_to(seed=7, epoch=1, start=2)
        loader = DataLoader(
            dataset,
            sampler=sampler,
            num_workers=num_workers,
            collate_fn=lambda batch: batch[0]['inputs'],
        )
        return torch.stack(list(loader))

    assert torch.equal(inputs(0), inputs(workers))


def test_another_sample_comes_in_the_place_of_an_unreadable_one():
    dataset = make(bad=(3, 4))
    chosen = set()
    for seed in range(30):
        sample = dataset[seed, 3]['data_samples']
        assert sample.skipped_images[0] == ('3.jpg', 'cut short')
        assert dataset[seed, 3]['data_samples'].index == sample.index
        assert sample.index not in (3, 4)
        chosen.add(sample.index)
    assert len(chosen) > 3
    assert 'skipped_images' not in dataset[0, 5]['data_samples']


def test_data_of_which_nothing_can_be_read_are_an_error():
    dataset = make(bad=range(8))
    with pytest.raises(InputError, match=r'20 training images in a row.*cut short'):
        dataset[0, 0]
    # Through a worker, too: its exceptions are made anew from their messages.
    loader = DataLoader([(0, 0)], num_workers=1, collate_fn=lambda b: dataset[b[0]])
    with pytest.raises(InputError, match='20 training images in a row'):
        next(iter(loader))
