# The Sapiens pose model with its weights in host memory: for GPUs too small for it.
#
# mode='compact' keeps what waits in host memory narrow: boundaries in float16,
# gradients in bfloat16, Adam's moments in int8. mode='exact' keeps float32, for the
# very bits of ordinary accumulation and twice the host memory. See docs/streaming.md.
_base_ = 'sapiens_pose.py'

model = dict(type='sapiens_plugin.StreamedTopdownPoseEstimator', mode='compact')
optim_wrapper = dict(
    type='sapiens_plugin.StreamedOptimWrapper',
    optimizer=dict(type='sapiens_plugin.HostAdamW'),
)
