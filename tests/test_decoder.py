"""The decoder is causal, agrees with torch's in both norm orders, and gives one vector per position."""

from dataclasses import FrozenInstanceError

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from small import (
    assert_near,
    config,
    decoder,
    dtypes,
    encoder,
    ids,
    lengths,
    mask,
    memory_for,
    noise,
    other_token,
    seeded,
    seeds,
    shapes,
    some_visible,
)
from torch import nn
from torch.testing import assert_close
from torch_layers import decoder_layer_state, torch_layer, torch_shapes
from transformers.activations import ACT2FN
from transformers.models.t5.configuration_t5 import T5Config
from transformers.models.t5.modeling_t5 import T5DenseGatedActDense

from annotated_decoder.attention import MultiHeadAttention, causal_mask
from annotated_decoder.decoder import ACTIVATIONS, Decoder, DecoderLayer, FeedForward, StackConfig
from annotated_decoder.normalization import LayerNorm, RMSNorm

sizes = st.integers(1, 5)


@pytest.mark.parametrize("dropout", [0.0, 0.4])
@given(seeds, shapes, sizes, st.integers(1, 8), st.integers(0, 7), st.booleans())
def test_a_token_changes_its_own_and_later_outputs_only(dropout, seed, shape, batch, target, place, training):
    dec, tokens, place = decoder(seed, dropout=dropout, **shape), ids(batch, target, seed), place % target
    memory, real = memory_for(dec, batch, 4, seed), some_visible(batch, 4, seed=seed)
    dec.train(training)

    def run(tokens):
        torch.manual_seed(seed)
        return dec(tokens, memory, real)

    differs = run(tokens) != run(other_token(tokens, place))
    assert not differs[:, :place].any()
    if dropout == 0 or not training:
        assert differs[:, place:].any(-1).all()


@given(seeds, shapes, lengths, sizes)
def test_without_dropout_training_changes_nothing(seed, shape, sources, target):
    dec, tokens = decoder(seed, **shape), ids(len(sources), target, seed)
    memory, real = memory_for(dec, len(sources), max(sources), seed), mask(*sources)
    assert torch.equal(dec.train()(tokens, memory, real), dec.eval()(tokens, memory, real))


@given(seeds, shapes, lengths, sizes)
def test_a_batch_is_its_rows_one_by_one(seed, shape, sources, target):
    dec, tokens = decoder(seed, **shape), ids(len(sources), target, seed)
    memory = memory_for(dec, len(sources), max(sources), seed)
    together = dec(tokens, memory, mask(*sources))
    for i, length in enumerate(sources):
        assert_near(together[i : i + 1], dec(tokens[i : i + 1], memory[i : i + 1, :length]))


def test_dropout_is_random_in_training_and_absent_in_evaluation():
    dec, tokens, memory = decoder(dropout=0.3), ids(2, 5), noise(2, 4, 8)
    torch.manual_seed(0)
    assert torch.equal(dec(tokens, memory), dec(tokens, memory))
    assert torch.equal(dec(tokens, memory), decoder(dropout=0.0)(tokens, memory))
    dec.train()
    assert not torch.equal(dec(tokens, memory), dec(tokens, memory))


@given(seeds, torch_shapes, sizes, sizes, sizes)
def test_a_layer_agrees_with_torch(seed, shape, batch, target, source):
    dec = decoder(seed, **shape)
    theirs = torch_layer(nn.TransformerDecoderLayer, dec.config, shape["dtype"])
    theirs.load_state_dict(decoder_layer_state(dec.layers[0]))
    x, memory = memory_for(dec, batch, target, seed), memory_for(dec, batch, source, seed + 1)
    real = some_visible(batch, source, seed=seed)
    expected = theirs(x, memory, tgt_mask=~causal_mask(target, target), memory_key_padding_mask=~real)
    assert_near(dec.layers[0](x, memory, real), expected)


