"""The parts of other families: those of transformers, in stacks that keep every law."""

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from small import assert_near, config, decoder, dtypes, encoder, ids, memory_for, noise, seeded, seeds, shape, shapes
from torch import nn
from torch.testing import assert_close
from transformers.activations import ACT2FN
from transformers.models.t5.configuration_t5 import T5Config
from transformers.models.t5.modeling_t5 import T5Attention, T5DenseGatedActDense

from annotated_decoder.attention import MultiHeadAttention, causal_mask
from annotated_decoder.decoder import FeedForward
from annotated_decoder.embedding import Embedding, sinusoids
from annotated_decoder.normalization import LayerNorm, RMSNorm
from annotated_decoder.pretrained.parts import (
    ACTIVATIONS,
    BareEmbedding,
    CountedEmbedding,
    GatedFeedForward,
    GuardedResidual,
    Parts,
    RelativePositions,
    ScaledAttention,
    ScaledProjection,
    WideLinear,
    WideRMSNorm,
    parts_of,
    sinusoid_halves,
)

sizes = st.integers(1, 5)
buckets = st.integers(4, 40)
farthest = st.sampled_from([21, 64, 128, 500])
TRANSFORMERS = {"relu": "relu", "gelu": "gelu", "silu": "swish", "gelu_tanh": "gelu_new"}
T5S = {"relu": "relu", "gelu_tanh": "gelu", "silu": "swish"}    # what T5's configurations call gelu is the tanh form


def relative(n_heads=3, n_buckets=32, max_distance=128, bidirectional=True, seed=0):
    return seeded(lambda: RelativePositions(n_heads, n_buckets, max_distance, bidirectional), seed)


@given(st.integers(1, 60), st.integers(1, 8))
def test_in_halves_the_sines_come_first_then_the_cosines_and_nothing_else_differs(positions, pairs):
    plain, halves = sinusoids(positions, 2 * pairs), sinusoid_halves(positions, 2 * pairs)
    assert torch.equal(halves, torch.cat([plain[:, ::2], plain[:, 1::2]], 1))
    assert torch.equal(halves[0], torch.tensor([0.0] * pairs + [1.0] * pairs))


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


@pytest.mark.parametrize("ours, theirs", TRANSFORMERS.items())
def test_activations_are_those_of_transformers(ours, theirs):
    x = torch.linspace(-6, 6, 1001, dtype=torch.float64)
    assert_close(ACTIVATIONS[ours](x), ACT2FN[theirs](x), atol=1e-12, rtol=0)
    others = [ACTIVATIONS[name](x) for name in ACTIVATIONS if name != ours]
    assert all((other - ACT2FN[theirs](x)).abs().max() > 1e-5 for other in others)


@given(seeds, dtypes, sizes, st.sampled_from(list(T5S)))
def test_a_gated_network_is_t5s(seed, dtype, length, activation):
    ours = seeded(lambda: GatedFeedForward(6, 10, ACTIVATIONS[activation], bias=False), seed, dtype)
    kind = T5Config(d_model=6, d_ff=10, feed_forward_proj=f"gated-{T5S[activation]}", dropout_rate=0.0)
    theirs = T5DenseGatedActDense(kind).to(dtype)
    names = {"gate_proj": "wi_0", "up_proj": "wi_1", "down_proj": "wo"}
    theirs.load_state_dict({f"{names[k.split('.')[0]]}.weight": weight for k, weight in ours.state_dict().items()})
    x = noise(2, length, 6, seed=seed, dtype=dtype)
    assert_near(ours(x), theirs(x))


@given(seeds, shapes, sizes)
def test_a_decoder_with_relative_positions_sees_distances_only(seed, shape, target):
    """Its self-attention reads each token's vector and its distance: what one layer makes of equal tokens is equal."""
    dec = decoder(seed, **shape | dict(positions="relative", n_layers=1))
    memory = memory_for(dec, 1, 3, seed)
    same = dec(torch.full((1, target), 5), memory)
    assert_near(same, same[:, :1].expand_as(same))


