# python3 tools/train.py configs/sapiens1b_coco_1024x768.py
#
# Sapiens-1B at its published resolution, for the published COCO checkpoints and for
# training like them on large GPUs (the authors used 16 A100s for about a week).
#
# GPU memory, computed by tools/plan.py for training at 1 image: 23 GiB (24 GB). Weights,
# gradients and moments take 17.4 GiB, layer boundaries 0.7, AdamW's step 3.7, CUDA and
# gaps the rest. For tools/test.py: 7.1 GiB.
_base_ = '_base_/sapiens_pose.py'

model = dict(backbone=dict(with_cp=True))
train_dataloader = dict(batch_size=1, num_workers=4)
val_dataloader = dict(batch_size=4)
test_dataloader = dict(batch_size=4)

# MMPose's schedule for ViTs. With N GPUs the effective batch is 16 × N.
train_cfg = dict(max_epochs=210, val_interval=10)
optim_wrapper = dict(accumulative_counts=16)
auto_scale_lr = dict(enable=False, base_batch_size=1)
param_scheduler = [
    dict(
        type='sapiens_plugin.WarmupLR',
        optimizer_steps=500,
        start_factor=1e-3,
        convert_to_iter_based=True,
    ),
    dict(type='MultiStepLR', begin=0, end=210, milestones=[170, 200], gamma=0.1),
]
