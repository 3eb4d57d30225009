"""What the listener records is what the module used, and the module does not notice."""

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from small import assert_near, decoder, ids, lengths, mask, memory_for, noise, seeds, shapes

from annotated_decoder.caching import Cache
from annotated_decoder.looking_inside import record_attention


@given(seeds, shapes, lengths, st.integers(1, 5))
def test_recorded_weights_times_values_are_what_the_module_gave(seed, shape, sources, target):
    dec, real = decoder(seed, **shape), mask(*sources, width=6)
    attn, given_out = dec.layers[-1].cross_attn, []
    attn.register_forward_hook(lambda _, inputs, out: given_out.append((inputs[2], out)))
    with record_attention(attn) as [*none]:
        assert none == []
    with record_attention(attn) as recorded:
        dec(ids(len(sources), target, seed), memory_for(dec, *real.shape, seed), real)
    [weights], [(v, out)] = recorded, given_out
    assert weights.shape == (len(sources), shape["n_heads"], target, 6)
    assert_near(weights.sum(-1), torch.ones_like(weights[..., 0]))
    assert not weights.requires_grad
    assert torch.equal(weights > 0, real[:, None, None].expand_as(weights))
    assert_near(attn.out_proj((weights @ v).transpose(1, 2).flatten(2)), out)


@given(seeds, shapes, st.integers(1, 6))
def test_self_attention_is_seen_as_causal(seed, shape, target):
    dec = decoder(seed, **shape)
    with record_attention(dec.layers[0].self_attn) as recorded:
        dec(ids(2, target, seed), memory_for(dec, 2, 4, seed))
    assert torch.equal(recorded[0] > 0, torch.ones_like(recorded[0]).tril().bool())


def test_every_call_inside_is_recorded_and_none_after():
    dec, cache, memory = decoder(), Cache(), noise(1, 4, 8)
    with record_attention(dec.layers[0].self_attn) as recorded:
        for token in ids(1, 3).split(1, 1):
            dec(token, memory, cache=cache)
    dec(ids(1, 1), memory, cache=cache)
    assert [w.shape[-2:] for w in recorded] == [(1, 1), (1, 2), (1, 3)]


def test_the_output_is_the_same_while_someone_listens():
    dec, tokens, memory = decoder(), ids(1, 5), noise(1, 4, 8)
    with record_attention(dec.layers[0].cross_attn):
        heard = dec(tokens, memory)
    assert torch.equal(heard, dec(tokens, memory))


def test_the_listener_goes_even_after_an_error():
    attn = decoder().layers[0].cross_attn
    with pytest.raises(ZeroDivisionError), record_attention(attn):
        assert len(attn._forward_hooks) == 1
        raise ZeroDivisionError
    assert not attn._forward_hooks


@given(seeds, shapes, st.integers(1, 6), st.integers(1, 3))
def test_scale_and_bias_are_heard_too(seed, shape, past, new):
    dec, cache = decoder(seed, **shape | dict(positions="relative", attention_scale=0.3)), Cache()
    attn, given_out = dec.layers[-1].self_attn, []
    memory, tokens = memory_for(dec, 2, 4, seed), ids(2, past + new, seed)
    dec(tokens[:, :past], memory, cache=cache)
    attn.register_forward_hook(lambda _, inputs, out: given_out.append((inputs[2], out)))
    with record_attention(attn) as recorded:
        dec(tokens[:, past:], memory, cache=cache)
    [weights], [(v, out)] = recorded, given_out
    assert weights.shape[-2:] == (new, past + new)
    assert_near(attn.out_proj((weights @ v).transpose(1, 2).flatten(2)), out)


def test_a_mask_given_by_name_is_seen_too():
    attn, x = decoder().layers[0].self_attn, noise(2, 3, 8)
    hidden = mask(3, 1)[:, None, None]
    far = torch.tensor([[0.0, 0.0, 50.0]], dtype=x.dtype)    # added to the scores
    with record_attention(attn) as recorded:
        attn(x, *attn.keys_values(x), mask=hidden)
        attn(x, *attn.keys_values(x), mask=far)
    assert torch.all(recorded[0][1, ..., 1:] == 0)
    assert torch.all(recorded[1][..., 2] > 0.99)
