"""A tiny pronouncer for tests of training, files and checkpoints: six words, five letters, five phonemes."""

import torch

from annotated_decoder.encoder_outputs import Vocabulary
from annotated_decoder.generation import EncoderDecoder
from annotated_decoder.pretrained.parts import build_decoder, build_encoder, split_shape
from annotated_decoder.projection import Projection
from annotated_decoder.trained.model_file import TrainedModel

WORDS = {"cab": "K AE1 B", "bed": "B EH1 D", "add": "AE1 D", "dab": "D AE1 B", "dead": "D EH1 D", "ebb": "EH1 B"}


def small_pronouncer(seed=0, tied=True, **changes):
    source = Vocabulary.of("abcde")
    target = Vocabulary.of({p for said in WORDS.values() for p in said.split()})
    torch.manual_seed(seed)
    shape = dict(d_model=32, n_heads=2, d_ff=64, n_layers=1, dropout=0.0, max_len=12) | changes
    encoder = build_encoder(*split_shape(dict(vocab_size=len(source)) | shape))
    decoder = build_decoder(*split_shape(dict(vocab_size=len(target)) | shape))
    head = Projection(shape["d_model"], len(target), decoder.embedding.tokens.weight if tied else None)
    model = EncoderDecoder(encoder, decoder, head)
    return TrainedModel(model.eval(), source, target, notes={"made": ["for a test", 1.5]})


def examples_of(trained):
    return [trained.example(word, said.split()) for word, said in WORDS.items()]
