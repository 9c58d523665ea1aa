"""Position tables: one learned vector a patch, resized when the patch grid changes."""

import torch.nn.functional as F
from torch import Tensor


def resize_pos_embed(
    table: Tensor, source: tuple[int, int], target: tuple[int, int]
) -> Tensor:
    """Resample a position table to another patch grid.

    Bicubic with ``align_corners=False``, as the published pose models do it.

    Args:
        table: Position embeddings without a cls position, (1, h * w, D).
        source: The table's grid (h, w), in patches.
        target: The wanted grid (H, W), in patches.

    Returns:
        The table at the new grid, (1, H * W, D), differentiable.
    """
    if source == target:
        return table
    image = table.reshape(1, *source, -1).permute(0, 3, 1, 2)
    image = F.interpolate(image, size=target, mode='bicubic', align_corners=False)
    return image.flatten(2).transpose(1, 2)
