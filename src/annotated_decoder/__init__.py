"The Transformer decoder, built chapter by chapter. The names below are the book's table of contents in code."

import sys
from collections.abc import Callable, Mapping, Sequence
from importlib import import_module
from typing import TYPE_CHECKING, Any

__version__ = "0.2.0"

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

_MODULES = {
    "encoder_outputs": ["Vocabulary"], "attention": ["MultiHeadAttention", "causal_mask"], "embedding": ["Embedding"],
    "normalization": ["Residual"], "decoder": ["StackConfig", "Decoder"], "encoder": ["Encoder"],
    "projection": ["Projection"], "generation": ["EncoderDecoder", "generate"], "caching": ["Cache"],
    "strategies": ["beam_search"], "pronunciation": ["pronounce", "steps"],
}  # fmt: skip


def lazily(
    package: str, modules: Mapping[str, Sequence[str]]
) -> tuple[Callable[[str], Any], Callable[[], list[str]]]:
    """`__getattr__` and `__dir__` of a package: a name is imported from its module when it is first asked for.

    PyTorch takes seconds to load, and `--version` or a word to pronounce needs none of it.
    """
    home = {name: module for module, names in modules.items() for name in names}

    def find(name: str) -> Any:
        if name not in home:
            raise AttributeError(f"module {package!r} has no attribute {name!r}")
        found = getattr(import_module(f".{home[name]}", package), name)
        setattr(sys.modules[package], name, found)
        return found

    return find, lambda: sorted({*vars(sys.modules[package]), *home})


__getattr__, __dir__ = lazily(__name__, _MODULES)
