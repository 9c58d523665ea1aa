# What every job shares: registration, hooks, logging, seeds.
default_scope = 'mmpose'
# This one import repairs the stack for current PyTorch and registers the plugin.
custom_imports = dict(imports=['sapiens_plugin.registry'], allow_failed_imports=False)

# Each hook has a name, so that --cfg-options default_hooks.NAME.SETTING=... reaches it;
# default_hooks.NAME=None turns it off. Hooks of one priority act in this order.
default_hooks = dict(
    timer=dict(type='IterTimerHook'),
    logger=dict(type='LoggerHook', interval=50),
    # What the log line says of speed and of the time left; a bar on a terminal.
    status=dict(type='sapiens_plugin.StatusHook', priority='NORMAL'),
    # Predicted and true poses of a few validation persons, for all backends below.
    pictures=dict(
        type='sapiens_plugin.ValidationPicturesHook', priority='NORMAL', count=8
    ),
    # report.html at the end, and the best validation's predictions for it.
    report=dict(type='sapiens_plugin.ReportHook', priority='LOWEST'),
    # Schedules count optimizer steps, not the micro-batches of accumulation.
    param_scheduler=dict(
        type='sapiens_plugin.OptimStepParamSchedulerHook', priority='LOW'
    ),
    # A checkpoint to resume from holds weights and both Adam moments: 12 bytes a
    # parameter (14 GB at 1B). The best ones hold weights alone.
    checkpoint=dict(
        type='sapiens_plugin.CheckpointHook',
        priority='VERY_LOW',
        interval_minutes=30,  # iter_N.pth, of which the newest two are kept
        interval=5,
        max_keep_ckpts=1,
        save_best='coco/AP',
        save_last=True,
    ),
    sampler_seed=dict(type='DistSamplerSeedHook'),
    visualization=dict(type='PoseVisualizationHook', enable=False),
    badcase=dict(
        type='BadCaseAnalysisHook',
        enable=False,
        out_dir='badcase',
        metric_type='loss',
        badcase_thr=5,
    ),
    images=dict(type='sapiens_plugin.ImageCheckHook', priority='NORMAL'),
    # Images that cannot be read: listed in skipped.txt; above 1% they stop the run.
    skipped_images=dict(type='sapiens_plugin.SkippedImagesHook', priority='LOWEST'),
    checkpoint_guard=dict(type='sapiens_plugin.CheckpointGuardHook', priority='NORMAL'),
    # Weights that were announced are there; what trains moves, what is frozen does not.
    weights_guard=dict(type='sapiens_plugin.WeightsGuardHook', priority='NORMAL'),
    # Steps with a loss that is not finite, or ten times the usual, are left out.
    step_guard=dict(
        type='sapiens_plugin.StepGuardHook', priority='LOWEST', spike_factor=10.0
    ),
    # Ctrl-C and SIGTERM save first.
    interrupt=dict(type='sapiens_plugin.InterruptHook', priority='LOWEST'),
    # Flip testing doubles the time: not while training, but in tools/test.py.
    flip_test=dict(
        type='sapiens_plugin.FlipTestHook', priority='NORMAL', val=False, test=True
    ),
)
# MMEngine's hooks, and your own, go into custom_hooks.
# Resumes at the next batch. The job says max_epochs.
train_cfg = dict(type='sapiens_plugin.ResumableTrainLoop', val_interval=1)

vis_backends = [
    dict(type='LocalVisBackend'),
    dict(type='TensorboardVisBackend'),
    dict(type='sapiens_plugin.CsvVisBackend'),  # WORK_DIR/metrics.csv
    # dict(type='WandbVisBackend'),  # Weights & Biases: pip install wandb
]
visualizer = dict(
    type='PoseLocalVisualizer', vis_backends=vis_backends, name='visualizer'
)
log_processor = dict(
    type='sapiens_plugin.StatusLogProcessor',
    window_size=50,
    by_epoch=True,
    num_digits=6,
    mean_pattern='.*(loss|acc|time|grad_norm).*',
)
log_level = 'INFO'

env_cfg = dict(
    cudnn_benchmark=False,
    mp_cfg=dict(mp_start_method='fork', opencv_num_threads=0),
    # Others wait while one process saves 14 GB to a slow disk, or works out the AP.
    dist_cfg=dict(backend='nccl', timeout=3600),  # seconds
)
randomness = dict(seed=0)
load_from = None
resume = False
