"""The memory, and nothing else, gives cross-attention its keys and values; padding gives nothing."""

import torch
from hypothesis import given
from hypothesis import strategies as st
from small import assert_near, decoder, ids, lengths, mask, memory_for, noise, permutation, seeded, seeds, shapes
from small import some_visible as some_real
from torch.testing import assert_close

from annotated_decoder.attention import MultiHeadAttention
from annotated_decoder.caching import Cache
from annotated_decoder.cross_attention import memory_keys_values, padding_mask

sizes = st.integers(1, 5)


def filled(memory, real, value):
    return torch.where(real[..., None], memory, value)


@given(lengths)
def test_the_mask_serves_all_heads_and_queries(sources):
    real = mask(*sources)
    assert padding_mask(None) is None
    assert torch.equal(padding_mask(real).expand(-1, 4, 5, -1)[:, 3, 4], real)


@given(seeds, shapes, sizes, sizes, sizes, st.sampled_from([torch.nan, torch.inf, -1e30, 7.0]))
def test_padding_changes_neither_output_nor_gradients(seed, shape, batch, target, source, value):
    dec, tokens, real = decoder(seed, **shape), ids(batch, target, seed), some_real(batch, source, seed=seed)

    def outcome(memory):
        memory = memory.clone().requires_grad_()
        dec.zero_grad()
        out = dec(tokens, memory, real)
        out.square().sum().backward()
        return out, memory.grad, [p.grad.clone() for p in dec.parameters()]

    memory = memory_for(dec, batch, source, seed)
    out, memory_grad, grads = outcome(memory)
    assert torch.all(memory_grad[~real] == 0) and torch.all(memory_grad[real] != 0)
    assert_near(outcome(filled(memory, real, value)), (out, memory_grad, grads))


@given(seeds, shapes, lengths, sizes, sizes)
def test_more_padding_changes_nothing(seed, shape, sources, target, extra):
    dec, tokens, source = decoder(seed, **shape), ids(len(sources), target, seed), max(sources)
    memory = memory_for(dec, len(sources), source, seed)
    longer = torch.cat([memory, memory_for(dec, len(sources), extra, seed + 1)], 1)
    real = mask(*sources, width=source + extra)
    assert_near(dec(tokens, longer, real), dec(tokens, memory, real[:, :source]))


def test_hidden_columns_would_matter_if_they_were_seen():
    dec, tokens, memory = decoder(), ids(2, 4), noise(2, 5, 8)
    assert not torch.allclose(dec(tokens, memory, mask(5, 2))[1], dec(tokens, memory)[1])


@given(seeds, shapes, sizes, sizes, sizes)
def test_the_memory_may_stand_in_any_order_with_its_mask(seed, shape, batch, target, source):
    dec, tokens, real = decoder(seed, **shape), ids(batch, target, seed), some_real(batch, source, seed=seed)
    memory, order = memory_for(dec, batch, source, seed), permutation(source, seed)
    assert_near(dec(tokens, memory[:, order], real[:, order]), dec(tokens, memory, real))


def test_keys_and_values_come_from_the_memory_and_not_from_the_tokens():
    dec, memory = decoder(), noise(1, 3, 8)

    def kept(tokens, memory):
        cache = Cache()
        dec(tokens, memory, cache=cache)
        return cache.cross_kv

    assert_close(kept(ids(1, 4, seed=1), memory), kept(ids(1, 4, seed=2), memory))
    changed = memory.clone()
    changed[:, 1] += 1
    for layer, pair in kept(ids(1, 4), changed).items():
        for before, after in zip(kept(ids(1, 4), memory)[layer], pair, strict=True):
            differs = (before != after).any(-1).flatten(0, 1)
            assert differs.tolist() == [[False, True, False]] * 2


def test_every_layer_projects_the_memory_in_its_own_way():
    dec, cache = decoder(n_layers=3), Cache()
    dec(ids(1, 2), noise(1, 3, 8), cache=cache)
    pairs = [cache.cross_kv[layer] for layer in range(3)]
    for which in (0, 1):
        assert not torch.allclose(pairs[0][which], pairs[1][which])
        assert not torch.allclose(pairs[1][which], pairs[2][which])


def test_padded_columns_have_the_keys_and_values_of_zero():
    attn = seeded(lambda: MultiHeadAttention(8, 2))
    real = mask(3, 1)
    zeroed = filled(noise(2, 3, 8), real, 0.0)
    found = memory_keys_values(attn, filled(noise(2, 3, 8), real, torch.nan), real)
    assert_close(found, attn.keys_values(zeroed))


def test_without_zeroing_nan_in_the_padding_spoils_its_row():
    attn, real, x = seeded(lambda: MultiHeadAttention(8, 2)), mask(3, 1), noise(2, 2, 8, seed=1)
    spoiled = filled(noise(2, 3, 8), real, torch.nan)
    careless = attn(x, *attn.keys_values(spoiled), padding_mask(real))
    careful = attn(x, *memory_keys_values(attn, spoiled, real), padding_mask(real))
    assert careless[1].isnan().all() and careless[0].isfinite().all() and careful.isfinite().all()


def test_a_shuffled_memory_whose_mask_stays_behind_is_read_wrongly():
    attn, real, x, order = seeded(lambda: MultiHeadAttention(8, 2)), mask(3, 1), noise(2, 2, 8, seed=1), [2, 0, 1]
    memory = noise(2, 3, 8)

    def read(memory, real):
        return attn(x, *memory_keys_values(attn, memory, real), padding_mask(real))

    assert_near(read(memory[:, order], real[:, order]), read(memory, real))
    assert not torch.allclose(read(memory[:, order], real)[1], read(memory, real)[1], atol=1e-3)
