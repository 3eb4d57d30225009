"Checkpoints of others, Marian, BART, T5 and Whisper, run by the chapters' own modules."

from .loading import Checkpoint, generation_settings, load_pretrained
from .settings import DecodingSettings
from .tokenizing import load_tokenizer
from .translating import Translation, Translator

__all__ = ["Checkpoint", "load_pretrained", "generation_settings", "DecodingSettings", "load_tokenizer", "Translation", "Translator"]
