"""In what precision the formulas are computed."""
from torch import Tensor


def at_least_float32(values: Tensor) -> Tensor:
    """Half precision raised to float32; float32 and float64 as they are."""
    return values if values.element_size() > 4 else values.float()
