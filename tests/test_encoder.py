"""The encoder agrees with torch's in both norm orders, looks both ways, and never at padding."""

import torch
from hypothesis import given
from hypothesis import strategies as st
from small import config, encoder, ids, mask, noise, seeded, seeds, shapes
from torch import nn
from torch.testing import assert_close
from torch_layers import encoder_layer_state

from annotated_decoder.decoder import DecoderLayer
from annotated_decoder.encoder import EncoderLayer

orders = st.booleans()
activations = st.sampled_from(["relu", "gelu"])


def torch_layer(pre_norm, activation):
    "In training mode: in evaluation torch may take another path, which zeroes padded outputs."
    return nn.TransformerEncoderLayer(
        8, 2, 16, 0.0, activation, batch_first=True, norm_first=pre_norm, dtype=torch.float64
    ).train()


@given(seeds, orders, activations)
def test_a_layer_agrees_with_torch(seed, pre_norm, activation):
    ours = seeded(lambda: EncoderLayer(config(pre_norm=pre_norm, activation=activation)), seed)
    theirs = torch_layer(pre_norm, activation)
    theirs.load_state_dict(encoder_layer_state(ours))
    x, real = noise(2, 5, 8, seed=seed), mask(5, 3)
    assert_close(ours(x, real), theirs(x, src_key_padding_mask=~real))


@given(seeds, orders, activations)
def test_a_stack_agrees_with_torch(seed, pre_norm, activation):
    ours = encoder(seed, pre_norm=pre_norm, activation=activation)
    norm = nn.LayerNorm(8) if pre_norm else None
    theirs = nn.TransformerEncoder(torch_layer(pre_norm, activation), 2, norm, enable_nested_tensor=False)
    theirs = theirs.double().train()
    for mine, its in zip(ours.layers, theirs.layers, strict=True):
        its.load_state_dict(encoder_layer_state(mine))
    if pre_norm:
        theirs.norm.load_state_dict(ours.final_norm.state_dict())
    source, real = ids(2, 5, seed), mask(5, 2)
    expected = theirs(ours.embedding(source), src_key_padding_mask=~real)
    assert_close(ours(source, real), expected)
    with torch.no_grad():
        assert_close(theirs.eval()(ours.embedding(source), src_key_padding_mask=~real)[real], expected[real])


@given(seeds, shapes, st.integers(0, 4))
def test_every_token_changes_every_vector(seed, shape, place):
    enc, source = encoder(seed, **shape), ids(2, 5, seed)
    changed = source.clone()
    changed[:, place] = 3 + (changed[:, place] - 2) % 8
    assert (enc(source) != enc(changed)).any(-1).all()


@given(seeds, shapes, seeds)
def test_what_stands_in_the_padding_changes_no_real_vector(seed, shape, other):
    enc, source, real = encoder(seed, **shape), ids(2, 5, seed), mask(5, 2)
    changed = torch.where(real, source, ids(2, 5, other))
    assert_close(enc(changed, real)[real], enc(source, real)[real])


@given(seeds, shapes, st.integers(1, 5))
def test_a_padded_batch_is_its_rows_one_by_one(seed, shape, extra):
    enc, source = encoder(seed, **shape), ids(3, 4 + extra, seed)
    lengths = (4, 2, 1, 4 + extra)
    memory = enc(source, mask(*lengths)[:3])
    for row, length in enumerate(lengths[:3]):
        assert_close(memory[row, :length], enc(source[row : row + 1, :length])[0])


def test_without_dropout_training_changes_nothing():
    enc, source = encoder(), ids(2, 5)
    assert torch.equal(enc.train()(source), enc.eval()(source))


def test_a_decoder_layer_is_an_encoder_layer_and_cross_attention():
    ours, theirs = DecoderLayer(config()), EncoderLayer(config())
    extra = {name for name, _ in ours.named_parameters()} - {name for name, _ in theirs.named_parameters()}
    assert {name.split(".")[0] for name in extra} == {"cross_attn", "cross_res"}
    counts = [sum(p.numel() for p in layer.parameters()) for layer in (ours, theirs)]
    assert counts[0] - counts[1] == 4 * (8 * 8 + 8) + 2 * 8
