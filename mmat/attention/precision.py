"""Precision of the formulas."""
from torch import Tensor


def at_least_float32(values: Tensor) -> Tensor:
    """Convert half precision to float32; return float32 and float64 unchanged."""
    return values if values.element_size() > 4 else values.float()
