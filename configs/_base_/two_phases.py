# Phase 1: 10 epochs, the head alone. Phase 2: 100 epochs, everything, cosine.
# Validation without flip costs 4% of an epoch of phase 1, and 1% of one of phase 2.
_base_ = 'runtime.py'

warmup_epochs, max_epochs = 10, 110
train_cfg = dict(
    type='sapiens_plugin.ResumableTrainLoop', max_epochs=max_epochs, val_interval=1
)
# Each phase starts from 1/1000 of its rate and rises over 500 optimizer steps.
param_scheduler = [
    *(
        dict(
            type='sapiens_plugin.WarmupLR',
            begin=begin,
            optimizer_steps=500,
            start_factor=1e-3,
            convert_to_iter_based=True,
        )
        for begin in (0, warmup_epochs)
    ),
    dict(
        type='CosineAnnealingLR',
        begin=warmup_epochs,
        end=max_epochs,
        eta_min=0.0,
        convert_to_iter_based=True,
    ),
]
custom_hooks = [
    *_base_.custom_hooks,
    dict(type='sapiens_plugin.PhaseSwitchHook', warmup_epochs=warmup_epochs),
]