@given(seeds, dtypes, st.sampled_from([1.0, 0.3]), sizes, sizes)
def test_scaled_attention_multiplies_the_scores_by_its_scale(seed, dtype, scale, queries, keys):
    attn = seeded(lambda: ScaledAttention(6, 2, 3, True, scale), seed, dtype)
    x, source = (noise(2, n, 6, seed=seed + n, dtype=dtype) for n in (queries, keys))
    (k, v), q = attn.keys_values(source), attn.split_heads(attn.q_proj(x))
    heads = (q @ k.transpose(-2, -1) * scale).softmax(-1) @ v
    assert_near(attn(x, k, v), attn.out_proj(heads.transpose(1, 2).flatten(2)))


@given(seeds, dtypes, st.sampled_from([1.0, 0.3]), st.booleans())
def test_a_scaled_projection_scales_the_vector_and_not_the_bias(seed, dtype, scale, bias):
    head = seeded(lambda: ScaledProjection(6, 9, bias=bias, scale=scale), seed, dtype)
    x = noise(2, 3, 6, seed=seed, dtype=dtype)
    assert_near(head(x), nn.functional.linear(scale * x, head.weight, head.bias))


@given(seeds, st.booleans(), st.integers(1, 6), st.integers(0, 5))
def test_the_causal_form_adds_the_numbers_where_a_query_may_look(seed, both, new, past):
    made, seen = relative(bidirectional=both, seed=seed), causal_mask(new, past + new)
    found = made.causal(new, past + new, made.weight.device)
    assert torch.equal(found[:, seen], made(new, past + new)[:, seen]) and torch.all(found[:, ~seen] == -torch.inf)


@given(seeds, dtypes, st.integers(1, 5), st.integers(1, 5))
def test_a_sequence_that_begins_later_behind_hidden_keys_gives_the_same(seed, dtype, before, length):
    attn, n = seeded(lambda: MultiHeadAttention(6, 3, 2), seed, dtype), before + length
    made, x = relative(bidirectional=False, seed=seed).to(dtype), noise(1, n, 6, seed=seed, dtype=dtype)
    mask = made.causal(n, n, x.device).masked_fill(torch.arange(n) < before, -torch.inf)
    alone = attn(x[:, before:], *attn.keys_values(x[:, before:]), made.causal(length, length, x.device))
    assert_near(attn(x, *attn.keys_values(x), mask)[:, before:], alone)


@given(seeds, dtypes, st.integers(2, 6))
def test_a_layer_with_its_columns_moved_reads_the_other_layout(seed, dtype, length):
    order = torch.tensor([0, 2, 4, 1, 3, 5])
    attn, twin = (seeded(lambda: MultiHeadAttention(6, 3, 2), seed, dtype) for _ in range(2))
    with torch.no_grad():
        for projection in (twin.q_proj, twin.k_proj, twin.v_proj):
            projection.weight.copy_(projection.weight[:, order])
    what = noise(1, length, 6, seed=seed, dtype=dtype)
    x = what + sinusoids(length, 6).to(dtype)
    y = what[..., order] + sinusoid_halves(length, 6).to(dtype)
    assert_near(twin(y, *twin.keys_values(y)), attn(x, *attn.keys_values(x)))
    assert (attn(y, *attn.keys_values(y)) - attn(x, *attn.keys_values(x))).abs().max() > 1e-3


def test_tokens_alone_have_no_position():
    embedding, tokens = BareEmbedding(11, 8, 9, 0.0, 2.5), ids(2, 9)
    assert torch.equal(embedding(tokens), 2.5 * embedding.tokens.weight[tokens])
    assert torch.equal(embedding(tokens[:, 4:], start=4), embedding(tokens)[:, 4:])
    assert BareEmbedding(11, 16, 9, 0.0, None).scale == 4


def test_each_kind_has_its_own_table():
    kinds = "sinusoidal", "sinusoidal_halves", "learned"
    tables = {kind: decoder(positions=kind).embedding.positions for kind in kinds}
    assert torch.equal(tables["sinusoidal"].float(), sinusoids(12, 8))
    assert torch.equal(tables["sinusoidal_halves"].float(), sinusoid_halves(12, 8))
    assert isinstance(tables["learned"], nn.Parameter)


def test_learned_positions_start_as_large_as_a_tokens_row():
    positions = decoder(positions="learned", d_model=64, max_len=1000).embedding.positions
    assert positions.std().item() == pytest.approx(64**-0.5, rel=0.05) and abs(positions.mean().item()) < 0.01


