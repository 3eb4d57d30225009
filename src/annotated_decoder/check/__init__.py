"The exercises' checkers: `check.NAME(answer)` says which law an answer breaks, and gives three hints."

from .ablations import gains, p_value, parted_by_chance
from .attention import heads_apart, longer_query, weights_of, window_mask
from .bug_museum import go_on, sees_future, softmaxed_floor
from .caching import cache_size, moved_rows, own_cache
from .cross_attention import numbers_kept, padded_weights, read_memory
from .decoder import lens, pre_norm_layer, pre_norm_sum
from .embedding import placed, turned, two_positions
from .encoder_outputs import n_padding, padded_left, spoken
from .encoder import gpt2_size, pooled, prompt_mask, without_memory
from .fast_decoding import bytes_of_a_step, filled_part, to_whole
from .looking_inside import columns_in_effect, other_columns, without_head
from .normalization import climbed, one_sublayer, rms_in_half
from .generation import ended_share, say_all, write_batch
from .own_decoder import my_decoder
from .pretrained import shapes, t5_name, tied_penalty, would_repeat
from .primer import descend, mean_surprise, slope, to_shares
from .projection import best_tokens, tied_bytes, two_ends
from .scaling_out import items_of, least_cards, mean_gradient
from .softmax import drawn, masked_loss, sharper_share
from .strategies import min_p, slots_apart, winner_share
from .tour import ends_here, say, write_out
from .training import least_loss, one_step, validation_loss

__all__ = [
    "ends_here", "say", "write_out",
    "mean_surprise", "to_shares", "slope", "descend",
    "n_padding", "padded_left", "spoken",
    "longer_query", "weights_of", "window_mask", "heads_apart",
    "padded_weights", "numbers_kept", "read_memory",
    "two_positions", "turned", "placed",
    "one_sublayer", "rms_in_half", "climbed",
    "pre_norm_sum", "lens", "pre_norm_layer",
    "gpt2_size", "without_memory", "prompt_mask", "pooled",
    "tied_bytes", "best_tokens", "two_ends",
    "sharper_share", "masked_loss", "drawn",
    "ended_share", "say_all", "write_batch",
    "cache_size", "own_cache", "moved_rows",
    "winner_share", "min_p", "slots_apart",
    "least_loss", "one_step", "validation_loss",
    "parted_by_chance", "p_value", "gains",
    "columns_in_effect", "without_head", "other_columns",
    "softmaxed_floor", "go_on", "sees_future",
    "bytes_of_a_step", "to_whole", "filled_part",
    "tied_penalty", "shapes", "t5_name", "would_repeat",
    "least_cards", "mean_gradient", "items_of",
    "my_decoder",
]  # fmt: skip
