"The book's running example: letters in, phonemes out, the trained model and the dictionary it learned from."

from .dictionary import read_cmudict, score, split_of
from .model import pronounce, pronouncer, steps
from .phonemes import PHONEMES, ipa
from .recipe import train_pronouncer
from .text import rewrite
from .words import read_word

__all__ = [
    "pronounce", "steps", "rewrite", "pronouncer", "train_pronouncer", "read_word", "read_cmudict", "split_of", "score",
    "PHONEMES", "ipa",
]  # fmt: skip
