"""Small models and inputs for the laws: many shapes, single and double precision, a tolerance for each."""

from itertools import product

import torch
from hypothesis import settings
from hypothesis import strategies as st
from torch.testing import assert_close

from annotated_decoder.encoder_outputs import END, PAD, START
from annotated_decoder.generation import EncoderDecoder
from annotated_decoder.pretrained.parts import (
    ACTIVATIONS,
    NORMS,
    POSITIONS,
    RelativePositions,
    build_decoder,
    build_encoder,
    split_shape,
)
from annotated_decoder.projection import Projection

VOCAB = 11
TOLERANCE = {torch.float32: 1e-4, torch.float64: 1e-9}

few = settings(max_examples=max(4, settings.default.max_examples // 3))    # for laws that run many passes

seeds = st.integers(0, 2**16)
dtypes = st.sampled_from(list(TOLERANCE))
shapes = st.fixed_dictionaries(
    {
        "d_model": st.sampled_from([4, 6, 10]),
        "n_heads": st.integers(1, 3),
        "head_dim": st.integers(3, 5),    # whatever d_model is
        "d_ff": st.sampled_from([3, 16]),
        "n_layers": st.integers(1, 3),
        "pre_norm": st.booleans(),
        "norm": st.sampled_from(list(NORMS)),
        "norm_eps": st.sampled_from([None, 1e-3]),
        "activation": st.sampled_from(list(ACTIVATIONS)),
        "gated": st.booleans(),
        "linear_bias": st.booleans(),
        "positions": st.sampled_from(POSITIONS),
        "relative_buckets": st.sampled_from([4, 9, 32]),
        "relative_distance": st.sampled_from([17, 128]),
        "embedding_scale": st.sampled_from([None, 1.0]),
        "embedding_norm": st.booleans(),
        "attention_scale": st.sampled_from([None, 1.0]),
        "dtype": dtypes,
    }
)
lengths = st.lists(st.integers(1, 5), min_size=1, max_size=3)    # one for each source of a batch


def assert_near(found, expected):
    "Equal but for rounding, in the precision of what was found (a tensor, or pairs and lists of them)."
    first = found
    while not isinstance(first, torch.Tensor):
        first = first[0]
    assert_close(found, expected, atol=TOLERANCE[first.dtype], rtol=TOLERANCE[first.dtype])


def shape(**changes):
    "The configuration and the parts of a small stack."
    plain = dict(vocab_size=VOCAB, max_len=12, d_model=8, n_heads=2, d_ff=16, n_layers=2, dropout=0.0)
    return split_shape(plain | changes)


def config(**changes):
    return shape(**changes)[0]


def whole(decoder_changes=None, *, tied=False, kind=EncoderDecoder, embedding=None, **changes):
    "Encoder, decoder and projection of one shape, untouched; `embedding` reads another source than tokens."
    encoder = build_encoder(*shape(**changes), embedding)
    decoder = build_decoder(*shape(**changes | (decoder_changes or {})))
    size = decoder.config.d_model, decoder.config.vocab_size
    return kind(encoder, decoder, Projection(*size, decoder.embedding.tokens.weight if tied else None))


def seeded(make, seed=0, dtype=torch.float64):
    "What `make()` gives, in this precision and eval mode, its biases, relative ones too, and norms moved off 0 and 1."
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        module = make().to(dtype).eval()
        with torch.no_grad():
            for p in module.parameters():
                if p.dim() == 1:
                    p.add_(torch.randn_like(p), alpha=0.2)
            for part in module.modules():
                if isinstance(part, RelativePositions):
                    part.weight.normal_()
    return module


def decoder(seed=0, dtype=torch.float64, **changes):
    return seeded(lambda: build_decoder(*shape(**changes)), seed, dtype)


def encoder(seed=0, dtype=torch.float64, **changes):
    return seeded(lambda: build_encoder(*shape(**changes)), seed, dtype)


def model(seed=0, dtype=torch.float64, *, tied=False, kind=EncoderDecoder, end_bias=0.0, **changes):
    "Encoder and decoder of one shape; `end_bias` makes the end symbol come sooner."
    made = seeded(lambda: whole(tied=tied, kind=kind, **changes), seed, dtype)
    with torch.no_grad():
        made.projection.bias[END] += end_bias
    return made


def noise(*shape, seed=0, dtype=torch.float64):
    return torch.randn(*shape, dtype=dtype, generator=torch.Generator().manual_seed(seed))


def memory_for(dec, batch, length, seed=0):
    "Noise of the decoder's width, in its precision."
    return noise(batch, length, dec.config.d_model, seed=seed, dtype=dec.embedding.tokens.weight.dtype)


def ids(batch, length, seed=0, vocab_size=VOCAB):
    "Ordinary tokens: none of the three special symbols."
    return torch.randint(3, vocab_size, (batch, length), generator=torch.Generator().manual_seed(seed))


def other_token(tokens, place):
    "The same tokens but for one, at `place`."
    changed = tokens.clone()
    changed[:, place] = 3 + (changed[:, place] - 2) % (VOCAB - 3)
    assert not torch.equal(changed, tokens)
    return changed


def mask(*lengths, width=0):
    "True where a row of this length is real, padding on the right, at least `width` columns."
    return torch.arange(max(*lengths, width)) < torch.tensor(lengths)[:, None]


def some_visible(*shape, seed=0):
    "A random mask, every row of which has something to see."
    seen = noise(*shape, seed=seed + 1) > 0
    seen[..., 0] |= ~seen.any(-1)
    return seen


def permutation(n, seed):
    return torch.randperm(n, generator=torch.Generator().manual_seed(seed))


def passes(module):
    "The shapes of what `module` is called with, as they come."
    seen = []
    module.register_forward_pre_hook(lambda _, inputs: seen.append(tuple(inputs[0].shape)))
    return seen


class Rounded(EncoderDecoder):
    "Logits that are multiples of a half, so that many tie."

    def decode(self, *args):
        return (2 * super().decode(*args)).round() / 2


def token_scores(made, source, sequences, prompt=(START,)):
    "log p of the tokens of each sequence, all positions of all of them scored in one pass."
    longest = max(map(len, sequences))
    said = torch.tensor([[*s] + [PAD] * (longest - len(s)) for s in sequences])
    fed = torch.cat([torch.tensor(prompt).expand(len(sequences), -1), said[:, :-1]], 1)
    log_p = made(source.expand(len(sequences), -1), fed)[:, len(prompt) - 1 :].log_softmax(-1)
    log_p = log_p.gather(-1, said[..., None])[..., 0]
    return [row[: len(s)].tolist() for row, s in zip(log_p, sequences, strict=True)]


def every_sequence(vocab_size, limit):
    "All token sequences that end with the first end symbol, or at the limit without one."
    others = [t for t in range(vocab_size) if t != END]
    for length in range(limit):
        yield from ((*body, END) for body in product(others, repeat=length))
    yield from product(others, repeat=limit)
