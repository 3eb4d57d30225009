"The book's running example: letters in, phonemes out, the trained model and the dictionary it learned from."

from .dictionary import read_cmudict, score, split_of
from .model import pronounce, pronouncer, steps, train_pronouncer
from .phonemes import PHONEMES, ipa

__all__ = [
    "pronounce", "steps", "pronouncer", "train_pronouncer", "read_cmudict", "split_of", "score", "PHONEMES", "ipa",
]  # fmt: skip
