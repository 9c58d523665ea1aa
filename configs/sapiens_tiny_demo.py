# python3 tools/train.py configs/sapiens_tiny_demo.py
#
# A small Sapiens on drawn people: the whole path of the real job on a laptop's CPU.
# Made and run by tools/quickstart.py.
#
# A TorchScript archive of the published structure is lifted into a backbone for
# another input size; the head warms up on it; then everything is fine-tuned.
_base_ = '_base_/sapiens_pose.py'
from sapiens_plugin.recipe import on_data, recipe, resized, training_steps, two_phases

data_root = '{{ fileDirname }}/../data/demo'
globals().update(
    recipe(
        _base_,
        on_data(
            root=data_root,
            train='annotations/person_keypoints_train.json',
            val='annotations/person_keypoints_val.json',
            images=dict(train='images/train/', val='images/val/'),
        ),
        resized(128, 96, sigma=1.5),
        two_phases(
            warmup_epochs=1, max_epochs=13, optimizer_steps=60, start_factor=1e-2
        ),
        # Drawings need less augmentation than photographs.
        training_steps(
            RandomHalfBody=None,
            RandomBBoxTransform=dict(
                shift_factor=0.03, scale_factor=(0.9, 1.1), rotate_factor=15
            ),
            PhotometricDistortion=None,
            RandomBlur=None,
            CutOut=None,
        ),
        dict(
            model=dict(
                backbone=dict(
                    arch=dict(
                        _delete_=True,
                        embed_dims=128,
                        num_layers=4,
                        num_heads=4,
                        feedforward_channels=512,
                    ),
                    init_cfg=dict(
                        checkpoint=data_root + '/sapiens_tiny_torchscript.pt2'
                    ),
                ),
                head=dict(
                    in_channels=128,
                    deconv_out_channels=(64, 64),
                    conv_out_channels=(64,),
                    conv_kernel_sizes=(1,),
                    # The loss of a heatmap that is almost all zeros is a few
                    # thousandths, so small that Adam's eps damps what few epochs have
                    # to move fast.
                    loss=dict(loss_weight=1000.0),
                ),
                train_cfg=dict(compute_acc=False),
            ),
            train_dataloader=dict(batch_size=16, num_workers=1),
            val_dataloader=dict(batch_size=64, num_workers=1),
            test_dataloader=dict(batch_size=64, num_workers=1),
            optim_wrapper=dict(
                optimizer=dict(
                    lr=2e-3, betas=(0.9, 0.99), weight_decay=0.05, fused=True
                ),
                # Random weights are no pre-training: every layer has all to learn.
                paramwise_cfg=dict(layer_decay_rate=1.0),
                clip_grad=dict(max_norm=5.0),
            ),
            train_cfg=dict(val_interval=7),
        ),
    )
)
