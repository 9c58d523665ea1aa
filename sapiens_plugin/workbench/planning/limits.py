"""What a search for a job stays within."""

from dataclasses import dataclass

from sapiens_plugin.core.utils.amounts import duration


@dataclass(frozen=True, kw_only=True)
class Limits:
    """What a search stays within; None: no limit.

    Attributes:
        hours: Of the whole run, validations included.
        vram_mib: Of the device's memory, the CUDA context included.
    """

    hours: float | None = None
    vram_mib: int | None = None

    def __str__(self) -> str:
        limits = [duration(self.hours)] if self.hours is not None else []
        limits += [f'{self.vram_mib:,} MiB'] if self.vram_mib is not None else []
        return ' and '.join(limits)