@given(seeds, torch_shapes, sizes, sizes, sizes)
def test_a_stack_agrees_with_torch(seed, shape, batch, target, source):
    ours = decoder(seed, **shape)
    layer = torch_layer(nn.TransformerDecoderLayer, ours.config, shape["dtype"])
    norm = nn.LayerNorm(ours.config.d_model, dtype=shape["dtype"]) if shape["pre_norm"] else None
    theirs = nn.TransformerDecoder(layer, shape["n_layers"], norm)
    for mine, its in zip(ours.layers, theirs.layers, strict=True):
        its.load_state_dict(decoder_layer_state(mine))
    if norm:
        norm.load_state_dict(ours.final_norm.state_dict())
    tokens, memory = ids(batch, target, seed), memory_for(ours, batch, source, seed)
    x, real = ours.embedding(tokens), some_visible(batch, source, seed=seed)
    expected = theirs(x, memory, tgt_mask=~causal_mask(target, target), memory_key_padding_mask=~real)
    assert_near(ours(tokens, memory, real), expected)


@pytest.mark.parametrize("pre_norm", [True, False])
def test_cross_attention_asks_with_the_sublayer_below(pre_norm):
    layer = seeded(lambda: DecoderLayer(config(pre_norm=pre_norm)))
    asked = []
    layer.cross_attn.register_forward_pre_hook(lambda _, inputs: asked.append(inputs[0]))
    x, memory = noise(1, 4, 8), noise(1, 3, 8, seed=1)
    layer(x, memory)

    def self_attend(h):
        return layer.self_attn(h, *layer.self_attn.keys_values(h), causal_mask(4, 4))

    norm_1, norm_2 = layer.self_res.norm, layer.cross_res.norm
    expected = norm_2(x + self_attend(norm_1(x))) if pre_norm else norm_1(x + self_attend(x))
    assert_close(asked[0], expected)


def test_every_layer_reads_the_memory():
    dec, memory = decoder(n_layers=3), noise(1, 3, 8).requires_grad_()
    dec(ids(1, 4), memory).square().sum().backward()
    for layer in dec.layers:
        assert layer.cross_attn.v_proj.weight.grad.abs().sum() > 1e-6
        assert layer.cross_attn.k_proj.weight.grad.abs().sum() > 1e-6
    assert torch.all(memory.grad != 0)


def test_the_output_is_one_vector_of_the_models_width_per_position():
    assert decoder(vocab_size=50)(ids(3, 5), noise(3, 4, 8)).shape == (3, 5, 8)


def test_the_last_norm_is_pre_norms_alone_and_the_other_names_are_shared():
    names = {pre_norm: set(decoder(pre_norm=pre_norm).state_dict()) for pre_norm in (True, False)}
    assert names[True] - names[False] == {"final_norm.weight", "final_norm.bias"}
    assert names[False] < names[True]


@given(seeds, shapes, sizes, sizes)
def test_feed_forward_treats_every_position_by_itself(seed, shape, batch, length):
    dec = decoder(seed, **shape)
    ffn, x = dec.layers[0].ffn, memory_for(dec, batch, length, seed)
    alone = [ffn(x[:, i : i + 1]) for i in range(length)]
    assert_near(ffn(x), torch.cat(alone, 1))


@pytest.mark.parametrize("gated", [False, True])
def test_feed_forward_is_not_linear(gated):
    ffn, x = seeded(lambda: FeedForward(8, 16, gated=gated)), noise(1, 5, 8)
    assert not torch.allclose(ffn(2 * x) - ffn(x), ffn(x) - ffn(0 * x))


TRANSFORMERS = {"relu": "relu", "gelu": "gelu", "silu": "swish", "gelu_tanh": "gelu_new"}


@pytest.mark.parametrize("ours, theirs", TRANSFORMERS.items())
def test_activations_are_those_of_transformers(ours, theirs):
    x = torch.linspace(-6, 6, 1001, dtype=torch.float64)
    assert_close(ACTIVATIONS[ours]()(x), ACT2FN[theirs](x), atol=1e-12, rtol=0)
    others = [ACTIVATIONS[name]()(x) for name in ACTIVATIONS if name != ours]
    assert all((other - ACT2FN[theirs](x)).abs().max() > 1e-5 for other in others)


