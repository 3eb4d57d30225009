"""The projection is affine, may share the embedding's weight, and starts out knowing nothing."""

import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from small import assert_near, config, dtypes, few, ids, noise, seeded, seeds
from torch import nn
from torch.nn.functional import cross_entropy as fused

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
    assert_near(head(x), (x[..., None, :] * head.weight).sum(-1) + (head.bias if bias else 0))
    assert_near(head(2 * x) - head(x), head(x) - head(0 * x))


@given(seeds, st.integers(1, 6), st.integers(2, 9))
def test_logits_have_no_more_freedom_than_the_vector(seed, d_model, vocab_size):
    head = seeded(lambda: Projection(d_model, vocab_size, bias=False), seed, torch.float64)
    table = head(noise(20, d_model, seed=seed, dtype=torch.float64)).detach()
    assert torch.linalg.matrix_rank(table) <= d_model


@given(seeds, dtypes)
def test_it_is_torchs_linear_layer_and_each_position_is_alone(seed, dtype):
    head = seeded(lambda: Projection(8, 9), seed, dtype)
    theirs = seeded(lambda: nn.Linear(8, 9), seed, dtype)
    theirs.load_state_dict(head.state_dict())
    x, some = noise(2, 3, 8, seed=seed, dtype=dtype), noise(2, 3, 9, seed=seed + 1, dtype=dtype)
    for layer in (head, theirs):
        (layer(x) * some).sum().backward()
    assert_near(head(x), theirs(x))
    assert_near(head.weight.grad, theirs.weight.grad)
    assert_near(head.bias.grad, theirs.bias.grad)
    assert_near(head(x[1, 2]), head(x)[1, 2])
    changed = x.clone()
    changed[1, 2] += 1.0
    assert ((head(changed) - head(x)).abs().amax(-1) > 1e-3).nonzero().tolist() == [[1, 2]]


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


def test_a_shared_tables_gradient_is_the_sum_of_the_two():
    table = noise(5, 4, dtype=torch.float64).requires_grad_()
    other = table.detach().clone().requires_grad_()
    read, wanted = torch.tensor([[1, 3, 4], [3, 4, 2]])

    def loss(scores):
        return fused(Projection(4, 5, scores, bias=False)(table[read]), wanted)

    (both,) = torch.autograd.grad(loss(table), table)
    embedded, projected = torch.autograd.grad(loss(other), [table, other])
    assert_near(both, embedded + projected)
    assert (embedded != 0).any(-1).tolist() == [False, True, False, True, True]    # the rows that were read
    assert (projected != 0).any(-1).all()


@few
@given(seeds, st.sampled_from([0.1, 1.0, 5.0, 14.0]))
def test_a_loss_lies_between_the_lag_of_its_target_and_ln_v_more(seed, sigma):
    logits, targets = sigma * noise(200, 72, seed=seed, dtype=torch.float64), ids(1, 200, seed, 72)[0]
    losses = torch.stack([cross_entropy(row, target) for row, target in zip(logits, targets)])
    behind = logits.amax(-1) - logits.gather(1, targets[:, None])[:, 0]
    assert torch.all(losses > behind - 1e-9) and torch.all(losses < behind + math.log(72) + 1e-9)
    assert losses.mean() < math.log(72) + sigma**2 / 2 + 0.5


@few
@given(seeds)
def test_an_untrained_tied_model_says_what_it_reads_and_an_untied_one_does_not(seed):
    tokens = ids(32, 12, seed, 72)
    for tied in (True, False):
        model = fresh(tied, 72, 64, seed, n_layers=2)
        echoes = (model(ids(32, 8, seed + 1, 72), tokens).argmax(-1) == tokens).double().mean()
        assert echoes > 0.9 if tied else echoes < 0.2


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
