"""The door to MMPose: importing this module makes the plugin's names known.

Every config names it in ``custom_imports``. The stack is repaired first, because
MMPose's own models cannot be imported before. The registries hang under MMEngine's
roots, not MMPose's, so that MMDetection's and MMEngine's scopes find them too.
"""

from mmengine import registry as root
from mmengine.registry import Registry

from sapiens_plugin.compat.apply import apply

apply()

_SCOPE = 'sapiens_plugin'

MODELS = Registry(
    'model',
    parent=root.MODELS,
    scope=_SCOPE,
    locations=[
        'sapiens_plugin.models.backbone',
        'sapiens_plugin.models.head',
        'sapiens_plugin.streamed.pose_estimator',
    ],
)
HOOKS = Registry(
    'hook',
    parent=root.HOOKS,
    scope=_SCOPE,
    locations=[
        'sapiens_plugin.engine.hooks.checkpoint_guard_hook',
        'sapiens_plugin.engine.hooks.checkpoint_hook',
        'sapiens_plugin.engine.hooks.flip_test_hook',
        'sapiens_plugin.engine.hooks.image_check_hook',
        'sapiens_plugin.engine.hooks.interrupt_hook',
        'sapiens_plugin.engine.hooks.param_scheduler_hook',
        'sapiens_plugin.engine.hooks.phase_switch_hook',
        'sapiens_plugin.engine.hooks.report_hook',
        'sapiens_plugin.engine.hooks.skipped_images_hook',
        'sapiens_plugin.engine.hooks.status_hook',
        'sapiens_plugin.engine.hooks.step_guard_hook',
        'sapiens_plugin.engine.hooks.validation_pictures_hook',
        'sapiens_plugin.engine.hooks.weights_guard_hook',
        'sapiens_plugin.streamed.hook',
    ],
)
LOOPS = Registry(
    'loop',
    parent=root.LOOPS,
    scope=_SCOPE,
    locations=['sapiens_plugin.engine.loops.train_loop'],
)
DATA_SAMPLERS = Registry(
    'data sampler',
    parent=root.DATA_SAMPLERS,
    scope=_SCOPE,
    locations=['sapiens_plugin.datasets.samplers.resumable_sampler'],
)
LOG_PROCESSORS = Registry(
    'log processor',
    parent=root.LOG_PROCESSORS,
    scope=_SCOPE,
    locations=['sapiens_plugin.engine.logging.status_log_processor'],
)
OPTIMIZERS = Registry(
    'optimizer',
    parent=root.OPTIMIZERS,
    scope=_SCOPE,
    locations=['sapiens_plugin.streamed.optimizer'],
)
OPTIM_WRAPPERS = Registry(
    'optimizer wrapper',
    parent=root.OPTIM_WRAPPERS,
    scope=_SCOPE,
    locations=['sapiens_plugin.streamed.optim_wrapper'],
)
OPTIM_WRAPPER_CONSTRUCTORS = Registry(
    'optimizer wrapper constructor',
    parent=root.OPTIM_WRAPPER_CONSTRUCTORS,
    scope=_SCOPE,
    locations=['sapiens_plugin.engine.optim.layer_decay'],
)
PARAM_SCHEDULERS = Registry(
    'parameter scheduler',
    parent=root.PARAM_SCHEDULERS,
    scope=_SCOPE,
    locations=['sapiens_plugin.engine.optim.warmup_lr'],
)
TRANSFORMS = Registry(
    'transform',
    parent=root.TRANSFORMS,
    scope=_SCOPE,
    locations=[
        'sapiens_plugin.datasets.transforms.load_image',
        'sapiens_plugin.datasets.transforms.random_blur',
    ],
)
VISBACKENDS = Registry(
    'visualization backend',
    parent=root.VISBACKENDS,
    scope=_SCOPE,
    locations=['sapiens_plugin.engine.logging.csv_vis_backend'],
)
