"""A top-down pose estimator that trains with few of its weights on the GPU."""

import logging
import math
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import replace

import torch
from mmengine.dist import get_world_size
from mmengine.logging import print_log
from mmpose.models.pose_estimators import TopdownPoseEstimator
from mmpose.structures import PoseDataSample
from torch import Tensor, nn

from sapiens_plugin.core.streaming import memory
from sapiens_plugin.core.streaming.chain import Placement, StreamedChain
from sapiens_plugin.core.streaming.modes import read_streaming
from sapiens_plugin.core.streaming.precision import (
    Precision,
    capability_of,
    choose_precision,
    turn_tf32_off,
)
from sapiens_plugin.core.streaming.randomness import mix
from sapiens_plugin.core.streaming.stage import Stage, owners_of
from sapiens_plugin.core.utils.give_back import give_back_large_memory
from sapiens_plugin.core.utils.unforked import mapped_parameters
from sapiens_plugin.core.vit.architectures import PATCH_SIZE
from sapiens_plugin.core.vit.model import patch_grid
from sapiens_plugin.engine.utils.same_bits import (
    device_name,
    warn_of_changes,
    warn_of_other_bits,
)
from sapiens_plugin.errors import InputError
from sapiens_plugin.models.backbone import SapiensBackbone
from sapiens_plugin.registry import MODELS

from .optim_wrapper import StreamedOptimWrapper

_RETRY_SHARE = 0.9  # of the budget before


