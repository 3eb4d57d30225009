"The exercises' checkers: `check.NAME(answer)` says which law an answer breaks, and gives three hints."

from .cross_attention import numbers_kept, padded_weights, read_memory
from .fast_decoding import bytes_of_a_step, filled_part, to_whole
from .primer import descend, mean_surprise, slope, to_shares

__all__ = [
    "mean_surprise", "to_shares", "slope", "descend", "padded_weights", "numbers_kept", "read_memory",
    "bytes_of_a_step", "to_whole", "filled_part",
]  # fmt: skip
