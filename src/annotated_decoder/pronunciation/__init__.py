"The book's running example: letters in, phonemes out, the trained model and the dictionary it learned from."

from typing import TYPE_CHECKING

from .. import lazily

__all__ = [
    "pronounce", "steps", "rewrite", "pronouncer", "train_pronouncer", "read_word", "read_cmudict", "split_of", "score",
    "PHONEMES", "ipa",
]  # fmt: skip

if TYPE_CHECKING:
    from .dictionary import read_cmudict, score, split_of
    from .model import pronouncer, steps
    from .phonemes import PHONEMES, ipa
    from .recipe import train_pronouncer
    from .saying import pronounce
    from .text import rewrite
    from .words import read_word

_MODULES = {
    "dictionary": ["read_cmudict", "score", "split_of"], "model": ["pronouncer", "steps"],
    "phonemes": ["PHONEMES", "ipa"], "recipe": ["train_pronouncer"], "saying": ["pronounce"], "text": ["rewrite"],
    "words": ["read_word"],
}  # fmt: skip

__getattr__, __dir__ = lazily(__name__, _MODULES)
