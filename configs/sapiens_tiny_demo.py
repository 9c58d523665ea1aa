# A small Sapiens on drawn people: the whole path of the real job on a laptop's CPU.
# Made and run by tools/quickstart.py.
#
# A TorchScript archive of the published structure is lifted into a backbone for
# another input size; the head warms up on it; then everything is fine-tuned.
_base_ = ['_base_/two_phases.py', '_base_/coco.py', '_base_/sapiens_pose.py']

data_root = '{{ fileDirname }}/../data/demo'

# Sizes of the codec are (width, height) in px, img_size is (height, width).
codec = dict(type='UDPHeatmap', input_size=(96, 128), heatmap_size=(24, 32), sigma=1.5)
model = dict(
    backbone=dict(
        arch=dict(embed_dims=128, num_layers=4, num_heads=4, feedforward_channels=512),
        img_size=(128, 96),
        init_cfg=dict(
            type='Pretrained', checkpoint=data_root + '/sapiens_tiny_torchscript.pt2'
        ),
    ),
    head=dict(
        in_channels=128,
        deconv_out_channels=(64, 64),
        conv_out_channels=(64,),
        conv_kernel_sizes=(1,),
        # The loss of a heatmap that is almost all zeros is a few thousandths, so small
        # that Adam's eps damps what few epochs have to move fast.
        loss=dict(loss_weight=1000.0),
        decoder=codec,
    ),
    train_cfg=dict(compute_acc=False),
)

# Drawings need less augmentation than photographs.
train_pipeline = [
    dict(type='sapiens_plugin.LoadImage'),
    dict(type='GetBBoxCenterScale'),
    dict(type='RandomFlip', direction='horizontal'),
    dict(
        type='RandomBBoxTransform',
        shift_factor=0.03,
        scale_factor=(0.9, 1.1),
        rotate_factor=15,
    ),
    dict(type='TopdownAffine', input_size=codec['input_size'], use_udp=True),
    dict(type='GenerateTarget', encoder=codec),
    dict(type='PackPoseInputs'),
]
val_pipeline = [
    *_base_.before_crop_val,
    dict(type='TopdownAffine', input_size=codec['input_size'], use_udp=True),
    dict(type='PackPoseInputs'),
]
train_dataloader = dict(
    batch_size=16,
    num_workers=1,
    dataset=dict(
        data_root=data_root,
        ann_file='annotations/person_keypoints_train.json',
        data_prefix=dict(img='images/train/'),
        pipeline=train_pipeline,
    ),
)
val_dataloader = dict(
    batch_size=64,
    num_workers=1,
    dataset=dict(
        data_root=data_root,
        ann_file='annotations/person_keypoints_val.json',
        data_prefix=dict(img='images/val/'),
        pipeline=val_pipeline,
    ),
)
test_dataloader = dict(
    batch_size=64,
    num_workers=1,
    dataset=dict(
        data_root=data_root,
        ann_file='annotations/person_keypoints_val.json',
        bbox_file=None,  # drawn people come with their boxes
        data_prefix=dict(img='images/val/'),
        pipeline=val_pipeline,
    ),
)

optim_wrapper = dict(
    optimizer=dict(lr=2e-3, betas=(0.9, 0.99), weight_decay=0.05, fused=True),
    # Random weights are no pre-training: every layer has all to learn.
    paramwise_cfg=dict(layer_decay_rate=1.0),
    clip_grad=dict(max_norm=5.0),
)

warmup_epochs, max_epochs = 1, 13
train_cfg = dict(max_epochs=max_epochs, val_interval=7)
param_scheduler = [
    *(
        dict(
            type='sapiens_plugin.WarmupLR',
            begin=begin,
            optimizer_steps=60,
            start_factor=1e-2,
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
    *_base_.custom_hooks[:-1],
    dict(type='sapiens_plugin.PhaseSwitchHook', warmup_epochs=warmup_epochs),
]
