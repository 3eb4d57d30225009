"""A cache changes how much is computed and nothing of what is found."""

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from small import assert_near, decoder, few, ids, lengths, mask, memory_for, model, noise, seeds, shapes, some_visible
from torch.testing import assert_close

from annotated_decoder.caching import Cache
from annotated_decoder.generation import generate_steps

chunkings = st.lists(st.integers(1, 4), min_size=1, max_size=5).filter(lambda sizes: sum(sizes) <= 12)


@given(seeds, shapes, chunkings, st.integers(1, 3), st.integers(1, 5))
def test_reading_in_any_chunks_is_reading_all(seed, shape, chunks, batch, source):
    dec, cache = decoder(seed, **shape), Cache()
    tokens, memory = ids(batch, sum(chunks), seed), memory_for(dec, batch, source, seed)
    real = some_visible(batch, source, seed=seed)
    parts = [dec(chunk, memory, real, cache) for chunk in tokens.split(chunks, 1)]
    assert_near(torch.cat(parts, 1), dec(tokens, memory, real))
    assert cache.length == sum(chunks)


@few
@given(seeds, shapes, lengths)
def test_the_loop_gives_the_same_steps_with_a_cache(seed, shape, sources):
    made, source, real = model(seed, end_bias=1.0, **shape), ids(len(sources), max(sources), seed), mask(*sources)
    plain, cached = (list(generate_steps(made, source, real, cache=c)) for c in (None, Cache()))
    assert len(plain) == len(cached)
    for a, b in zip(plain, cached, strict=True):
        assert torch.equal(a.tokens, b.tokens)
        assert_near(a.logits, b.logits)


@given(seeds, shapes, st.lists(st.integers(0, 11), min_size=1, max_size=4), st.integers(1, 6), st.integers(1, 6))
def test_after_a_reorder_each_row_goes_on_from_the_row_it_took(seed, shape, rows, n_past, n_new):
    dec, cache, batch = decoder(seed, **shape), Cache(), len(rows)
    rows, memory = torch.tensor(rows) % batch, memory_for(dec, 1, 4, seed).expand(batch, -1, -1)
    past, new = ids(batch, n_past, seed), ids(batch, n_new, seed + 1)
    dec(past, memory, cache=cache)
    cache.reorder(rows)
    expected = dec(torch.cat([past[rows], new], 1), memory)[:, n_past:]
    assert_near(dec(new, memory, cache=cache), expected)


def test_a_reorder_leaves_the_memory_with_its_row():
    dec, cache, memory, real = decoder(), Cache(), noise(2, 4, 8), mask(4, 2)
    past, new, rows = ids(2, 3), ids(2, 1, seed=1), torch.tensor([1, 1])
    dec(past, memory, real, cache)
    kept = dict(cache.cross_kv)
    cache.reorder(rows)
    assert cache.cross_kv == kept
    with_old_memory = Cache()
    dec(past[rows], memory[rows], real[rows], with_old_memory)
    assert_close(cache.self_kv[0], with_old_memory.self_kv[0])
    assert dec(new, memory, real, cache).isfinite().all()


def test_every_token_and_the_memory_are_projected_once():
    dec, cache, memory = decoder(n_layers=3), Cache(), noise(1, 4, 8)
    seen = {"self": [], "cross": []}
    for layer in dec.layers:
        for name, attn in (("self", layer.self_attn), ("cross", layer.cross_attn)):
            attn.k_proj.register_forward_hook(lambda _, inputs, out, name=name: seen[name].append(out.shape[1]))
    for chunk in ids(1, 6).split([3, 1, 2], 1):
        dec(chunk, memory, cache=cache)
    assert seen == {"self": [3] * 3 + [1] * 3 + [2] * 3, "cross": [4] * 3}


def test_two_decodes_with_two_caches_do_not_meet():
    dec, memory, tokens = decoder(), noise(1, 4, 8), ids(1, 6)
    first, second = Cache(), Cache()
    dec(tokens[:, :3], memory, cache=first)
    dec(ids(1, 5, seed=9), memory + 1, cache=second)
    assert_close(dec(tokens[:, 3:], memory, cache=first), dec(tokens, memory)[:, 3:])


@pytest.mark.parametrize("n_past", [0, 3])
def test_a_decode_that_broke_off_cannot_go_on(n_past):
    dec, cache, memory = decoder(), Cache(), noise(1, 4, 8)
    if n_past:
        dec(ids(1, n_past), memory, cache=cache)
    breaks = dec.layers[1].register_forward_pre_hook(lambda *_: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        dec(ids(1, 2), memory, cache=cache)
    breaks.remove()
    message = f"layer 0 has keys of {n_past + 2} tokens, the decoder has read {n_past}; make a new cache"
    with pytest.raises(ValueError, match=message):
        dec(ids(1, 2), memory, cache=cache)


def test_bytes_count_keys_and_values_of_tokens_and_memory():
    dec, cache = decoder(n_layers=3), Cache()
    assert cache.nbytes == 0
    dec(ids(2, 5), noise(2, 4, 8), cache=cache)
    assert cache.nbytes == 3 * 2 * 2 * 8 * (5 + 4) * 8    # layers · (k, v) · batch · width · positions · bytes


def test_positions_run_out_with_a_cache_too():
    dec, cache, memory = decoder(), Cache(), noise(1, 4, 8)
    dec(ids(1, 12), memory, cache=cache)
    with pytest.raises(ValueError, match="13 positions.*max_len is 12"):
        dec(ids(1, 1), memory, cache=cache)


def test_a_cache_that_missed_tokens_is_refused():
    dec, cache, memory = decoder(), Cache(), noise(1, 4, 8)
    dec(ids(1, 2), memory, cache=cache)
    cache.advance(1)
    with pytest.raises(ValueError, match="layer 0 has keys of 2 tokens, the decoder has read 3; make a new cache"):
        dec(ids(1, 1), memory, cache=cache)
