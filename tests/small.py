"""Small models and inputs for the laws, in double precision so that a tolerance can be tight."""

import torch
from hypothesis import settings
from hypothesis import strategies as st

from annotated_decoder.decoder import Decoder, StackConfig
from annotated_decoder.encoder import Encoder
from annotated_decoder.encoder_outputs import END
from annotated_decoder.generation import EncoderDecoder

VOCAB = 11

few = settings(max_examples=max(4, settings.default.max_examples // 3))    # for laws that run many passes

seeds = st.integers(0, 2**16)
shapes = st.fixed_dictionaries(
    {
        "pre_norm": st.booleans(),
        "norm": st.sampled_from(["layer", "rms"]),
        "positions": st.sampled_from(["sinusoidal", "learned"]),
        "activation": st.sampled_from(["relu", "gelu"]),
    }
)


def config(**changes):
    plain = dict(vocab_size=VOCAB, max_len=12, d_model=8, n_heads=2, d_ff=16, n_layers=2, dropout=0.0)
    return StackConfig(**plain | changes)


def seeded(make, seed=0):
    "What `make()` gives, in double precision and eval mode, its biases and norms moved off 0 and 1."
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        module = make().double().eval()
        with torch.no_grad():
            for p in module.parameters():
                if p.dim() == 1:
                    p.add_(torch.randn_like(p), alpha=0.2)
    return module


def decoder(seed=0, **changes):
    return seeded(lambda: Decoder(config(**changes)), seed)


def encoder(seed=0, **changes):
    return seeded(lambda: Encoder(config(**changes)), seed)


def model(seed=0, *, tied=False, kind=EncoderDecoder, end_bias=0.0, **changes):
    "Encoder and decoder of one shape; `end_bias` makes the end symbol come sooner."
    made = seeded(lambda: kind(config(**changes), config(**changes), tied=tied), seed)
    with torch.no_grad():
        made.projection.bias[END] += end_bias
    return made


def noise(*shape, seed=0):
    return torch.randn(*shape, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))


def ids(batch, length, seed=0, vocab_size=VOCAB):
    "Ordinary tokens: none of the three special symbols."
    return torch.randint(3, vocab_size, (batch, length), generator=torch.Generator().manual_seed(seed))


def mask(*lengths):
    "True where a row of this length is real, padding on the right."
    return torch.arange(max(lengths)) < torch.tensor(lengths)[:, None]
