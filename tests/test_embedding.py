"""A token's vector is its row times √d plus its position's row, wherever the reading starts."""

import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from small import assert_near, dtypes, ids, noise, seeded, seeds
from torch import nn
from torch.testing import assert_close

from annotated_decoder.embedding import Embedding, sinusoids
from annotated_decoder.pretrained.parts import BareEmbedding

kinds = st.sampled_from(["sinusoidal", "learned"])
scales = st.sampled_from([None, 1.0, 2.5])
widths = st.sampled_from([2, 6, 16])


def table(kind, max_len, d_model):
    computed = sinusoids(max_len, d_model)
    return computed if kind == "sinusoidal" else nn.Parameter(noise(max_len, d_model).float())


@given(st.integers(0, 60), st.integers(1, 8))
def test_sinusoids_are_the_formula(position, pairs):
    row = sinusoids(61, 2 * pairs)[position].double()
    angles = [position / 10000 ** (pair / pairs) for pair in range(pairs)]
    expected = torch.tensor([f(angle) for angle in angles for f in (math.sin, math.cos)], dtype=torch.float64)
    assert_close(row, expected, atol=1e-6, rtol=0)


def test_the_product_of_two_positions_depends_on_their_distance_only():
    rows = sinusoids(20, 8).double()
    products = rows @ rows.T
    for distance in range(20):
        diagonal = products.diagonal(distance)
        assert_close(diagonal, diagonal[:1].expand_as(diagonal), atol=1e-5, rtol=0)
    assert products[0, 1] < products[0, 0]


@given(st.integers(0, 30), st.integers(0, 20), st.integers(1, 8))
def test_a_shift_turns_every_pair_by_an_angle_of_its_own(position, k, pairs):
    now, then = (sinusoids(60, 2 * pairs).double()[p].unflatten(0, (-1, 2)) for p in (position, position + k))
    turns = torch.tensor([k / 10000 ** (pair / pairs) for pair in range(pairs)], dtype=torch.float64)
    sine, cosine = turns.sin(), turns.cos()
    turned = torch.stack([cosine * now[:, 0] + sine * now[:, 1], cosine * now[:, 1] - sine * now[:, 0]], -1)
    assert_close(then, turned, atol=1e-5, rtol=0)
    assert_close(now.square().sum(-1), torch.ones(pairs, dtype=torch.float64), atol=1e-5, rtol=0)


def test_a_longer_table_has_the_same_beginning():
    assert torch.equal(sinusoids(50, 6)[:10], sinusoids(10, 6))


def test_an_odd_width_is_refused():
    with pytest.raises(ValueError, match="d_model = 7 must be even"):
        sinusoids(4, 7)


@given(seeds, dtypes, kinds, widths, scales, st.booleans(), st.integers(1, 9))
def test_a_vector_is_scaled_row_plus_position_then_the_norm(seed, dtype, kind, d_model, scale, normed, length):
    norm = nn.LayerNorm(d_model) if normed else None
    embedding = seeded(lambda: Embedding(11, table(kind, 9, d_model), scale=scale, norm=norm), seed, dtype)
    tokens, factor = ids(2, length, seed), d_model**0.5 if scale is None else scale
    total = factor * embedding.tokens.weight[tokens] + embedding.positions[:length]
    assert_near(embedding(tokens), norm(total) if normed else total)


@given(seeds, dtypes, kinds, widths, st.integers(0, 5))
def test_reading_on_from_a_position_is_reading_all(seed, dtype, kind, d_model, start):
    embedding, tokens = seeded(lambda: Embedding(11, table(kind, 9, d_model)), seed, dtype), ids(2, 6, seed)
    assert torch.equal(embedding(tokens[:, start:], start=start), embedding(tokens)[:, start:])


@given(seeds, dtypes, kinds, widths, st.booleans())
def test_a_batch_is_its_rows_and_training_changes_nothing_without_dropout(seed, dtype, kind, d_model, normed):
    norm = nn.LayerNorm(d_model) if normed else None
    embedding, tokens = seeded(lambda: Embedding(11, table(kind, 9, d_model), norm=norm), seed, dtype), ids(3, 6, seed)
    found = embedding(tokens)
    assert_near(torch.cat([embedding(row[None]) for row in tokens]), found)
    assert torch.equal(embedding.train()(tokens), found)


def test_under_a_norm_the_size_of_the_sum_is_lost_and_the_share_of_the_token_kept():
    embedding = seeded(lambda: Embedding(11, table("learned", 9, 8), scale=1.0, norm=nn.LayerNorm(8, eps=1e-12)))
    tokens = ids(2, 7)
    plain, embedding.scale = embedding(tokens), 10.0
    assert (embedding(tokens) - plain).abs().max() > 0.1
    with torch.no_grad():
        embedding.positions.mul_(10)
    assert_close(embedding(tokens), plain)


def test_equal_tokens_at_different_places_have_different_vectors():
    vectors = seeded(lambda: Embedding(11, sinusoids(9, 8)))(torch.full((1, 9), 5))[0]
    assert torch.cdist(vectors, vectors).fill_diagonal_(1).min() > 0.01


def test_scaled_rows_have_variance_one():
    embedding = seeded(lambda: Embedding(500, sinusoids(9, 64)))
    assert abs((embedding.tokens.weight * embedding.scale).var().item() - 1) < 0.05


def test_only_learned_positions_are_parameters():
    names = {kind: set(Embedding(5, table(kind, 6, 4)).state_dict()) for kind in ("sinusoidal", "learned")}
    assert names == {"sinusoidal": {"tokens.weight"}, "learned": {"tokens.weight", "positions"}}
    assert torch.equal(Embedding(5, sinusoids(6, 4)).positions, sinusoids(6, 4))


@pytest.mark.parametrize("norm", [None, nn.LayerNorm(64)])
def test_dropout_falls_on_the_sum_and_after_its_norm(norm):
    embedding = seeded(lambda: Embedding(11, sinusoids(9, 64), dropout=0.5, norm=norm)).train()
    tokens = ids(4, 9)
    dropped = embedding(tokens)
    assert 0.4 < (dropped == 0).double().mean() < 0.6
    assert_close(dropped[dropped != 0], 2 * embedding.eval()(tokens)[dropped != 0])


@pytest.mark.parametrize("length, start", [(7, 0), (1, 6), (3, 4)])
def test_a_position_past_the_last_is_refused(length, start):
    for embedding in (Embedding(11, sinusoids(6, 4)), BareEmbedding(11, 4, 6, 0.0, None)):
        with pytest.raises(ValueError, match="7 positions.*max_len is 6"):
            embedding(ids(1, length), start=start)