@MODELS.register_module()
class StreamedTopdownPoseEstimator(TopdownPoseEstimator):
    """A top-down estimator whose weights live in host memory and visit the GPU.

    A batch is the whole effective batch. ``train_step`` passes it through the backbone
    in micro-batches, block by block (:mod:`sapiens_plugin.core.streaming.chain`).
    Gradients equal those of ordinary accumulation over the same micro-batches; names of
    parameters and checkpoints are those of ``TopdownPoseEstimator``. Needs
    ``StreamedOptimWrapper``, ``HostAdamW`` and ``StreamingHook``.

    Args:
        micro_batch: Images that pass a block together.
        mode: ``'exact'`` keeps everything in float32; ``'compact'`` keeps boundaries,
            gradients and moments narrower, for half the host memory.
        vram_budget: GPU memory in MiB that PyTorch may take. The limit is that of the
            whole process, from the first step on. The CUDA context, 300 to 450 MiB,
            comes on top. None takes 90% of what is free at the first step. A CPU
            computes in place and has no use for it.
        boundary_dtype: Overrules the mode for activations between blocks:
            ``'float32'``, ``'float16'`` or ``'bfloat16'``.
        gradient_dtype: Overrules it for gradients at home: ``'float32'`` or
            ``'bfloat16'``.
        moment_dtype: Overrules it for the optimizer's moments: ``'float32'``,
            ``'bfloat16'`` or ``'int8'``.
        precision: Of matrix products: ``'auto'`` measures what the GPU is good at, or
            ``'float32'``, ``'bfloat16'``, ``'float16'``.
        on_oom: When the GPU is full: ``'raise'`` an error, or ``'retry'`` the step with
            half the micro-batch, planned into 10% less memory.
        **kwargs: Those of ``TopdownPoseEstimator``; the backbone is a
            ``SapiensBackbone``.

    Attributes:
        optim_wrapper_type: The one optimizer wrapper that ``train_step`` takes.
        travels_on_cpu: Whether weights travel on a CPU as they would to a GPU, within
            ``vram_budget``: to try and to measure that without one.

    Raises:
        InputError: An argument is out of its range, or the parts do not go together.
    """

    optim_wrapper_type = StreamedOptimWrapper
    travels_on_cpu = False

    def __init__(
        self,
        *,
        micro_batch: int = 2,
        mode: str = 'compact',
        vram_budget: int | None = None,
        boundary_dtype: str | None = None,
        gradient_dtype: str | None = None,
        moment_dtype: str | None = None,
        precision: str = 'auto',
        on_oom: str = 'raise',
        **kwargs,
    ):
        settings = read_streaming(
            mode=mode,
            vram_budget=vram_budget,
            precision=precision,
            on_oom=on_oom,
            boundary_dtype=boundary_dtype,
            gradient_dtype=gradient_dtype,
            moment_dtype=moment_dtype,
        )
        if micro_batch < 1:
            raise InputError(f'model.micro_batch={micro_batch} should be 1 or more.')
        if get_world_size() > 1:
            raise InputError(
                'StreamedTopdownPoseEstimator trains in one process, and this job has '
                f"{get_world_size()}: MMEngine's wrapper for several never calls the "
                "model's own train_step. Start it with tools/train.py, or take a "
                'config that does not stream, such as configs/sapiens1b_a100.py.'
            )
        give_back_large_memory()  # before annotations are read, and before workers
        with mapped_parameters():
            super().__init__(**kwargs)
        _check_parts(self)
        self.micro_batch = micro_batch
        self.vram_budget = vram_budget
        self.boundary_dtype = getattr(torch, settings.boundary_dtype)
        self.gradient_dtype = getattr(torch, settings.gradient_dtype)
        self.moment_dtype = settings.moment_dtype
        self.on_oom = on_oom
        self.device = torch.device('cpu')
        # What decides bits, with the device. Boundaries that are not rounded may lie
        # anywhere.
        decide = dict(vars(settings), micro_batch=micro_batch, precision=precision)
        if not self._rounds_boundaries:
            del decide['vram_budget']
        self._settings = decide
        self._spacings: dict[int, int] = {}  # by the first stage that trains
        self._retries = 0
        self._precision: Precision | None = None
        self._former_precision: str | None = None
        self._planned = ''  # what memory the last layout takes, for messages
        self._chain: StreamedChain | None = None
        self._close_chain()
        self._flush: Callable = _nothing_pending

    def train_step(
        self, data: dict | list, optim_wrapper: StreamedOptimWrapper
    ) -> dict[str, Tensor]:
        """Compute the gradients of a batch and schedule the optimizer's step.

        Args:
            data: An effective batch, as the data loader collates it.
            optim_wrapper: Takes the gradients.

        Returns:
            Losses and the like to log: means over the samples.

        Raises:
            InputError: The GPU's memory does not do, or ``optim_wrapper`` is of another
                kind.
        """
        if not isinstance(optim_wrapper, self.optim_wrapper_type):
            raise InputError(
                'StreamedTopdownPoseEstimator needs '
                "optim_wrapper.type='sapiens_plugin.StreamedOptimWrapper', not "
                f'{type(optim_wrapper).__name__}.'
            )
        if optim_wrapper.optimizer.moment_dtype != self.moment_dtype:
            raise InputError(
                f'The model keeps {self.moment_dtype} moments and its optimizer '
                f'{optim_wrapper.optimizer.moment_dtype}: '
                "default_hooks.streaming=dict(type='sapiens_plugin.StreamingHook') is "
                'missing.'
            )
        self._flush = optim_wrapper.optimizer.flush
        while True:
            try:
                batch = self.data_preprocessor(data, True)
                inputs, samples = batch['inputs'], batch['data_samples']
                norms, logs = self._accumulate(inputs, samples, optim_wrapper)
                break
            except RuntimeError as error:
                if not memory.is_out_of_memory(error):
                    raise
                if self.on_oom == 'raise' or self.micro_batch == 1:
                    raise InputError(self._out_of_memory(error)) from error
                full = _first_line(error)
            except InputError as error:
                # Less memory may need fewer images still.
                if not self._retries or self.micro_batch == 1:
                    raise
                full = _first_line(error)
            # Out of the handler, which keeps all that the failed step allocated.
            self._shrink(full)
        optim_wrapper.update(
            norms,
            [log['loss'] for _, log in logs],
            micro_batch=self.micro_batch,
            scaled=self.precision.loss_scaling,
        )
        return _mean_logs(logs)

    def loss(self, inputs: Tensor, data_samples: list[PoseDataSample]) -> dict:
        """Refuse: a loss with a graph through the whole model is what cannot be had.

        Raises:
            InputError: Always.
        """
        raise InputError(
            'StreamedTopdownPoseEstimator computes losses in train_step only. For '
            "forward(mode='loss') use model.type=TopdownPoseEstimator; it loads the "
            'same checkpoints.'
        )

    def predict(
        self, inputs: Tensor, data_samples: list[PoseDataSample]
    ) -> list[PoseDataSample]:
        """Predict poses, as ``TopdownPoseEstimator`` does."""
        with self._running(inputs):
            return super().predict(inputs, data_samples)

    def extract_feat(self, inputs: Tensor) -> tuple[Tensor]:
        """Extract features of (B, 3, H, W) within ``predict`` or ``forward``."""
        x = torch.cat(self._chain.forward(inputs.split(self.micro_batch)))
        return self._features(x, inputs)

    def _forward(self, inputs: Tensor, data_samples: list | None = None) -> Tensor:
        with self._running(inputs):
            return super()._forward(inputs)

    def state_dict(self, *args, **kwargs) -> dict:
        """Return the state once all scheduled updates have been made."""
        self._flush()
        return super().state_dict(*args, **kwargs)

    @property
    def precision(self) -> Precision:
        """What matrix products are computed in; measured at the first use."""
        if self._precision is None:
            note = ''
            if self.device.type == 'cuda':
                turn_tf32_off()
                note = ' TF32 is off, for matrix products and convolutions alike.'
            self._precision = self._choose_precision()
            print_log(f'Precision: {self._precision.reason}{note}', logger='current')
        return self._precision

    @property
    def decisions(self) -> dict:
        """What was decided in this run that bits depend on, for its checkpoints."""
        return dict(
            settings=self._settings,
            device=device_name(self.device),
            micro_batch=self.micro_batch,
            precision=str(self.precision.dtype).removeprefix('torch.'),
            spacings=dict(self._spacings),
            retries=self._retries,
        )

    def go_on_with(self, decisions: Mapping) -> None:
        """Take over :attr:`decisions` of the run that is resumed.

        With other settings or on another device, all is decided anew.
        """
        changed = warn_of_changes(decisions['settings'], self._settings)
        if not changed and decisions['device'] == device_name(self.device):
            self.micro_batch = decisions['micro_batch']
            self._former_precision = decisions['precision']
            self._spacings = dict(decisions['spacings'])
            self._retries = decisions.get('retries', 0)

    def check_budget(self, batch: int) -> int:
        """Lay out a training step in the present phase, and forget it.

        Args:
            batch: Images in the step.

        Returns:
            Bytes of host memory for activations between blocks.

        Raises:
            InputError: The budget is too small, or the precision does not work here.
        """
        if self._computes_in_place:
            return 0
        step = self.memory_step(batch, [PATCH_SIZE * n for n in self.backbone.grid])
        former = self._spacings.get(step.first_trainable)
        layout = memory.plan_layout(step, budget_mib=self._budget, spacing=former)
        return memory.host_boundary_bytes(step, layout)

    def __getstate__(self) -> dict:
        """Leave out what belongs to this process, and the optimizer, of a copy."""
        self._flush()
        chain = dict(_chain=None, _chain_key=None, _chain_batch=0)
        return self.__dict__ | chain | dict(_flush=_nothing_pending)

    def _load_state_dict_pre_hook(self, *args, **kwargs) -> None:
        self._flush()  # or old updates would come on top of the new weights
        super()._load_state_dict_pre_hook(*args, **kwargs)

    def _apply(self, fn: Callable[[Tensor], Tensor], recurse: bool = True) -> nn.Module:
        """Move to a device: buffers go there, parameters visit when they are needed."""
        probe = fn(torch.empty(0))
        if probe.dtype != torch.float32:
            raise InputError(
                f'The weights of a streamed model stay float32, not {probe.dtype}. '
                'What it computes in is set by model.precision.'
            )
        for module in self.modules():
            for name, buffer in module._buffers.items():
                if buffer is not None:
                    module._buffers[name] = fn(buffer)
        if probe.device != self.device:
            self.device, self._precision = probe.device, None
            self._close_chain()
        return self

    def _accumulate(
        self,
        inputs: Tensor,
        samples: list[PoseDataSample],
        optim_wrapper: StreamedOptimWrapper,
    ) -> tuple[dict[nn.Parameter, Tensor], list[tuple[int, dict]]]:
        """Return the norms of all gradients, and (size, logs) of each micro-batch."""
        chain = self._chain_for(inputs, training=True)
        chain.before_use(self._flush)
        groups = [
            samples[i : i + self.micro_batch]
            for i in range(0, len(samples), self.micro_batch)
        ]
        logs: list[tuple[int, dict]] = []
        # An accuracy is computed on the host: the GPU would run dry for each.
        train_cfg = dict(compute_acc=False) | (self.train_cfg or {})

        def loss_of(x: Tensor, j: int) -> Tensor:
            losses = self.head.loss(
                self._features(x, inputs), groups[j], train_cfg=train_cfg
            )
            loss, log = self.parse_losses(losses)
            logs.append((len(x), {name: v.detach() for name, v in log.items()}))
            return loss

        norms = chain.accumulate(
            inputs.split(self.micro_batch),
            loss_of,
            # A resumed run continues with the same numbers.
            seed=mix(torch.initial_seed()) ^ optim_wrapper.inner_count,
            norm_type=optim_wrapper.norm_type,
            loss_scale=(
                optim_wrapper.loss_scale.scale if self.precision.loss_scaling else 1.0
            ),
        )
        return norms, logs

    def _shrink(self, reason: str) -> None:
        """Halve the micro-batch, plan into less, and give back what the device holds.

        Fewer images alone may plan as much: for more blocks at a time.
        """
        self.micro_batch //= 2
        self._retries += 1
        print_log(
            f'The GPU is full ({reason}). The step is tried again with '
            f'{self.micro_batch} images at a time and 10% less memory, and so are all '
            'that follow.',
            logger='current',
            level=logging.WARNING,
        )
        self._spacings.clear()
        self._close_chain()

    def _choose_precision(self) -> Precision:
        requested, former = self._settings['precision'], self._former_precision
        if requested == 'auto' and former is not None:
            try:
                return replace(
                    choose_precision(self.device, former),
                    reason=f'{former}, as before this run was interrupted.',
                )
            except InputError as error:
                warn_of_other_bits(f'This run computed in {former} so far. {error}')
        return choose_precision(self.device, requested)

    @contextmanager
    def _running(self, inputs: Tensor) -> Iterator[None]:
        """Have a chain for these inputs, and the weights of its tail in place."""
        chain = self._chain_for(inputs, training=False)
        chain.before_use(self._flush)
        try:
            with torch.no_grad(), chain.tail_in_place():
                yield
        except RuntimeError as error:
            if not memory.is_out_of_memory(error):
                raise
            raise InputError(self._out_of_memory(error)) from error

    def _features(self, x: Tensor, images: Tensor) -> tuple[Tensor]:
        """Turn tokens (b, N, D) into what the head takes."""
        feats = (self.backbone.to_map(x, patch_grid(*images.shape[2:])),)
        return self.neck(feats) if self.with_neck else feats

    def _chain_for(self, inputs: Tensor, *, training: bool) -> StreamedChain:
        """Return a chain laid out for such inputs, in this number or fewer."""
        trains = tuple(param.requires_grad for param in self.parameters())
        key = (training, inputs.shape[1:], self.micro_batch, trains)
        if key != self._chain_key or len(inputs) > self._chain_batch:
            self._close_chain()
            self._chain = StreamedChain(
                *_stages(self),
                device=self.device,
                placement=self._placement(inputs, training=training),
            )
            self._chain_key, self._chain_batch = key, len(inputs)
        return self._chain

    def _close_chain(self) -> None:
        if self._chain is not None:
            self._chain.close()
            if self.device.type == 'cuda':
                _limit_memory(self.device, math.inf)
        self._chain, self._chain_key, self._chain_batch = None, None, 0
        if self.device.type == 'cuda':
            torch.cuda.empty_cache()

    def _placement(self, inputs: Tensor, *, training: bool) -> Placement:
        """Lay a chain out within the budget."""
        dtypes = dict(
            boundary_dtype=self.boundary_dtype,
            gradient_dtype=self.gradient_dtype,
            compute_dtype=self.precision.dtype,
        )
        if self._computes_in_place:
            if training:
                print_log(
                    f'Training in place on the CPU, {self.micro_batch} images at a '
                    'time; vram_budget plays no part',
                    logger='current',
                )
            return Placement(**dtypes)
        step = self.memory_step(len(inputs), inputs.shape[2:], training=training)
        budget = self._budget
        former = self._spacings.get(step.first_trainable) if training else None
        layout = memory.plan_layout(
            step, budget_mib=budget, training=training, spacing=former
        )
        if former not in (None, layout.spacing):
            warn_of_other_bits(
                f'Activations were kept every {former} blocks so far, which takes more '
                f'than the {budget:.0f} MiB of GPU memory that can be had now. They '
                f'are kept every {layout.spacing}.'
            )
        if training and self._rounds_boundaries:
            self._spacings[step.first_trainable] = layout.spacing
        if self.device.type == 'cuda':
            _limit_memory(self.device, budget)
        predict = memory.training_memory if training else memory.inference_memory
        self._planned = f'{predict(step, layout)}, of {budget:.0f} MiB'
        place = 'in host memory' if layout.boundaries_on_host else 'on the device'
        print_log(
            f'{"Training" if training else "Inference"} on {self.device}: '
            f'{layout.slots} of {step.num_blocks} blocks at a time, '
            + (
                f'activations kept every {layout.spacing} blocks {place}, '
                if training
                else ''
            )
            + f'predicted peak {self._planned}',
            logger='current',
        )
        return Placement(**vars(layout), **dtypes)

    @property
    def _rounds_boundaries(self) -> bool:
        return self.boundary_dtype != torch.float32

    @property
    def _computes_in_place(self) -> bool:
        travels = self.travels_on_cpu and self.vram_budget is not None
        return self.device.type == 'cpu' and not travels

    @property
    def _budget(self) -> float:
        """What may be planned with, in MiB."""
        budget = self.vram_budget or math.inf
        if self.vram_budget is None or self._retries:
            budget = min(budget, _free_memory(self.device))
        return budget * _RETRY_SHARE**self._retries

    def memory_step(
        self,
        batch: int,
        img_size: tuple[int, int],
        *,
        training: bool = True,
        compute_dtype: torch.dtype | None = None,
    ) -> memory.Step:
        """Describe a step, in the present phase, to the memory model.

        Args:
            batch: Images in the step.
            img_size: Their (height, width) in px.
            training: Whether there is a backward; else the head takes the whole batch
                at once.
            compute_dtype: What it computes in; None: :attr:`precision`.
        """
        compute_dtype = compute_dtype or self.precision.dtype
        stem, blocks, tail = _stages(self)
        stages = [stem, *blocks, tail]
        micro_batch = min(self.micro_batch, batch)
        images = torch.empty(micro_batch, 3, *img_size, device='meta')
        grid = patch_grid(*img_size)
        tokens = grid[0] * grid[1] + self.backbone.num_extra_tokens
        dims = self.backbone.arch.embed_dims
        x = torch.empty(micro_batch, tokens, dims, device='meta', requires_grad=True)

        def features_to_heatmaps(x: Tensor) -> Tensor:
            return self.head.forward(self._features(x, images))

        def predict(x: Tensor) -> list:
            # Features and heatmaps of both passes of a flip test live side by side.
            features = [self._features(x, images) for _ in range(2)]
            return [features, [self.head.forward(f) for f in features]]

        first_trainable = next(
            (i for i, stage in enumerate(stages) if stage.trains), len(stages) - 1
        )

        def measure(index: int, run: Callable, x: Tensor) -> memory.StageWork:
            backward = training and index >= first_trainable
            return memory.measure_stage(
                run, x, compute_dtype=compute_dtype, backward=backward
            )

        sizes = [sum(p.nbytes for p in stage.params) for stage in stages]
        pixels = img_size[0] * img_size[1]
        heatmaps = self.head.out_channels * tokens * 16  # 4 × 4 positions a patch
        return memory.Step(
            batch=batch,
            micro_batch=micro_batch,
            # A picture as it was loaded and as float32, and its target.
            input_bytes=3 * pixels + 12 * pixels + 4 * heatmaps,
            token_bytes=4 * tokens * dims,
            stem_bytes=sizes[0],
            block_bytes=sizes[1],
            tail_bytes=sizes[-1],
            num_blocks=len(blocks),
            first_trainable=first_trainable,
            stem=measure(0, self.backbone.embed, images),
            # The last one trains if any does.
            block=measure(len(blocks), self.backbone.layers[-1], x),
            tail=(
                measure(len(blocks) + 1, features_to_heatmaps, x)
                if training
                else measure(len(blocks) + 1, predict, x.new_empty(batch, *x.shape[1:]))
            ),
            boundary_dtype=self.boundary_dtype,
            gradient_dtype=self.gradient_dtype,
            workspace_bytes=memory.workspace_bytes(capability_of(self.device)),
        )

    def _out_of_memory(self, error: torch.OutOfMemoryError) -> str:
        return (
            f'The GPU ran out of memory with {self.micro_batch} images at a time: '
            f'{_first_line(error)} '
            + (f'Planned were {self._planned}. ' if self._planned else '')
            + 'Close other programs that use the GPU, or need less: '
            'model.micro_batch=1, a smaller img_size (320×240 as in '
            'configs/sapiens1b_minimal.py), train_dataloader.num_workers=0, a smaller '
            'model.vram_budget.'
            + (
                " model.on_oom='retry' halves the micro-batch by itself."
                if self.on_oom == 'raise'
                else ''
            )
        )


