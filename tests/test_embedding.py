"""A token's vector is its row times √d plus its position's row, wherever the reading starts."""

import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from small import assert_near, dtypes, ids, seeded, seeds
from torch import nn
from torch.testing import assert_close
from transformers.models.t5.configuration_t5 import T5Config
from transformers.models.t5.modeling_t5 import T5Attention

from annotated_decoder.embedding import POSITIONS, Embedding, RelativePositions, sinusoids

kinds = st.sampled_from([kind for kind in POSITIONS if kind != "relative"])
scales = st.sampled_from([None, 1.0, 2.5])
widths = st.sampled_from([2, 6, 16])


@given(st.integers(0, 60), st.integers(1, 8))
def test_sinusoids_are_the_formula(position, pairs):
    row = sinusoids(61, 2 * pairs)[position].double()
    angles = [position / 10000 ** (pair / pairs) for pair in range(pairs)]
    expected = torch.tensor([f(angle) for angle in angles for f in (math.sin, math.cos)], dtype=torch.float64)
    assert_close(row, expected, atol=1e-6, rtol=0)


@given(st.integers(1, 60), st.integers(1, 8))
def test_in_halves_the_sines_come_first_then_the_cosines_and_nothing_else_differs(positions, pairs):
    plain, halves = sinusoids(positions, 2 * pairs), sinusoids(positions, 2 * pairs, halves=True)
    assert torch.equal(halves, torch.cat([plain[:, ::2], plain[:, 1::2]], 1))
    assert torch.equal(halves[0], torch.tensor([0.0] * pairs + [1.0] * pairs))


def test_the_product_of_two_positions_depends_on_their_distance_only():
    rows = sinusoids(20, 8).double()
    products = rows @ rows.T
    for distance in range(20):
        diagonal = products.diagonal(distance)
        assert_close(diagonal, diagonal[:1].expand_as(diagonal), atol=1e-5, rtol=0)
    assert products[0, 1] < products[0, 0]


def test_a_longer_table_has_the_same_beginning():
    assert torch.equal(sinusoids(50, 6)[:10], sinusoids(10, 6))


def test_an_odd_width_is_refused():
    for halves in (False, True):
        with pytest.raises(ValueError, match="d_model = 7 must be even"):
            sinusoids(4, 7, halves)


@given(seeds, dtypes, kinds, widths, scales, st.booleans(), st.integers(1, 9))
def test_a_vector_is_scaled_row_plus_position_then_the_norm(seed, dtype, kind, d_model, scale, normed, length):
    norm = nn.LayerNorm(d_model) if normed else None
    embedding = seeded(lambda: Embedding(11, d_model, 9, kind, scale=scale, norm=norm), seed, dtype)
    tokens, factor = ids(2, length, seed), d_model**0.5 if scale is None else scale
    total = factor * embedding.tokens.weight[tokens] + embedding.positions[:length]
    assert_near(embedding(tokens), norm(total) if normed else total)


def test_each_kind_has_its_own_table_and_relative_positions_add_nothing():
    tables = {kind: Embedding(5, 4, 6, kind).positions for kind in POSITIONS}
    assert torch.equal(tables["sinusoidal"], sinusoids(6, 4))
    assert torch.equal(tables["sinusoidal_halves"], sinusoids(6, 4, halves=True))
    assert isinstance(tables["learned"], nn.Parameter) and tables["relative"] is None
    embedding, tokens = Embedding(11, 8, 9, "relative"), ids(2, 9)
    assert torch.equal(embedding(tokens), embedding.scale * embedding.tokens.weight[tokens])
    assert torch.equal(embedding(tokens[:, 4:], start=4), embedding(tokens)[:, 4:])


@given(seeds, dtypes, kinds, widths, st.integers(0, 5))
def test_reading_on_from_a_position_is_reading_all(seed, dtype, kind, d_model, start):
    embedding, tokens = seeded(lambda: Embedding(11, d_model, 9, kind), seed, dtype), ids(2, 6, seed)
    assert torch.equal(embedding(tokens[:, start:], start=start), embedding(tokens)[:, start:])


def test_equal_tokens_at_different_places_have_different_vectors():
    vectors = seeded(lambda: Embedding(11, 8, 9))(torch.full((1, 9), 5))[0]
    assert torch.cdist(vectors, vectors).fill_diagonal_(1).min() > 0.01


def test_scaled_rows_have_variance_one():
    embedding = seeded(lambda: Embedding(500, 64, 9))
    assert abs((embedding.tokens.weight * embedding.scale).var().item() - 1) < 0.05


def test_only_learned_positions_are_parameters():
    names = {kind: set(Embedding(5, 4, 6, kind).state_dict()) for kind in POSITIONS}
    computed = {kind: {"tokens.weight"} for kind in POSITIONS}
    assert names == computed | {"learned": {"tokens.weight", "positions"}}


@pytest.mark.parametrize("norm", [None, nn.LayerNorm(64)])
def test_dropout_falls_on_the_sum_and_after_its_norm(norm):
    embedding = seeded(lambda: Embedding(11, 64, 9, dropout=0.5, norm=norm)).train()
    tokens = ids(4, 9)
    dropped = embedding(tokens)
    assert 0.4 < (dropped == 0).double().mean() < 0.6
    assert_close(dropped[dropped != 0], 2 * embedding.eval()(tokens)[dropped != 0])


