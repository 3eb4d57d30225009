"""The projection is affine, may share the embedding's weight, and starts out knowing nothing."""

import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from small import assert_near, config, dtypes, few, ids, noise, seeded, seeds
from torch import nn

from annotated_decoder.generation import EncoderDecoder
from annotated_decoder.projection import Projection
from annotated_decoder.softmax import cross_entropy

widths = st.sampled_from([24, 40, 64])
vocabularies = st.sampled_from([200, 500, 1000])


def fresh(tied, vocab_size=9, d_model=8, seed=0, dtype=torch.float32, **changes):
    shape = config(vocab_size=vocab_size, d_model=d_model, d_ff=d_model, n_heads=4, **changes)
    torch.manual_seed(seed)
    return EncoderDecoder.of(shape, shape, tied=tied).to(dtype).eval()


@torch.no_grad()
def initial_loss(model):
    vocab_size = model.decoder.config.vocab_size
    source, tokens, targets = (ids(96, 10, seed, vocab_size) for seed in range(3))
    return cross_entropy(model(source, tokens), targets).item()


@given(st.integers(1, 9), st.integers(1, 9), seeds, dtypes, st.booleans())
def test_logits_are_affine_without_activation(d_model, vocab_size, seed, dtype, bias):
    head = seeded(lambda: Projection(d_model, vocab_size, bias=bias), seed, dtype)
    x = noise(2, 3, d_model, seed=seed, dtype=dtype)
    assert set(head.state_dict()) == ({"weight", "bias"} if bias else {"weight"})
    assert_near(head(x), x @ head.weight.T + (0 if head.bias is None else head.bias))
    assert_near(head(2 * x) - head(x), head(x) - head(0 * x))


@few
@given(seeds, vocabularies, widths, st.integers(1, 3), st.booleans(), dtypes)
def test_the_first_loss_of_an_untied_head_is_ln_v_and_half_the_variance(seed, v, width, layers, pre_norm, dtype):
    model = fresh(False, v, width, seed, dtype, n_layers=layers, pre_norm=pre_norm)
    assert abs(initial_loss(model) - (math.log(v) + 0.5)) < 0.2
    with torch.no_grad():
        model.projection.weight *= 0.05
    assert abs(initial_loss(model) - math.log(v)) < 0.02


@few
@given(seeds, vocabularies, widths, st.integers(1, 3), dtypes)
def test_a_default_embedding_tied_as_the_head_starts_near_the_models_width(seed, v, width, layers, dtype):
    model = fresh(True, v, width, seed, dtype, n_layers=layers)
    ours = initial_loss(model)
    nn.init.normal_(model.decoder.embedding.tokens.weight)    # as nn.Embedding draws: variance 1 and not 1 / d_model
    loss = initial_loss(model)
    assert abs(loss / width - 1) < 0.1 and loss > ours + 5


def test_for_our_phonemes_and_a_width_of_40_that_is_near_38():
    model = fresh(True, 72, 40)
    assert initial_loss(model) < 8
    nn.init.normal_(model.decoder.embedding.tokens.weight)
    assert abs(initial_loss(model) - 38) < 1.5


def test_tied_weights_are_one_parameter():
    tied, untied = fresh(tied=True), fresh(tied=False)
    assert tied.projection.weight is tied.decoder.embedding.tokens.weight
    assert len(list(untied.parameters())) - len(list(tied.parameters())) == 1
    tied(ids(1, 3, vocab_size=9), ids(1, 3, vocab_size=9)).logsumexp(-1).sum().backward()
    rows = tied.projection.weight.grad.abs().sum(-1)
    assert torch.all(rows > 0)


def test_tied_weights_stay_one_after_a_load():
    ours, other = fresh(tied=True), fresh(tied=True)
    with torch.no_grad():
        other.projection.weight.add_(1.0)
    ours.load_state_dict(other.state_dict())
    assert ours.projection.weight is ours.decoder.embedding.tokens.weight
    assert torch.equal(ours.projection.weight, other.decoder.embedding.tokens.weight)


def test_a_tied_weight_of_another_shape_is_refused():
    with pytest.raises(ValueError, match=r"\(5, 4\).*\(4, 5\)"):
        Projection(5, 4, nn.Parameter(torch.zeros(5, 4)))
