import numpy as np
import pytest
from mmengine.dataset import pseudo_collate
from mmpose.registry import DATASETS
from torch.utils.data import BatchSampler, DataLoader

from sapiens_plugin.engine.hooks import validation_pictures_hook
from sapiens_plugin.engine.hooks.validation_pictures_hook import ValidationPicturesHook
from sapiens_plugin.errors import InputError


@pytest.fixture
def runner(demo_config, make_runner):
    demo_config.val_dataloader.batch_size = 4
    demo_config.default_hooks.pictures.count = 4
    demo_config.default_hooks.checkpoint = dict(type='CheckpointHook')
    return make_runner(demo_config)


@pytest.fixture
def drawn(monkeypatch):
    """What is drawn, in its order."""
    calls = []

    def note(image, **kwargs):
        calls.append(dict(image=image, **kwargs))
        return np.zeros((4, 4, 3), np.uint8)

    monkeypatch.setattr(validation_pictures_hook, 'draw_pair', note)
    return calls


def test_the_same_few_persons_are_drawn_every_time(runner, drawn, monkeypatch):
    sheets = []
    monkeypatch.setattr(
        runner.visualizer, 'add_image', lambda *args, **kwargs: sheets.append(args)
    )
    runner.val()
    runner.val_loop.run()
    total = len(runner.val_dataloader.dataset)
    assert len(drawn) == 2 * 4 and total == 8
    for call, again, number in zip(drawn, drawn[4:], range(4), strict=False):
        sample = runner.val_dataloader.dataset[number * total // 4]['inputs']
        rgb = sample.permute(1, 2, 0).numpy()[..., ::-1]
        assert np.array_equal(call['image'], rgb)
        assert np.array_equal(again['image'], rgb)
    assert [name for name, _ in sheets] == ['validation_persons'] * 2
    assert sheets[0][1].shape == sheets[1][1].shape


def test_the_truth_is_where_it_is_in_the_crop(runner, drawn):
    cfg = runner.cfg.val_dataloader.dataset
    # Without its last step the pipeline shows what it made of the keypoints.
    packing = cfg.pipeline.pop()
    data = DATASETS.build(cfg)
    assert packing.type == 'PackPoseInputs'
    runner.val()
    for call, number in zip(drawn, range(4), strict=True):
        result = data[number * len(data) // 4]
        (expected,) = result['transformed_keypoints']
        seen = result['keypoints_visible'][0] > 0
        assert np.array_equal(call['true_shown'], seen)
        assert np.abs(call['true'] - expected)[seen].max() < 0.01  # px


def test_predictions_are_drawn_alike_but_weak_ones_left_out(runner, drawn):
    data = runner.val_dataloader.dataset
    batch = pseudo_collate([data[0]])
    runner.model.eval()
    (sample,) = runner.model.test_step(batch)
    sample.pred_instances.keypoint_scores = np.linspace(0, 1, 17)[None]
    sample.pred_instances.keypoints = sample.gt_instances.keypoints
    hook = ValidationPicturesHook(count=1, min_score=0.5)
    hook.after_val_iter(runner, 0, batch, [sample])
    assert drawn[0]['predicted_shown'].tolist() == [False] * 8 + [True] * 9
    assert np.array_equal(drawn[0]['predicted'], drawn[0]['true'])


def test_batches_of_any_size_are_counted(runner, drawn):
    loader = runner.val_dataloader
    data = loader.dataset
    runner.val_loop.dataloader = runner._val_dataloader = DataLoader(
        data,
        batch_sampler=BatchSampler(range(8), batch_size=3, drop_last=False),
        collate_fn=pseudo_collate,
    )
    runner.val()
    assert len(drawn) == 4
    for call, number in zip(drawn, (0, 2, 4, 6), strict=True):
        rgb = data[number]['inputs'].permute(1, 2, 0).numpy()[..., ::-1]
        assert np.array_equal(call['image'], rgb)


def without_truth(sample):
    del sample.gt_instances


def with_few_scores(sample):
    sample.pred_instances.keypoint_scores = np.ones((1, 3))


@pytest.mark.parametrize('spoil', [without_truth, with_few_scores])
def test_what_cannot_be_drawn_is_a_warning_once(spoil, runner, monkeypatch):
    warnings = []
    monkeypatch.setattr(runner.logger, 'warning', warnings.append)
    data = runner.val_dataloader.dataset
    batch = pseudo_collate([data[0], data[1]])
    runner.model.eval()
    samples = runner.model.test_step(batch)
    hook = ValidationPicturesHook(count=8)
    hook.before_val_epoch(runner)
    for sample in samples:
        spoil(sample)
    for index in range(3):
        hook.after_val_iter(runner, index, batch, samples)
    hook.after_val_epoch(runner, {})
    assert len(warnings) == 1 and 'ValidationPicturesHook has failed' in warnings[0]


def test_a_data_set_without_a_skeleton_is_drawn_in_points(runner, monkeypatch):
    meta = runner.val_dataloader.dataset._metainfo
    for key in ('skeleton_links', 'skeleton_link_colors'):
        meta.pop(key)
    for metric in runner.val_loop.evaluator.metrics:
        metric._dataset_meta = dict(meta)
    sheets = []
    monkeypatch.setattr(
        runner.visualizer, 'add_image', lambda *args, **kwargs: sheets.append(args)
    )
    hook = ValidationPicturesHook(count=2)
    hook.before_val_epoch(runner)
    data = runner.val_dataloader.dataset
    meta['skeleton_links'] = []  # which MMPose's own reading asks for
    batch = pseudo_collate([data[0], data[1]])
    runner.model.eval()
    hook.after_val_iter(runner, 0, batch, runner.model.test_step(batch))
    hook.after_val_epoch(runner, {})
    assert len(sheets) == 1 and not hook._skeletons


def test_none_are_drawn_for_a_count_of_0(runner, drawn, monkeypatch):
    (hook,) = (h for h in runner.hooks if isinstance(h, ValidationPicturesHook))
    hook.count = 0
    monkeypatch.setattr(runner.visualizer, 'add_image', None)
    runner.val()
    assert not drawn


def test_a_negative_count_is_refused():
    with pytest.raises(InputError, match='count=-1'):
        ValidationPicturesHook(count=-1)
