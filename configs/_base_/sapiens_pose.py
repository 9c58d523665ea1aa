# Sapiens-1B on COCO keypoints: model, data and optimizer as published. A job adds what
# differs, and its epochs.
_base_ = ['runtime.py', 'coco.py']

model = dict(
    type='TopdownPoseEstimator',
    data_preprocessor=dict(
        type='PoseDataPreprocessor',
        mean=[123.675, 116.28, 103.53],
        std=[58.395, 57.12, 57.375],
        bgr_to_rgb=True,
    ),
    backbone=dict(
        type='sapiens_plugin.SapiensBackbone',
        arch='sapiens_1b',
        img_size=(1024, 768),  # (height, width) in px
        init_cfg=dict(
            type='Pretrained',
            checkpoint='{{ fileDirname }}/../../data/pretrained/sapiens_1b/'
            'sapiens_1b_epoch_173_torchscript.pt2',
        ),
    ),
    head=dict(
        type='sapiens_plugin.SapiensHeatmapHead',
        in_channels=1536,
        out_channels=17,
        deconv_out_channels=(768, 768),
        deconv_kernel_sizes=(4, 4),
        conv_out_channels=(768, 768),
        conv_kernel_sizes=(1, 1),
        loss=dict(type='KeypointMSELoss', use_target_weight=True),
        decoder=_base_.codec,
    ),
    test_cfg=dict(flip_test=True, flip_mode='heatmap', shift_heatmap=False),
)

optim_wrapper = dict(
    type='OptimWrapper',
    optimizer=dict(type='AdamW', lr=5e-4, betas=(0.9, 0.999), weight_decay=0.1),
    constructor='sapiens_plugin.LayerDecayOptimWrapperConstructor',
    paramwise_cfg=dict(layer_decay_rate=0.85),
    clip_grad=dict(max_norm=1.0, norm_type=2),
)