@pytest.mark.parametrize("make", [decoder, encoder])
def test_parts_reach_every_place(make):
    dec = make(norm="rms", norm_eps=0.5, linear_bias=False, gated=True, activation="silu", attention_scale=0.3,
               embedding_scale=2.5, embedding_norm=True)    # fmt: skip
    found = list(dec.modules())
    norms = [part for part in found if isinstance(part, RMSNorm)]
    assert len(norms) == (3 if make is decoder else 2) * 2 + 2 and {norm.eps for norm in norms} == {0.5}
    assert dec.embedding.norm is norms[0] and dec.embedding.scale == 2.5
    attentions = [part for part in found if isinstance(part, ScaledAttention)]
    assert len(attentions) == (4 if make is decoder else 2) and {part.scale for part in attentions} == {0.3}
    assert {part.bias for part in found if isinstance(part, nn.Linear)} == {None}
    networks = [part for part in found if isinstance(part, FeedForward)]
    assert all(isinstance(ffn, GatedFeedForward) and ffn.activation is ACTIVATIONS["silu"] for ffn in networks)
    assert make(positions="relative").relative.bidirectional is (make is encoder)


def test_a_guarded_sum_is_held_in_float16_alone():
    plain = GuardedResidual(nn.Identity(), 0.0, True)
    for dtype, most in ((torch.float16, 64_504.0), (torch.bfloat16, 120_000.0), (torch.float32, 120_000.0)):
        large = torch.full((1, 1, 4), 60_000.0, dtype=dtype)
        small = torch.full_like(large, 2.0)
        assert plain.add(large, large)[0, 0, 0].item() == pytest.approx(most, rel=0.01)
        assert plain.add(-large, -large)[0, 0, 0].item() == pytest.approx(-most, rel=0.01)
        assert plain.add(small, small)[0, 0, 0] == 4


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16], ids=str)
def test_a_wide_norm_squares_what_half_precision_cannot(dtype):
    norm, x = WideRMSNorm(8).to(dtype), noise(2, 3, 8, dtype=torch.float32) * 1e3
    for given_in in (x.to(dtype), x):    # after a wide layer the sums are in single precision
        assert norm(given_in).dtype == dtype
        assert_close(norm(given_in).float(), RMSNorm(8)(x), atol=0.02, rtol=0.02)


def test_what_a_wide_layer_gives_has_the_type_of_its_weights():
    layer, x = WideLinear(4, 3), torch.ones(1, 2, 4)
    assert layer(x.half()).dtype == layer(x).dtype == torch.float32
    assert [WideLinear.kept_in(d) for d in (torch.float16, torch.bfloat16, torch.float64)] == [
        torch.float32, torch.bfloat16, torch.float64,
    ]    # fmt: skip


@pytest.mark.parametrize("make", [decoder, encoder])
def test_guarded_parts_reach_every_place(make):
    stack = make(guarded=True, linear_bias=False)
    residuals = [part for part in stack.modules() if hasattr(part, "pre_norm")]
    assert {type(part) for part in residuals} == {GuardedResidual}
    assert {type(layer.ffn.down_proj) for layer in stack.layers} == {WideLinear}
    assert all(layer.ffn.down_proj.bias is None for layer in stack.layers)


@pytest.mark.parametrize("make", [decoder, encoder])
def test_each_layer_may_have_a_table_of_its_own(make):
    stack = make(n_layers=3, positions="relative_by_layer")
    assert len({id(layer.relative) for layer in stack.layers}) == 3 and not hasattr(stack, "relative")
    assert {layer.relative.bidirectional for layer in stack.layers} == {make is encoder}
    given_in = (ids(2, 5), noise(2, 3, 8)) if make is decoder else (ids(2, 5),)
    before = stack(*given_in)
    for layer in stack.layers:
        kept = layer.relative.weight.detach().clone()
        layer.relative.weight.data.zero_()
        assert (stack(*given_in) - before).abs().max() > 1e-6
        layer.relative.weight.data.copy_(kept)
    assert torch.equal(stack(*given_in), before)


