"The Transformer decoder, built chapter by chapter. The names below are the book's table of contents in code."

__version__ = "0.1.0"

from .encoder_outputs import Vocabulary
from .attention import MultiHeadAttention, causal_mask
from .embedding import Embedding
from .normalization import Residual
from .decoder import Decoder, StackConfig
from .encoder import Encoder
from .projection import Projection
from .generation import EncoderDecoder, generate
from .caching import Cache
from .strategies import beam_search
from .pronunciation import pronounce, steps

__all__ = [
    "Vocabulary", "MultiHeadAttention", "causal_mask", "Embedding", "Residual", "StackConfig", "Decoder", "Encoder",
    "Projection", "EncoderDecoder", "generate", "Cache", "beam_search", "pronounce", "steps",
]  # fmt: skip
