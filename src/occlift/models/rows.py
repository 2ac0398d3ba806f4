"""Linear layers over a number of rows that changes from step to step.

oneDNN, which multiplies for torch on CPUs, compiles a kernel for every shape that it meets and keeps the last thousand
of them, each with its scratch memory. Asked for another number of rows at every step it compiles at every step, and
grows by megabytes each time. Rounded up, the numbers repeat.
"""

from __future__ import annotations

from jaxtyping import Float
from torch import Tensor, nn
from torch.nn import functional as F


def linear_of_rows(layer: nn.Linear, rows: Float[Tensor, "n inputs"]) -> Float[Tensor, "n outputs"]:
    """What the layer says about every row; it is asked for at most an eighth more rows, and few different numbers."""
    count = len(rows)
    # Eight different numbers between a power of two and the next.
    step = 1 << max(count.bit_length() - 4, 6)
    answers: Tensor = layer(F.pad(rows, (0, 0, 0, -count % step)))
    return answers[:count]