@pytest.mark.parametrize("length, start", [(7, 0), (1, 6), (3, 4)])
def test_a_position_past_the_last_is_refused(length, start):
    for kind in POSITIONS:
        with pytest.raises(ValueError, match="7 positions.*max_len is 6"):
            Embedding(11, 4, 6, kind)(ids(1, length), start=start)


def test_an_unknown_kind_of_position_is_refused():
    with pytest.raises(ValueError, match="positions is 'rotary'; known are sinusoidal, learned"):
        Embedding(11, 4, 6, "rotary")


def test_learned_positions_start_as_large_as_a_tokens_row_and_without_dropout():
    made = Embedding(5, 64, 1000, "learned")
    assert made.positions.std().item() == pytest.approx(64**-0.5, rel=0.05)
    assert abs(made.positions.mean().item()) < 0.01
    assert made.dropout.p == 0


buckets = st.integers(4, 40)
farthest = st.sampled_from([21, 64, 128, 500])


def relative(n_heads=3, n_buckets=32, max_distance=128, bidirectional=True, seed=0):
    return seeded(lambda: RelativePositions(n_heads, n_buckets, max_distance, bidirectional), seed)


@given(buckets, farthest, st.booleans())
def test_distances_are_shared_out_as_in_t5(n_buckets, max_distance, bidirectional):
    distances = torch.arange(-600, 601)
    expected = T5Attention._relative_position_bucket(distances, bidirectional, n_buckets, max_distance)
    assert torch.equal(RelativePositions(1, n_buckets, max_distance, bidirectional).bucket(distances), expected)


@given(seeds, buckets, farthest, st.booleans(), st.integers(1, 9), st.integers(0, 60))
def test_the_bias_is_that_of_t5(seed, n_buckets, max_distance, bidirectional, new, past):
    ours = relative(3, n_buckets, max_distance, bidirectional, seed)
    shape = dict(num_heads=3, d_kv=2, d_model=6, is_decoder=not bidirectional)
    shape |= dict(relative_attention_num_buckets=n_buckets, relative_attention_max_distance=max_distance)
    theirs = T5Attention(T5Config(**shape), has_relative_attention_bias=True, layer_idx=0).double()
    theirs.relative_attention_bias.weight = ours.weight
    assert torch.equal(ours(new, past + new), theirs.compute_bias(new, past + new, past_seen_tokens=past)[0])


@given(seeds, st.booleans(), st.integers(1, 30), st.integers(1, 30))
def test_a_shift_of_query_and_key_changes_nothing_and_the_last_rows_are_the_newest_queries(seed, both, n, new):
    bias = relative(bidirectional=both, seed=seed)
    whole, new = bias(n, n), min(n, new)
    assert torch.equal(whole[:, 1:, 1:], whole[:, :-1, :-1])
    assert torch.equal(bias(new, n), whole[:, -new:])
    assert torch.equal(bias(new, new), whole[:, -new:, -new:])


def test_each_near_distance_has_a_bucket_and_the_sides_are_apart():
    look_back = RelativePositions(1, 32, 128, bidirectional=False)
    assert look_back.bucket(-torch.arange(16)).tolist() == list(range(16))
    assert look_back.bucket(torch.tensor([-1000, -128, 1, 1000])).tolist() == [31, 31, 0, 0]
    both = RelativePositions(1, 32, 128)
    assert both.bucket(torch.tensor([-1000, -1, 0, 1, 1000])).tolist() == [15, 1, 0, 17, 31]
    assert not set(both.bucket(-torch.arange(200)).tolist()) & set(both.bucket(torch.arange(1, 200)).tolist())


def test_relative_positions_start_without_a_preference():
    made = RelativePositions(3)
    assert made.weight.shape == (32, 3) and not made(4, 6).any()


@pytest.mark.parametrize(
    "n_buckets, max_distance, bidirectional", [(3, 128, True), (1, 9, False), (32, 8, True), (8, 4, False)]
)
def test_buckets_that_cannot_be_shared_out_are_refused(n_buckets, max_distance, bidirectional):
    with pytest.raises(ValueError, match=f"{n_buckets} buckets up to distance {max_distance}.*give at least 4"):
        RelativePositions(2, n_buckets, max_distance, bidirectional)


def test_a_vocabularys_embedding_says_which_sources_it_can_read():
    embedding, source = Embedding(11, 4, 6), ids(2, 3)
    embedding.check(source, None)
    embedding.check(source.int(), torch.ones(2, 3, dtype=torch.bool))
    for wrong, hidden, message in (
        (source + 11, None, "vocabulary has 0 to 10"),
        (source.double(), None, "give token ids"),
        (source[0], None, r"\(batch, source\)"),
        (source, torch.ones(3, 2, dtype=torch.bool), r"give torch.bool of shape \(2, 3\)"),
        (source, torch.zeros(2, 3, dtype=torch.bool), r"rows \[0, 1\] are fully masked"),
    ):
        with pytest.raises(ValueError, match=message):
            embedding.check(wrong, hidden)
