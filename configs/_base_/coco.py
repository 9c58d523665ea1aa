# COCO person keypoints, top-down, at the published input size; `resized` of
# sapiens_plugin.recipe changes that in all places.
#
# The data are looked for in data/coco beside configs/, or where the environment
# variable COCO_ROOT points.
data_root = '{{$COCO_ROOT:unset}}'
if data_root == 'unset':
    data_root = '{{ fileDirname }}/../../data/coco'

# Sizes of the codec are (width, height) in px.
codec = dict(
    type='UDPHeatmap', input_size=(768, 1024), heatmap_size=(192, 256), sigma=6
)
train_pipeline = [
    dict(type='sapiens_plugin.LoadImage'),
    dict(type='GetBBoxCenterScale'),
    dict(type='RandomFlip', direction='horizontal'),
    dict(type='RandomHalfBody'),
    dict(type='RandomBBoxTransform'),
    dict(type='TopdownAffine', input_size=codec['input_size'], use_udp=True),
    dict(type='PhotometricDistortion'),
    dict(type='sapiens_plugin.RandomBlur', gaussian_prob=0.1, median_prob=0.1),
    # One hole in every picture, a fifth to two fifths of each side.
    dict(
        type='mmdet.CutOut',
        n_holes=1,
        cutout_ratio=[(0.2, 0.2), (0.3, 0.3), (0.4, 0.4), (0.2, 0.4), (0.4, 0.2)],
    ),
    dict(type='GenerateTarget', encoder=codec),
    dict(type='PackPoseInputs'),
]
val_pipeline = [
    dict(type='sapiens_plugin.LoadImage'),
    dict(type='GetBBoxCenterScale'),
    dict(type='TopdownAffine', input_size=codec['input_size'], use_udp=True),
    dict(type='PackPoseInputs'),
]

train_dataloader = dict(
    batch_size=2,
    num_workers=2,
    persistent_workers=True,
    # Goes on in the middle of an epoch, for ResumableTrainLoop.
    sampler=dict(type='sapiens_plugin.ResumableSampler', shuffle=True),
    dataset=dict(
        type='CocoDataset',
        data_root=data_root,
        data_mode='topdown',
        ann_file='annotations/person_keypoints_train2017.json',
        data_prefix=dict(img='images/train2017/'),
        pipeline=train_pipeline,
    ),
)
# While training: ground-truth boxes, no flip.
val_dataloader = dict(
    batch_size=8,
    num_workers=2,
    persistent_workers=True,
    drop_last=False,
    sampler=dict(type='DefaultSampler', shuffle=False, round_up=False),
    dataset=dict(
        type='CocoDataset',
        data_root=data_root,
        data_mode='topdown',
        ann_file='annotations/person_keypoints_val2017.json',
        data_prefix=dict(img='images/val2017/'),
        pipeline=val_pipeline,
        test_mode=True,
    ),
)
# tools/test.py: the published protocol, detector's boxes and flip test. For
# ground-truth boxes add --cfg-options test_dataloader.dataset.bbox_file=''
test_dataloader = dict(
    batch_size=8,
    num_workers=2,
    persistent_workers=True,
    drop_last=False,
    sampler=dict(type='DefaultSampler', shuffle=False, round_up=False),
    dataset=dict(
        type='CocoDataset',
        data_root=data_root,
        data_mode='topdown',
        ann_file='annotations/person_keypoints_val2017.json',
        bbox_file=data_root + '/person_detection_results/'
        'COCO_val2017_detections_AP_H_70_person.json',
        data_prefix=dict(img='images/val2017/'),
        pipeline=val_pipeline,
        test_mode=True,
    ),
)
# The annotation file is that of the dataset under evaluation.
val_evaluator = dict(type='CocoMetric')
test_evaluator = dict(type='CocoMetric')
val_cfg = dict()
test_cfg = dict()