T5S = {"relu": "relu", "gelu_tanh": "gelu", "silu": "swish"}    # what T5's configurations call gelu is the tanh form


@given(seeds, dtypes, sizes, st.sampled_from(list(T5S)))
def test_a_gated_network_is_t5s(seed, dtype, length, activation):
    ours = seeded(lambda: FeedForward(6, 10, activation, gated=True, linear_bias=False), seed, dtype)
    kind = T5Config(d_model=6, d_ff=10, feed_forward_proj=f"gated-{T5S[activation]}", dropout_rate=0.0)
    theirs = T5DenseGatedActDense(kind).to(dtype)
    names = {"gate_proj": "wi_0", "up_proj": "wi_1", "down_proj": "wo"}
    theirs.load_state_dict({f"{names[k.split('.')[0]]}.weight": weight for k, weight in ours.state_dict().items()})
    x = noise(2, length, 6, seed=seed, dtype=dtype)
    assert_near(ours(x), theirs(x))


@pytest.mark.parametrize("make", [decoder, encoder])
def test_a_configuration_reaches_every_part(make):
    dec = make(norm="rms", norm_eps=0.5, linear_bias=False, gated=True, activation="silu", attention_scale=0.3,
               embedding_scale=2.5, embedding_norm=True, positions="relative")    # fmt: skip
    parts = list(dec.modules())
    norms = [part for part in parts if isinstance(part, RMSNorm)]
    assert len(norms) == (3 if make is decoder else 2) * 2 + 2 and {norm.eps for norm in norms} == {0.5}
    assert dec.embedding.norm is norms[0] and dec.embedding.scale == 2.5
    assert {part.scale for part in parts if isinstance(part, MultiHeadAttention)} == {0.3}
    assert {part.bias for part in parts if isinstance(part, nn.Linear)} == {None}
    networks = [part for part in parts if isinstance(part, FeedForward)]
    assert all(isinstance(ffn.activation, nn.SiLU) and ffn.gate_proj is not None for ffn in networks)
    assert dec.relative.bidirectional is (make is encoder)


def test_by_default_nothing_of_this_is_there():
    dec = decoder()
    assert dec.relative is None and isinstance(dec.embedding.norm, nn.Identity) and dec.embedding.scale == 8**0.5
    assert {layer.ffn.gate_proj for layer in dec.layers} == {None}
    assert {layer.self_attn.scale for layer in dec.layers} | {layer.cross_attn.scale for layer in dec.layers} == {None}
    assert {layer.self_res.norm.eps for layer in dec.layers} == {LayerNorm(8).eps}
    assert {layer.self_res.norm.eps for layer in decoder(norm="rms").layers} == {RMSNorm(8).eps}


@pytest.mark.parametrize("make", [decoder, encoder])
def test_all_layers_share_one_bias_which_is_computed_once_a_pass(make):
    stack, given_out, seen = make(n_layers=3, positions="relative"), [], []
    stack.relative.register_forward_hook(lambda _, inputs, bias: given_out.append(bias))
    for layer in stack.layers:
        layer.self_attn.register_forward_hook(lambda _, inputs, out: seen.append(inputs[4]))
        if make is decoder:
            layer.cross_attn.register_forward_hook(lambda _, inputs, out: seen.append(len(inputs)))
    stack(ids(2, 5), *([noise(2, 3, 8)] if make is decoder else []))
    [bias] = given_out
    assert bias.shape == (2, 5, 5)
    assert [given for given in seen if given is bias] == [bias] * 3
    assert [given for given in seen if given is not bias] == ([4] * 3 if make is decoder else [])    # cross: no bias


