"""Memory and seconds of the shipped configs, through MMPose's own model."""

import contextlib
import re
from collections.abc import Callable, Iterator

import torch
from measuring.device import fresh_peak, memory_facts
from measuring.part_report import Report
from measuring.step_times import step_timer
from mmengine.config import Config
from mmengine.optim import build_optim_wrapper
from mmengine.registry import init_default_scope
from schedule import SMALL
from streaming import fill
from torch import nn
from tree_memory import own_peak_mib

import sapiens_plugin.registry  # noqa: F401  (first: it repairs what MMPose imports)

from mmpose.registry import MODELS  # isort: skip
from mmpose.testing import get_packed_inputs  # isort: skip
from sapiens_plugin.streamed.optim_wrapper import StreamedOptimWrapper
from sapiens_plugin.streamed.pose_estimator import StreamedTopdownPoseEstimator

Built = tuple[Config, StreamedTopdownPoseEstimator, StreamedOptimWrapper]


def run(spec: dict, report: Report) -> None:
    """Measure passes of each config: phase 1, phase 2, validation, test."""
    device = torch.device(spec['device'])
    for config in spec['configs']:
        name, precision = config.split()
        title = f'{name}, {precision}'
        with report.part(title):
            built = _build(name, precision=precision, device=device, tiny=spec['tiny'])
            _, model, _ = built
            found = dict(budget=model.vram_budget, passes={})
            for kind, count in spec['passes'].items():
                with report.part(f'{title}, {kind}'):
                    found['passes'][kind] = _measure(kind, count, built, device)
                # This much is known of a pass that failed.
                found['passes'].setdefault(kind, dict(planned=model._planned))
                found['precision'] = str(model.precision.dtype)
                found['host'] = own_peak_mib()
                report.add(**{title: found})
            model._close_chain()
            del built, model
        fresh_peak(device)


def _measure(kind: str, count: int, built: Built, device: torch.device) -> dict:
    cfg, model, wrapper = built
    model._close_chain()
    fresh_peak(device)
    act = _make_pass(kind, cfg, model, wrapper)
    with step_timer(device) as time_step:
        timings = [time_step(act) for _ in range(count)]
    wrapper.optimizer.flush()
    planned = model._planned
    predicted = re.match(r'(\d+) MiB', planned)
    return dict(
        seconds=[timing['seconds'] for timing in timings[min(2, count - 1) :]],
        all=timings,
        planned=planned,
        predicted=int(predicted[1]) if predicted else None,
        layout=str(model._chain._placement) if model._chain else None,
        **memory_facts(device),
    )


def _make_pass(
    kind: str,
    cfg: Config,
    model: StreamedTopdownPoseEstimator,
    wrapper: StreamedOptimWrapper,
) -> Callable:
    if kind.startswith('phase'):
        model.backbone.set_frozen(kind == 'phase 1')
        model.train()
        batch = _draw_data(cfg, cfg.train_dataloader.batch_size)
        return lambda: model.train_step(batch, wrapper)
    model.backbone.set_frozen(False)
    model.eval()
    model.test_cfg['flip_test'] = kind == 'test'
    loader = cfg.test_dataloader if kind == 'test' else cfg.val_dataloader
    batch = _draw_data(cfg, loader.batch_size)
    return torch.no_grad()(lambda: model.val_step(batch))


def _build(name: str, *, precision: str, device: torch.device, tiny: bool) -> Built:
    """Build the model and the optimizer wrapper of a config, with arbitrary weights."""
    cfg = Config.fromfile(f'configs/{name}.py')
    cfg.model.backbone.init_cfg = None
    cfg.model.precision = precision
    if tiny:
        cfg.model.backbone.arch = SMALL['arch']
        cfg.model.head.in_channels = SMALL['arch']['embed_dims']
        cfg.model.vram_budget = 700
        cfg.train_dataloader.batch_size = SMALL['batch']
    init_default_scope('mmpose')
    with _no_random_start():
        model = MODELS.build(cfg.model)
    fill(model)
    model.travels_on_cpu = tiny
    model.to(device)
    wrapper = build_optim_wrapper(model, cfg.optim_wrapper)
    wrapper.optimizer.moment_dtype = model.moment_dtype
    return cfg, model, wrapper


def _draw_data(cfg: Config, size: int) -> dict[str, list]:
    """Draw a batch of random images and heatmaps, as a data loader collates it."""
    width, height = cfg.codec['input_size']
    return get_packed_inputs(
        size,
        img_shape=(height, width),
        input_size=(width, height),
        heatmap_size=cfg.codec['heatmap_size'],
        with_reg_label=False,
        with_simcc_label=False,
    )


@contextlib.contextmanager
def _no_random_start() -> Iterator[None]:
    """Leave weights as they are; filling them afterwards is faster."""
    with contextlib.ExitStack() as undo:
        for name in ('kaiming_uniform_', 'uniform_', 'trunc_normal_', 'normal_'):
            undo.callback(setattr, nn.init, name, getattr(nn.init, name))
            setattr(nn.init, name, lambda tensor, *args, **kwargs: tensor)
        yield
