"Checkpoints of others, Marian, BART, T5 and Whisper, run by the chapters' own modules."

from .loading import load_pretrained
from .settings import DecodingSettings, generation_settings
from .translating import Translator, load_tokenizer

__all__ = ["load_pretrained", "generation_settings", "DecodingSettings", "Translator", "load_tokenizer"]