def _nothing_pending(params: Iterable[nn.Parameter] | None = None) -> None:
    """Flush no optimizer."""


def _stages(model: StreamedTopdownPoseEstimator) -> tuple[Stage, list[Stage], Stage]:
    """Take the model apart: patches and positions; layers; norm, neck and head."""
    backbone = model.backbone
    blocks = [Stage(layer, owners_of(layer)) for layer in backbone.layers]
    neck = [model.neck] if model.with_neck else []
    tail = Stage(model.head.loss, owners_of(backbone.ln1, *neck, model.head))
    others = {owner for stage in (*blocks, tail) for owner in stage.owners}
    stem = Stage(
        backbone.embed,
        [owner for owner in owners_of(backbone) if owner not in others],
    )
    return stem, blocks, tail


def _check_parts(model: StreamedTopdownPoseEstimator) -> None:
    if not isinstance(model.backbone, SapiensBackbone):
        raise InputError(
            'StreamedTopdownPoseEstimator streams backbones of type '
            f'sapiens_plugin.SapiensBackbone, not {type(model.backbone).__name__}.'
        )
    if model.backbone.with_cp:
        raise InputError(
            'model.backbone.with_cp=True has no place in a streamed model, which '
            'recomputes by itself. Leave it out.'
        )
    for name, module in model.named_modules():
        if isinstance(module, nn.SyncBatchNorm):
            raise InputError(
                f'{name} is a SyncBatchNorm, which needs several processes; a streamed '
                'model works in one.'
            )


def _mean_logs(logs: list[tuple[int, dict[str, Tensor]]]) -> dict[str, Tensor]:
    """Average what the micro-batches logged over their samples."""
    total = sum(size for size, _ in logs)
    return {
        name: sum(log[name] * (size / total) for size, log in logs)
        for name in logs[0][1]
    }


def _free_memory(device: torch.device) -> float:
    """Return what PyTorch can take of a GPU's memory, in MiB."""
    if device.type == 'cpu':
        return math.inf
    free, _ = torch.cuda.mem_get_info(device)
    free += torch.cuda.memory_reserved(device)
    return free * memory.SHARE_OF_FREE / memory.MIB


def _limit_memory(device: torch.device, mib: float) -> None:
    """Have PyTorch take no more; Windows would lend host memory, and crawl."""
    total = torch.cuda.get_device_properties(device).total_memory
    share = min(mib * memory.MIB / total, 1.0)
    torch.cuda.set_per_process_memory_fraction(share, device)


def _first_line(error: Exception) -> str:
    return str(error).strip().splitlines()[0]
