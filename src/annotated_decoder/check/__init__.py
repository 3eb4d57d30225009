"The exercises' checkers: `check.NAME(answer)` says which law an answer breaks, and gives three hints."

from .attention import heads_apart, longer_query, weights_of, window_mask
from .cross_attention import numbers_kept, padded_weights, read_memory
from .embedding import placed, turned, two_positions
from .encoder_outputs import n_padding, padded_left, spoken
from .encoder import layer_size, pooled, without_memory
from .fast_decoding import bytes_of_a_step, filled_part, to_whole
from .normalization import climbed, one_sublayer, rms_in_half
from .primer import descend, mean_surprise, slope, to_shares

__all__ = [
    "mean_surprise", "to_shares", "slope", "descend", "longer_query", "weights_of", "window_mask",
    "heads_apart", "padded_weights", "numbers_kept", "read_memory", "two_positions", "turned", "placed",
    "one_sublayer", "rms_in_half", "climbed",
    "n_padding", "padded_left", "spoken", "layer_size", "without_memory", "pooled",
    "bytes_of_a_step", "to_whole", "filled_part",
]  # fmt: skip
