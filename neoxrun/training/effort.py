"""The operations of a training step, and the share of the devices' peak that it reaches (MFU). No torch."""

from __future__ import annotations

from dataclasses import dataclass

from neoxrun.config.settings import Precision
from neoxrun.planning.devices import Device
from neoxrun.planning.hardware import is_listed, speed_of


@dataclass(frozen=True)
class Effort:
    """What a token costs, and what the devices give.

    The count is that of Chowdhery et al. (PaLM, 2022, appendix B) without attention: a parameter of a matrix product
    takes 2 operations in the forward pass, 2 for the gradient of its input and, if it is trained, 2 for its own. What
    is computed again in the backward pass is not counted.

    Attributes:
        frozen, trained: parameters of the whole model that take part in products: all but looked-up embeddings.
        peak: operations a second of all devices together, by the data sheet; None where it is not known.
    """

    frozen: int
    trained: int
    peak: float | None

    @property
    def operations_per_token(self) -> int:
        """Multiplications and additions."""
        return 4 * self.frozen + 6 * self.trained

    def utilization(self, tokens_per_second: float) -> float | None:
        """MFU, the share of the peak: from 0 to 1; None where the peak is not known."""
        return None if self.peak is None else tokens_per_second * self.operations_per_token / self.peak


def peak_of(device_name: str, precision: Precision, devices: int) -> float | None:
    """Operations a second of GPUs of one kind, by their data sheet.

    Args:
        device_name: as CUDA and NVML have it.
        precision: the number format of the products.
        devices: how many there are.

    Returns:
        None where the GPU is not listed, and for CPUs.
    """
    device = Device("cuda", 0, device_name, 0, 0)
    return devices * speed_of(device).flops(precision) if is_listed(device) else None