@given(seeds, shapes, sizes)
def test_a_decoder_with_relative_positions_sees_distances_only(seed, shape, target):
    """Its self-attention reads each token's vector and its distance: what one layer makes of equal tokens is equal."""
    dec = decoder(seed, **shape | dict(positions="relative", n_layers=1))
    memory = memory_for(dec, 1, 3, seed)
    same = dec(torch.full((1, target), 5), memory)
    assert_near(same, same[:, :1].expand_as(same))


@pytest.mark.parametrize(
    "field, value, message",
    [
        ("n_layers", 0, "n_layers is 0; it must be a whole number of at least 1"),
        ("vocab_size", -3, "vocab_size is -3"),
        ("dropout", 1.0, "dropout is 1.0; it must be at least 0 and below 1"),
        ("dropout", 1.5, "dropout is 1.5; it must be at least 0 and below 1"),
        ("dropout", -0.5, "dropout is -0.5; it must be at least 0 and below 1"),
        ("n_heads", 3, "3 heads do not divide d_model = 8; give head_dim, or others"),
        ("d_model", 7, "sinusoids come in pairs, so d_model = 7 must be even, or positions learned"),
        ("head_dim", 0, "head_dim is 0; it must be at least 1, or None"),
        ("end_id", 11, "end_id is 11; the vocabulary has ids 0 to 10"),
        ("pad_id", -1, "pad_id is -1; the vocabulary has ids 0 to 10"),
        ("end_id", 12, "end_id is 12; the vocabulary has ids 0 to 10"),
        ("norm", "batch", "norm is 'batch'; known are layer, rms"),
        ("activation", "tanh", "activation is 'tanh'; known are relu, gelu, silu, gelu_tanh"),
        ("positions", "rotary", "positions is 'rotary'; known are sinusoidal, learned, sinusoidal_halves, relative"),
        ("norm_eps", 0.0, "norm_eps is 0.0; it must be above 0, or None for the usual one"),
        ("attention_scale", 0.0, "attention_scale is 0.0; it must be above 0, or None for the usual one"),
        ("embedding_scale", -1.0, "embedding_scale is -1.0; it must be above 0, or None for the usual one"),
        ("relative_buckets", 3, "relative_buckets is 3 and relative_distance 128; give at least 4 buckets"),
        ("relative_distance", 16, "relative_buckets is 32 and relative_distance 16; .* a distance above half of them"),
    ],
)
def test_a_shape_that_cannot_work_is_refused(field, value, message):
    with pytest.raises(ValueError, match=message):
        config(**{"head_dim": 4, field: value} if field == "d_model" else {field: value})


def test_every_shape_that_is_let_through_makes_its_relative_positions():
    for n_buckets in range(4, 40):
        shape = dict(positions="relative", relative_buckets=n_buckets, relative_distance=n_buckets // 2 + 1)
        assert decoder(**shape).relative(3, 5).shape == encoder(**shape).relative(3, 5).shape == (2, 3, 5)


def test_a_shape_cannot_change():
    with pytest.raises(FrozenInstanceError):
        config().n_layers = 5


def test_a_sequence_longer_than_the_positions_is_refused():
    with pytest.raises(ValueError, match="13 positions.*max_len is 12"):
        decoder()(ids(1, 13), noise(1, 3, 8))


def test_the_defaults_make_a_decoder():
    made = Decoder(StackConfig(vocab_size=9, max_len=4)).eval()
    assert made(ids(1, 4, vocab_size=9), torch.zeros(1, 2, 128)).isfinite().all()
    assert (len(made.layers), made.layers[0].ffn.up_proj.out_features) == (3, 512)
    assert [layer.layer for layer in made.layers] == [0, 1, 2] and DecoderLayer(made.config).layer == 0
    assert isinstance(made.final_norm, LayerNorm)    # pre-norm


def test_a_shape_is_given_by_name_and_its_heads_may_be_one_wide():
    with pytest.raises(TypeError):
        StackConfig(9, 4)
    assert config(head_dim=1).head_dim == 1
