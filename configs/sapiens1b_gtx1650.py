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
_base_ = ['_base_/two_phases.py', '_base_/coco.py', '_base_/streamed_pose.py']

# Sizes of the codec are (width, height) in px, img_size is (height, width).
codec = dict(type='UDPHeatmap', input_size=(288, 384), heatmap_size=(72, 96), sigma=3)
model = dict(
    # Images that pass a layer together; the batch of the data loader is the effective one.
    micro_batch=2,
    # MiB of GPU memory for PyTorch. The driver and the desktop have the rest of the card.
    vram_budget=3000,
    backbone=dict(
        arch='sapiens_1b',
        img_size=(384, 288),
        init_cfg=dict(
            type='Pretrained',
            checkpoint='{{ fileDirname }}/../data/pretrained/sapiens_1b/'
            'sapiens_1b_epoch_173_torchscript.pt2',
        ),
    ),
    head=dict(in_channels=1536, decoder=codec),
)

train_pipeline = [
    *_base_.before_crop,
    dict(type='TopdownAffine', input_size=codec['input_size'], use_udp=True),
    *_base_.after_crop,
    dict(type='GenerateTarget', encoder=codec),
    dict(type='PackPoseInputs'),
]
val_pipeline = [
    *_base_.before_crop_val,
    dict(type='TopdownAffine', input_size=codec['input_size'], use_udp=True),
    dict(type='PackPoseInputs'),
]
# Workers share the annotations.
train_dataloader = dict(
    batch_size=32, num_workers=2, dataset=dict(pipeline=train_pipeline)
)
val_dataloader = dict(batch_size=8, dataset=dict(pipeline=val_pipeline))
test_dataloader = dict(batch_size=8, dataset=dict(pipeline=val_pipeline))

auto_scale_lr = dict(enable=False, base_batch_size=32)
# A step takes a minute and more.
default_hooks = dict(logger=dict(interval=10))
custom_hooks = [
    *_base_.custom_hooks[:-1],
    dict(type='sapiens_plugin.StreamingHook'),
    _base_.custom_hooks[-1],
]
