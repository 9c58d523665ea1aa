from pathlib import Path

import pytest
import torch
from mmengine.hooks import Hook

from sapiens_plugin.engine.hooks.phase_switch_hook import PhaseSwitchHook
from sapiens_plugin.errors import InputError


class Probe(Hook):
    """Notes the state of the model at each epoch's first iteration."""

    def __init__(self):
        self.epochs = []
        self.weights = []
        self.head_gradients = []
        self.lr = []

    def before_train_iter(self, runner, batch_idx, data_batch=None):
        if batch_idx:
            return
        model = runner.model
        self.epochs.append(
            dict(
                epoch=runner.epoch,
                backbone_mode=model.backbone.training,
                head_mode=model.head.training,
                trains=model.backbone.layers[0].attn.qkv.weight.requires_grad,
            )
        )
        self.weights.append(snapshot(model))
        self.head_gradients.append(model.head.final_layer.weight.grad)
        groups = runner.optim_wrapper.optimizer.param_groups
        self.lr.append({g['group_name']: g['lr'] for g in groups})


def snapshot(model):
    return {name: p.detach().clone() for name, p in model.state_dict().items()}


def changed(before, after):
    return {name for name in after if not torch.equal(before[name], after[name])}


def set_warmup(cfg, epochs):
    cfg.default_hooks.phase_switch.warmup_epochs = epochs


def test_phase_1_moves_the_head_alone_and_phase_2_everything(demo_config, make_runner):
    set_warmup(demo_config, 1)
    probe = Probe()
    runner = make_runner(demo_config, probe)
    model = runner.train()
    first, second = (
        changed(*probe.weights[:2]),
        changed(probe.weights[1], snapshot(model)),
    )
    assert first == {name for name in snapshot(model) if name.startswith('head.')}
    assert second == set(snapshot(model))
    assert [e['backbone_mode'] for e in probe.epochs] == [False, True, True]
    assert [e['trains'] for e in probe.epochs] == [False, True, True]
    assert all(e['head_mode'] for e in probe.epochs)


def test_no_gradient_is_computed_through_a_frozen_backbone(demo_config, make_runner):
    runner = make_runner(demo_config)
    runner.model.backbone.set_frozen(True)
    runner.model.train()
    assert not runner.model.backbone.training
    (features,) = runner.model.backbone(torch.randn(1, 3, 128, 96))
    assert not features.requires_grad
    runner.model.backbone.set_frozen(False)
    assert runner.model.backbone(torch.randn(1, 3, 128, 96))[0].requires_grad


def test_the_optimizer_holds_everything_from_the_start_at_its_own_rate(
    demo_config, make_runner
):
    set_warmup(demo_config, 1)
    demo_config.optim_wrapper.paramwise_cfg.layer_decay_rate = 0.5
    demo_config.param_scheduler = None
    probe = Probe()
    runner = make_runner(demo_config, probe)
    runner.train()
    lr = runner.optim_wrapper.optimizer.defaults['lr']
    for rates in probe.lr:  # before and after the switch
        assert rates['layer_3_decay'] == lr  # the head
        assert rates['layer_2_decay'] == pytest.approx(lr * 0.5)
        assert rates['layer_0_no_decay'] == pytest.approx(lr * 0.125)
    # And the optimizer has moved what it held.
    state = runner.optim_wrapper.optimizer.state
    assert all(param in state for param in runner.model.parameters())


def test_frozen_parameters_gather_no_optimizer_state(demo_config, make_runner):
    set_warmup(demo_config, 2)
    held = []

    class AtTheSwitch(Hook):
        def before_train_epoch(self, runner):
            held.append(set(runner.optim_wrapper.optimizer.state))

    runner = make_runner(demo_config, AtTheSwitch())
    runner.train()
    assert held[1] == held[2] == set(runner.model.head.parameters())


