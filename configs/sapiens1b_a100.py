# python3 tools/train.py configs/sapiens1b_a100.py
#
# Sapiens-1B at 512×384 on a large GPU, 32 images at once, in bf16 on top of fp32
# weights.
#
# GPU memory, computed by tools/plan.py: 35 GiB. Weights, gradients and moments take
# 17.4 GiB; layer boundaries (autocast keeps the residual stream in fp32) and bf16 copies
# of weights 7.7; one recomputed layer and the head 7.7; CUDA and gaps the rest. Several
# GPUs take 4.3 GiB more each, for gradients on their way.
_base_ = '_base_/sapiens_pose.py'
from sapiens_plugin.recipe import recipe, resized, two_phases

globals().update(
    recipe(
        _base_,
        resized(512, 384, sigma=3),
        two_phases(warmup_epochs=10, max_epochs=110),
        dict(
            # with_cp=False saves a quarter of the time and takes 50 GB more.
            model=dict(backbone=dict(with_cp=True)),
            train_dataloader=dict(batch_size=32, num_workers=8),
            val_dataloader=dict(batch_size=64, num_workers=8),
            test_dataloader=dict(batch_size=64, num_workers=8),
            # bfloat16 has float32's range, so losses need no scaling.
            optim_wrapper=dict(
                type='AmpOptimWrapper', dtype='bfloat16', loss_scale=1.0
            ),
            auto_scale_lr=dict(enable=False, base_batch_size=32),
        ),
    )
)
