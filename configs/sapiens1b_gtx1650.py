# python3 tools/train.py configs/sapiens1b_gtx1650.py
#
# Sapiens-1B at 384×288 for one GPU of 4 GB: 10 epochs of the head alone, then 100
# epochs of everything, at an effective batch of 2 × 16.
#
# The weights stay in host memory and visit the GPU block by block. Host memory, the
# loaders' workers included: 12 GB; with model.mode='exact', which gives the bits of
# ordinary training, 22 GB.
#
# Time, computed at 2 TFLOPS (a GTX 1650 Max-Q; `python3 tools/plan.py
# configs/sapiens1b_gtx1650.py --gpu gtx1650-maxq`): 26 h an epoch of phase 1 and 91 h an
# epoch of phase 2, so more than a year. See sapiens1b_gtx1650_week.py for a job that ends
# within a week. Validation takes 1 h, so it can come after every epoch.
_base_ = '_base_/sapiens_pose.py'
from sapiens_plugin.recipe import recipe, resized, streamed, two_phases

globals().update(
    recipe(
        _base_,
        resized(384, 288),
        two_phases(warmup_epochs=10, max_epochs=110),
        # Images that pass a layer together, and MiB of GPU memory for PyTorch: the driver
        # and the desktop have the rest of the card.
        streamed(micro_batch=2, vram_budget=3000),
        dict(
            train_dataloader=dict(batch_size=32),  # the effective batch
            auto_scale_lr=dict(enable=False, base_batch_size=32),
            # A step takes a minute and more.
            default_hooks=dict(logger=dict(interval=10)),
        ),
    )
)
