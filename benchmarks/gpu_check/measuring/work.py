"""The training step that several tasks make, and other ways to make it."""

from collections.abc import Callable
from dataclasses import asdict

from streaming import RIVALS, SUBJECTS, Pose, Work, rival
from torch import Tensor

from sapiens_plugin.core.streaming.precision import turn_tf32_off
from sapiens_plugin.core.vit.architectures import get_architecture


def make_work(spec: dict, *, precision: str, cap: int | None = None) -> Work:
    """Describe a step of the model that a task was given, in true float32."""
    turn_tf32_off()
    return Work(
        **{key: spec[key] for key in ('device', 'batch', 'micro_batch', 'budget')},
        arch=asdict(get_architecture(spec['arch'])),
        img_size=tuple(spec['img_size']),
        precision=precision,
        cap=cap,
        steps=0,  # is not looked at
    )


def accumulate(model: Pose, work: Work, batch: list[tuple[Tensor, Tensor]]) -> None:
    """Accumulate gradients in the ordinary way, with nothing recomputed."""
    for images, heatmaps in batch:
        with work.autocast():
            x = model.backbone.embed(images)
            for layer in model.backbone.layers:
                x = layer(x)
            loss = model.loss(x, heatmaps) / len(batch)
        loss.backward()


def subjects() -> dict[str, Callable[[Work], tuple[Callable, dict]]]:
    """Return every way to make a step, by name."""
    rivals = {name: lambda work, n=name: rival(work, n) for name in RIVALS}
    return SUBJECTS | rivals