def test_gradients_do_not_leak_over_the_switch(demo_config, make_runner):
    set_warmup(demo_config, 1)
    demo_config.train_cfg = dict(by_epoch=True, max_epochs=3)  # MMEngine's own loop
    demo_config.default_hooks.checkpoint.interval_minutes = None
    demo_config.optim_wrapper.accumulative_counts = 4  # 3 batches an epoch
    probe = Probe()
    runner = make_runner(demo_config, probe)
    runner.train()
    assert probe.head_gradients[1] is None
    # Between epochs without a switch, accumulation goes on as it does in MMEngine.
    assert probe.head_gradients[2] is not None


def test_the_switch_is_logged_with_its_parameter_counts(demo_config, make_runner):
    set_warmup(demo_config, 1)
    demo_config.train_cfg = dict(by_epoch=True, max_epochs=3)
    demo_config.default_hooks.checkpoint.interval_minutes = None
    demo_config.optim_wrapper.accumulative_counts = 4
    runner = make_runner(demo_config)
    runner.train()
    log = next(Path(runner.log_dir).glob('*.log'))
    text = log.read_text(encoding='utf-8')
    head = sum(p.numel() for p in runner.model.head.parameters())
    total = sum(p.numel() for p in runner.model.parameters())
    assert f'Phase 1 (head alone) from epoch 1: {head:,} of {total:,}' in text
    assert f'Phase 2 (full fine-tuning) from epoch 2: {total:,} of {total:,}' in text
    assert 'gradients of 3 micro-batches that filled no optimizer step' in text


@pytest.mark.parametrize('saved_epoch', [1, 2, 3])
def test_a_resumed_run_equals_an_uninterrupted_one(
    demo_config, make_runner, saved_epoch
):
    """Resume inside phase 1, at the switch, and inside phase 2 (warm-up of 2 of 4)."""
    set_warmup(demo_config, 2)
    demo_config.train_cfg.max_epochs = 4
    demo_config.default_hooks.checkpoint = dict(type='CheckpointHook', interval=1)
    whole = snapshot(make_runner(demo_config).train())
    demo_config.resume = True
    demo_config.load_from = f'{demo_config.work_dir}/epoch_{saved_epoch}.pth'
    demo_config.work_dir += '_resumed'
    probe = Probe()
    resumed = snapshot(make_runner(demo_config, probe).train())
    assert not changed(whole, resumed)
    assert [e['trains'] for e in probe.epochs] == [False, False, True, True][
        saved_epoch:
    ]


def test_frozen_stages_stay_frozen_in_phase_2(demo_config, make_runner):
    set_warmup(demo_config, 1)
    demo_config.model.backbone.frozen_stages = 1
    probe = Probe()
    runner = make_runner(demo_config, probe)
    model = runner.train()
    still = set(snapshot(model)) - changed(probe.weights[0], snapshot(model))
    held = ('backbone.pos_embed', 'backbone.patch_embed.', 'backbone.layers.0.')
    assert still == {name for name in snapshot(model) if name.startswith(held)}


def test_an_optimizer_without_the_backbone_is_refused(demo_config, make_runner):
    runner = make_runner(demo_config)
    runner.model.backbone.layers.requires_grad_(False)  # before the optimizer is built
    with pytest.raises(InputError, match=r'24 parameters that phase 2 should train'):
        runner.train()


def test_training_by_iterations_is_refused(demo_config, make_runner):
    demo_config.train_cfg = dict(by_epoch=False, max_iters=2)
    demo_config.param_scheduler = None
    with pytest.raises(InputError, match='counts epochs'):
        make_runner(demo_config).train()


def test_a_warmup_that_takes_the_whole_job_is_said(demo_config, make_runner):
    set_warmup(demo_config, 3)
    runner = make_runner(demo_config)
    runner.train()
    (log,) = Path(runner.log_dir).glob('*.log')
    assert 'The backbone will not train at all' in log.read_text(encoding='utf-8')


def test_a_negative_warmup_is_refused():
    with pytest.raises(InputError, match='warmup_epochs=-1'):
        PhaseSwitchHook(warmup_epochs=-1)
