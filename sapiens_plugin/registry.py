"""The door to MMPose: importing this module makes the plugin's names known.

Every config names it in ``custom_imports``. The stack is repaired first, because
MMPose's own models cannot be imported before. The registries hang under MMEngine's
roots, not MMPose's, so that MMDetection's and MMEngine's scopes find them too.
"""

from mmengine import registry as root
from mmengine.registry import Registry

from sapiens_plugin.compat.apply import apply

apply()


def _registry(name: str, parent: Registry, *locations: str) -> Registry:
    """Make a registry whose modules are imported when a name is first looked up."""
    modules = [f'sapiens_plugin.{location}' for location in locations]
    return Registry(name, parent=parent, scope='sapiens_plugin', locations=modules)


MODELS = _registry(
    'model',
    root.MODELS,
    'models.backbone',
    'models.head',
    'streamed.pose_estimator',
)
HOOKS = _registry(
    'hook',
    root.HOOKS,
    'engine.hooks.checkpoint_guard_hook',
    'engine.hooks.checkpoint_hook',
    'engine.hooks.flip_test_hook',
    'engine.hooks.image_check_hook',
    'engine.hooks.interrupt_hook',
    'engine.hooks.param_scheduler_hook',
    'engine.hooks.phase_switch_hook',
    'engine.hooks.report_hook',
    'engine.hooks.skipped_images_hook',
    'engine.hooks.status_hook',
    'engine.hooks.step_guard_hook',
    'engine.hooks.validation_pictures_hook',
    'engine.hooks.weights_guard_hook',
    'streamed.hook',
)
LOOPS = _registry('loop', root.LOOPS, 'engine.loops.train_loop')
DATA_SAMPLERS = _registry(
    'data sampler', root.DATA_SAMPLERS, 'datasets.samplers.resumable_sampler'
)
LOG_PROCESSORS = _registry(
    'log processor', root.LOG_PROCESSORS, 'engine.logging.status_log_processor'
)
OPTIMIZERS = _registry('optimizer', root.OPTIMIZERS, 'streamed.optimizer')
OPTIM_WRAPPERS = _registry(
    'optimizer wrapper', root.OPTIM_WRAPPERS, 'streamed.optim_wrapper'
)
OPTIM_WRAPPER_CONSTRUCTORS = _registry(
    'optimizer wrapper constructor',
    root.OPTIM_WRAPPER_CONSTRUCTORS,
    'engine.optim.layer_decay',
)
PARAM_SCHEDULERS = _registry(
    'parameter scheduler', root.PARAM_SCHEDULERS, 'engine.optim.warmup_lr'
)
TRANSFORMS = _registry(
    'transform',
    root.TRANSFORMS,
    'datasets.transforms.load_image',
    'datasets.transforms.random_blur',
)
VISBACKENDS = _registry(
    'visualization backend', root.VISBACKENDS, 'engine.logging.csv_vis_backend'
)
