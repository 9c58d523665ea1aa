"""Running without a GPU."""

from functools import cache, wraps

import torch


@cache
def run_amp_on_cpu() -> None:
    """Let ``--amp`` run where there is no accelerator.

    Symptom:
        AmpOptimizerWrapper is only available training on gpu, npu, mlu or musa.

    Cause:
        The stock wrapper asserts an accelerator, though autocast runs on CPUs too.

    Cure:
        In MMPose's scope, the same name stands for a wrapper that runs in bfloat16
        without loss scaling. With an accelerator, nothing. Checkpoints of either
        resume in the other.
    """
    from mmengine.device import get_device

    if get_device() != 'cpu':
        return

    from mmengine.logging import print_log
    from mmengine.optim import AmpOptimWrapper as StockAmpOptimWrapper
    from mmengine.optim import OptimWrapper
    from mmpose.registry import OPTIM_WRAPPERS

    @OPTIM_WRAPPERS.register_module()
    class AmpOptimWrapper(StockAmpOptimWrapper):
        def __init__(
            self,
            loss_scale: str | float | dict = 'dynamic',
            dtype: str | torch.dtype | None = None,
            use_fsdp: bool = False,
            **kwargs,
        ):
            # Not the stock wrapper's own, which is the one that asserts.
            OptimWrapper.__init__(self, **kwargs)
            self._scale_update_param = None
            self.loss_scaler = torch.amp.GradScaler('cpu', enabled=False)
            self.cast_dtype = torch.bfloat16
            print_log(
                'Mixed precision on the CPU: bfloat16, without loss scaling.',
                logger='current',
            )

        def state_dict(self) -> dict:
            # The scaler of a GPU refuses the empty state of this one, and does well
            # without any.
            state = super().state_dict()
            del state['loss_scaler']
            return state


@cache
def run_distributed_on_cpu() -> None:
    """Let ``tools/dist_train.sh`` run where there is no accelerator.

    Symptom:
        module 'torch._C' has no attribute '_cuda_setDevice'; then: device_ids and
        output_device arguments only work with single-device GPU modules.

    Cause:
        MMEngine selects a CUDA device and takes the backend ``nccl`` from the config,
        and ``Runner.wrap_model`` names a device to DistributedDataParallel.

    Cure:
        Processes meet over gloo, and no device is named. With an accelerator, nothing.
    """
    from mmengine.device import get_device

    if get_device() != 'cpu':
        return

    from mmengine.dist import utils
    from mmengine.model import MMDistributedDataParallel

    def init_dist_pytorch(backend: str, init_backend: str = 'torch', **kwargs) -> None:
        torch.distributed.init_process_group('gloo', **kwargs)

    utils._init_dist_pytorch = init_dist_pytorch

    stock_init = MMDistributedDataParallel.__init__

    @wraps(stock_init)
    def init(self, module, *args, device_ids=None, **kwargs) -> None:
        stock_init(self, module, *args, **kwargs)

    MMDistributedDataParallel.__init__ = init