def test_only_an_encoder_counts_its_real_tokens():
    made = dict(positions="sinusoidal_from_two", pad_id=7)
    assert type(decoder(**made).embedding) is Embedding
    embedding = encoder(**made).embedding
    assert type(embedding) is CountedEmbedding and embedding.pad_id == 7
    with pytest.raises(ValueError, match="13 positions asked for, but max_len is 12; shorten the sequence"):
        embedding(ids(1, 13))


@pytest.mark.parametrize("make", [decoder, encoder])
def test_without_other_parts_a_stack_is_the_books_own(make):
    ours, plain = make(), type(make()).of(config())
    assert ours.state_dict().keys() == plain.state_dict().keys()
    plain.double().eval().load_state_dict(ours.state_dict())
    given_in = (ids(2, 5), noise(2, 3, 8)) if make is decoder else (ids(2, 5),)
    assert torch.equal(ours(*given_in), plain(*given_in))
    assert parts_of(plain) == parts_of(ours) == Parts()
    assert {type(part) for part in ours.modules()} == {type(part) for part in plain.modules()}
    assert {layer.self_res.norm.eps for layer in make(norm="rms").layers} == {RMSNorm(8).eps}
    assert {layer.self_res.norm.eps for layer in ours.layers} == {LayerNorm(8).eps}
    assert type(ours.embedding) is Embedding


@pytest.mark.parametrize("make", [decoder, encoder])
def test_all_layers_share_one_table_of_distances_in_self_attention_alone(make):
    stack, seen = make(n_layers=3, positions="relative"), []
    for layer in stack.layers:
        layer.self_attn.register_forward_hook(lambda _, inputs, out: seen.append(inputs[3]))
        if make is decoder:
            layer.cross_attn.register_forward_hook(lambda _, inputs, out: seen.append(inputs[3]))
    stack(ids(2, 5), *([noise(2, 3, 8)] if make is decoder else []))
    masks = [mask for mask in seen if mask is not None]
    assert len(masks) == 3 and len(seen) == (6 if make is decoder else 3)
    numbers = stack.relative(5, 5)
    hidden = numbers if make is encoder else numbers.masked_fill(~causal_mask(5, 5), -torch.inf)
    assert all(torch.equal(mask, hidden) for mask in masks)
    assert [name for name, _ in stack.named_parameters() if "relative" in name] == ["relative.weight"]


@pytest.mark.parametrize(
    "field, value, message",
    [
        ("head_dim", 0, "head_dim is 0; it must be at least 1, or None"),
        ("norm", "batch", "norm is 'batch'; known are layer, rms"),
        ("activation", "tanh", "activation is 'tanh'; known are relu, gelu, silu, gelu_tanh"),
        ("positions", "rotary", "positions is 'rotary'; known are sinusoidal, learned, .*relative, relative_by_layer"),
        ("norm_eps", 0.0, "norm_eps is 0.0; it must be above 0, or None for the usual one"),
        ("attention_scale", 0.0, "attention_scale is 0.0; it must be above 0, or None for the usual one"),
        ("embedding_scale", -1.0, "embedding_scale is -1.0; it must be above 0, or None for the usual one"),
        ("relative_buckets", 3, "relative_buckets is 3 and relative_distance 128; give at least 4 buckets"),
        ("relative_distance", 16, "relative_buckets is 32 and relative_distance 16; .* a distance above half of them"),
        ("n_heads", 3, "3 heads do not divide d_model = 8; give head_dim, or others"),
        ("d_model", 7, "sinusoids come in pairs, so d_model = 7 must be even, or positions learned"),
    ],
)
def test_parts_that_cannot_work_are_refused(field, value, message):
    with pytest.raises(ValueError, match=message):
        shape(**{"head_dim": 4, field: value} if field == "d_model" else {field: value})


def test_positions_from_two_need_two_pairs():
    with pytest.raises(ValueError, match="d_model is 2; positions that begin with 2 need at least 4"):
        shape(positions="sinusoidal_from_two", d_model=2, n_heads=1)
    assert torch.isfinite(decoder(positions="sinusoidal_from_two", d_model=4).embedding.positions).all()


def test_every_shape_that_is_let_through_makes_its_relative_positions():
    for n_buckets in range(4, 40):
        made = dict(positions="relative", relative_buckets=n_buckets, relative_distance=n_buckets // 2 + 1)
        assert decoder(**made).relative(3, 5).shape == encoder(**made).relative(3, 5).shape == (2, 3, 5)
