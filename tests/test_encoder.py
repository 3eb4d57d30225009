"""The encoder agrees with torch's in both norm orders, looks both ways, and never at padding."""

import warnings

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from small import (
    VOCAB,
    assert_near,
    config,
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
)
from torch import nn
from torch_layers import encoder_layer_state, torch_layer, torch_shapes

from annotated_decoder.attention import causal_mask
from annotated_decoder.cross_attention import padding_mask
from annotated_decoder.decoder import DecoderLayer
from annotated_decoder.encoder import EncoderLayer
from annotated_decoder.pretrained.parts import build_encoder

sizes = st.integers(1, 5)


@given(seeds, torch_shapes, lengths)
def test_a_layer_agrees_with_torch(seed, shape, sources):
    enc, real = encoder(seed, **shape), mask(*sources)
    theirs = torch_layer(nn.TransformerEncoderLayer, enc, shape["dtype"])
    theirs.load_state_dict(encoder_layer_state(enc.layers[0]))
    x = memory_for(enc, *real.shape, seed)
    assert_near(enc.layers[0](x, padding_mask(real)), theirs(x, src_key_padding_mask=~real))


@given(seeds, torch_shapes, lengths)
def test_a_stack_agrees_with_torch(seed, shape, sources):
    ours, real = encoder(seed, **shape), mask(*sources)
    norm = nn.LayerNorm(ours.config.d_model, dtype=shape["dtype"]) if shape["pre_norm"] else None
    layer = torch_layer(nn.TransformerEncoderLayer, ours, shape["dtype"])
    theirs = nn.TransformerEncoder(layer, shape["n_layers"], norm, enable_nested_tensor=False)
    for mine, its in zip(ours.layers, theirs.layers, strict=True):
        its.load_state_dict(encoder_layer_state(mine))
    if norm:
        norm.load_state_dict(ours.final_norm.state_dict())
    source = ids(*real.shape, seed)
    expected = theirs(ours.embedding(source), src_key_padding_mask=~real)
    assert_near(ours(source, real), expected)
    with torch.no_grad():
        assert_near(theirs.eval()(ours.embedding(source), src_key_padding_mask=~real)[real], expected[real])


@given(seeds, shapes, sizes, sizes, st.integers(0, 4))
def test_every_token_changes_every_vector(seed, shape, batch, length, place):
    enc, source = encoder(seed, **shape), ids(batch, length, seed)
    assert (enc(source) != enc(other_token(source, place % length))).any(-1).all()


@given(seeds, shapes, lengths, seeds)
def test_what_stands_in_the_padding_changes_no_real_vector(seed, shape, sources, other):
    enc, real = encoder(seed, **shape), mask(*sources, width=6)
    source = ids(*real.shape, seed)
    changed = torch.where(real, source, ids(*real.shape, other))
    assert_near(enc(changed, real)[real], enc(source, real)[real])


@given(seeds, shapes, lengths, sizes)
def test_a_padded_batch_is_its_rows_one_by_one(seed, shape, sources, extra):
    enc, real = encoder(seed, **shape), mask(*sources, width=max(sources) + extra)
    source = ids(*real.shape, seed)
    memory = enc(source, real)
    for row, length in enumerate(sources):
        assert_near(memory[row, :length], enc(source[row : row + 1, :length])[0])


@given(seeds, shapes, lengths)
def test_without_dropout_training_changes_nothing(seed, shape, sources):
    enc, real = encoder(seed, **shape), mask(*sources)
    source = ids(*real.shape, seed)
    assert torch.equal(enc.train()(source, real), enc.eval()(source, real))


@given(seeds, shapes, lengths, sizes)
def test_with_relative_positions_padding_may_stand_on_either_side(seed, shape, sources, extra):
    enc, real = encoder(seed, **shape | dict(positions="relative")), mask(*sources, width=max(sources) + extra)
    source = ids(*real.shape, seed)
    left, left_real = source.flip(1), real.flip(1)    # the real tokens last, in the opposite order
    memory = enc(left, left_real)
    for row, length in enumerate(sources):
        assert_near(memory[row, -length:], enc(left[row : row + 1, -length:])[0])


