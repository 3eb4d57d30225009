"Checkpoints of others, Marian, BART, T5, Whisper and their relatives, run by the chapters' own modules."

from .audio import read_audio
from .loading import Checkpoint, generation_settings, load_pretrained
from .settings import DecodingSettings
from .tokenizing import load_tokenizer
from .transcribing import Transcriber
from .translating import Translation, Translator

__all__ = [
    "Checkpoint", "load_pretrained", "generation_settings", "DecodingSettings", "load_tokenizer", "Translation",
    "Translator", "read_audio", "Transcriber",
]  # fmt: skip
