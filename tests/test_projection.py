"""The projection is affine, may share the embedding's weight, and starts out knowing nothing."""

import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from small import config, ids, noise, seeded, seeds
from torch import nn
from torch.nn.functional import linear
from torch.testing import assert_close

from annotated_decoder.generation import EncoderDecoder
from annotated_decoder.projection import Projection
from annotated_decoder.softmax import cross_entropy

LARGE = 1000


def fresh(tied, vocab_size=LARGE, **changes):
    shape = config(vocab_size=vocab_size, d_model=64, d_ff=64, n_heads=4, **changes)
    torch.manual_seed(0)
    return EncoderDecoder(shape, shape, tied=tied).eval()


@torch.no_grad()
def initial_loss(model):
    source, tokens, targets = (ids(32, 10, seed, LARGE) for seed in range(3))
    return cross_entropy(model(source, tokens), targets).item()


@given(st.integers(1, 9), st.integers(1, 9), seeds)
def test_logits_are_affine_without_activation(d_model, vocab_size, seed):
    head, x = seeded(lambda: Projection(d_model, vocab_size), seed), noise(2, 3, d_model, seed=seed)
    assert_close(head(x), linear(x, head.weight, head.bias))
    assert_close(head(2 * x) - head(x), head(x) - head(0 * x))


@pytest.mark.parametrize("pre_norm", [True, False])
def test_the_first_loss_of_an_untied_head_is_ln_v_and_half_the_variance(pre_norm):
    model = fresh(tied=False, pre_norm=pre_norm)
    assert abs(initial_loss(model) - (math.log(LARGE) + 0.5)) < 0.12
    with torch.no_grad():
        model.projection.weight *= 0.05
    assert abs(initial_loss(model) - math.log(LARGE)) < 0.02


def test_tying_the_usual_embedding_starts_far_too_high():
    model = fresh(tied=True)
    ours = initial_loss(model)
    with torch.no_grad():
        model.decoder.embedding.tokens.weight *= 8.0    # what nn.Embedding draws: variance 1 and not 1/64
    assert initial_loss(model) > ours + 10 > math.log(LARGE) + 10


def test_tied_weights_are_one_parameter():
    tied, untied = fresh(tied=True, vocab_size=9), fresh(tied=False, vocab_size=9)
    assert tied.projection.weight is tied.decoder.embedding.tokens.weight
    assert len(list(untied.parameters())) - len(list(tied.parameters())) == 1
    tied(ids(1, 3, vocab_size=9), ids(1, 3, vocab_size=9)).logsumexp(-1).sum().backward()
    rows = tied.projection.weight.grad.abs().sum(-1)
    assert torch.all(rows > 0)


def test_tied_weights_stay_one_after_a_load():
    ours, other = fresh(tied=True, vocab_size=9), fresh(tied=True, vocab_size=9)
    with torch.no_grad():
        other.projection.weight.add_(1.0)
    ours.load_state_dict(other.state_dict())
    assert ours.projection.weight is ours.decoder.embedding.tokens.weight
    assert torch.equal(ours.projection.weight, other.decoder.embedding.tokens.weight)


def test_a_tied_weight_of_another_shape_is_refused():
    with pytest.raises(ValueError, match=r"\(5, 4\).*\(4, 5\)"):
        Projection(5, 4, nn.Parameter(torch.zeros(5, 4)))