def test_relative_positions_tell_what_comes_before_from_what_comes_after():
    enc = encoder(positions="relative")
    assert not torch.allclose(enc(torch.tensor([[5, 6, 7]]))[0, 1], enc(torch.tensor([[7, 6, 5]]))[0, 1], atol=1e-3)


@given(seeds, shapes, lengths)
def test_any_module_may_stand_in_for_the_embedding(seed, shape, sources):
    shape |= dict(positions="relative", embedding_norm=False)    # nothing but the token's row
    plain, real = encoder(seed, **shape), mask(*sources)
    foot = nn.Linear(VOCAB, shape["d_model"], bias=False)
    made = seeded(lambda: build_encoder(plain.config, plain.parts, foot), seed, shape["dtype"])
    rows = (plain.embedding.tokens.weight * plain.embedding.scale).T
    layers = {name: weight for name, weight in plain.state_dict().items() if not name.startswith("embedding")}
    made.load_state_dict(layers | {"embedding.weight": rows})
    source = ids(*real.shape, seed)
    features = nn.functional.one_hot(source, VOCAB).to(shape["dtype"])
    assert_near(made(features, real)[real], plain(source, real)[real])


def test_a_decoder_layer_is_an_encoder_layer_and_cross_attention():
    ours, theirs = DecoderLayer.of(config()), EncoderLayer.of(config())
    extra = {name for name, _ in ours.named_parameters()} - {name for name, _ in theirs.named_parameters()}
    assert {name.split(".")[0] for name in extra} == {"cross_attn", "cross_res"}
    counts = [sum(p.numel() for p in layer.parameters()) for layer in (ours, theirs)]
    assert counts[0] - counts[1] == 4 * (8 * 8 + 8) + 2 * 8


@given(seeds, shapes, lengths)
def test_no_gradient_reaches_what_stands_in_the_padding(seed, shape, sources):
    enc, real = encoder(seed, **shape), mask(*sources, width=6)
    source = torch.where(real, ids(*real.shape, seed, VOCAB - 1), VOCAB - 1)    # an id of the padding alone
    enc(source, real)[real].square().sum().backward()
    assert not enc.embedding.tokens.weight.grad[VOCAB - 1].any()


@pytest.mark.parametrize("pre_norm", [True, False])
def test_a_decoder_whose_cross_attention_is_silent_is_an_encoder_under_a_causal_mask(pre_norm):
    layer, x, memory = seeded(lambda: DecoderLayer.of(config(pre_norm=pre_norm))), noise(1, 5, 8), noise(1, 4, 8)
    rest, before = EncoderLayer(layer.self_attn, layer.ffn, [layer.self_res, layer.ffn_res]), layer(x, memory)
    for parameter in layer.cross_attn.out_proj.parameters():
        nn.init.zeros_(parameter)
    if not pre_norm:
        layer.cross_res.norm = nn.Identity()
    found = rest(x, causal_mask(5, 5))
    assert_near(layer(x, memory), found)
    assert not torch.allclose(found, rest(x), atol=1e-3) and not torch.allclose(found, before, atol=1e-3)


def test_torchs_stack_without_gradients_zeroes_what_stands_in_the_padding():
    ours, real = encoder(pre_norm=False), mask(3, 5)
    layer = nn.TransformerEncoderLayer(8, 2, 16, 0.0, batch_first=True, dtype=torch.float64)
    theirs = nn.TransformerEncoder(layer, 2).eval()
    for mine, its in zip(ours.layers, theirs.layers, strict=True):
        its.load_state_dict(encoder_layer_state(mine))
    x = ours.embedding(ids(*real.shape)).detach()
    expected = ours.layers[1](ours.layers[0](x, padding_mask(real)), padding_mask(real))
    slow = theirs(x, src_key_padding_mask=~real)
    with torch.no_grad(), warnings.catch_warnings():
        warnings.simplefilter("ignore")    # its nested tensors are a prototype
        fast = theirs(x, src_key_padding_mask=~real)
    assert_near(slow, expected)    # the padding too
    assert_near(fast[real], expected[real])
    assert not fast[~real].any()
