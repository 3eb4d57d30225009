"The Transformer decoder, built chapter by chapter. The names below are the book's table of contents in code."

from importlib import import_module
from typing import TYPE_CHECKING, Any

__version__ = "0.1.0"

__all__ = [
    "Vocabulary", "MultiHeadAttention", "causal_mask", "Embedding", "Residual", "StackConfig", "Decoder", "Encoder",
    "Projection", "EncoderDecoder", "generate", "Cache", "beam_search", "pronounce", "steps",
]  # fmt: skip

if TYPE_CHECKING:
    from .attention import MultiHeadAttention, causal_mask
    from .caching import Cache
    from .decoder import Decoder, StackConfig
    from .embedding import Embedding
    from .encoder import Encoder
    from .encoder_outputs import Vocabulary
    from .generation import EncoderDecoder, generate
    from .normalization import Residual
    from .projection import Projection
    from .pronunciation import pronounce, steps
    from .strategies import beam_search

_CHAPTERS = {
    "encoder_outputs": ["Vocabulary"], "attention": ["MultiHeadAttention", "causal_mask"], "embedding": ["Embedding"],
    "normalization": ["Residual"], "decoder": ["StackConfig", "Decoder"], "encoder": ["Encoder"],
    "projection": ["Projection"], "generation": ["EncoderDecoder", "generate"], "caching": ["Cache"],
    "strategies": ["beam_search"], "pronunciation": ["pronounce", "steps"],
}  # fmt: skip
_HOME = {name: chapter for chapter, names in _CHAPTERS.items() for name in names}


def __getattr__(name: str) -> Any:
    "A name is imported when it is first asked for: PyTorch takes seconds to load, and `--version` needs none of it."
    if name not in _HOME:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    found = getattr(import_module(f".{_HOME[name]}", __name__), name)
    globals()[name] = found
    return found


def __dir__() -> list[str]:
    return sorted([*globals(), *__all__])
