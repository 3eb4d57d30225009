"""Attention agrees with torch, weighs what is visible, and does not see order."""

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from small import assert_near, dtypes, noise, permutation, seeded, seeds, some_visible
from torch import nn
from torch.nn.functional import scaled_dot_product_attention
from torch_layers import attention_state

from annotated_decoder.attention import MultiHeadAttention, attention, attention_weights, causal_mask

sizes = st.integers(1, 6)


@st.composite
def inputs(draw):
    "Queries, keys, values, and a mask in which every query sees at least one key."
    batch, seed, dtype = draw(st.lists(st.integers(1, 3), max_size=2)), draw(seeds), draw(dtypes)
    queries, keys, head_dim, value_dim = (draw(sizes) for _ in range(4))
    shapes = (queries, head_dim), (keys, head_dim), (keys, value_dim)
    q, k, v = (noise(*batch, *shape, seed=seed + i, dtype=dtype) for i, shape in enumerate(shapes))
    return q, k, v, some_visible(*batch, queries, keys, seed=seed)


@given(sizes, st.integers(0, 5))
def test_the_last_query_lines_up_with_the_last_key(queries, past):
    seen = causal_mask(queries, queries + past)
    for i in range(queries):
        assert seen[i].tolist() == [True] * (i + 1 + past) + [False] * (queries - 1 - i)


@given(sizes, st.integers(1, 5))
def test_torchs_causal_switch_is_our_mask_where_it_is_square_and_no_other(queries, past):
    def seen(keys):
        equal, unit = torch.zeros(queries, 4), torch.eye(keys)    # equal scores; the output is the weights
        return scaled_dot_product_attention(equal, torch.zeros(keys, 4), unit, is_causal=True) > 0

    assert torch.equal(seen(queries), causal_mask(queries, queries))
    assert not torch.equal(seen(queries + past), causal_mask(queries, queries + past))


@given(inputs(), st.sampled_from([None, 0.3]))
def test_the_fused_operation_is_the_readable_form(given_in, scale):
    q, k, v, seen = given_in
    added = noise(*seen.shape[-2:], seed=9, dtype=q.dtype).expand(seen.shape).where(seen, -torch.inf)
    for mask in (None, seen, added):
        assert_near(attention(q, k, v, mask, scale), attention_weights(q, k, mask, scale) @ v)
        assert torch.equal(attention(q, k, v, mask, scale), scaled_dot_product_attention(q, k, v, mask, scale=scale))


@given(inputs())
def test_visible_rows_sum_to_one_and_hidden_columns_weigh_nothing(given_in):
    q, k, _, seen = given_in
    weights = attention_weights(q, k, seen)
    assert_near(weights.sum(-1), torch.ones_like(q[..., 0]))
    assert torch.all(weights[~seen] == 0)
    assert torch.all(weights[seen] > 0)


@given(inputs())
def test_what_stays_visible_shares_the_whole_weight_in_the_same_proportion(given_in):
    q, k, _, seen = given_in
    left = attention_weights(q, k).where(seen, 0)
    assert_near(attention_weights(q, k, seen), left / left.sum(-1, keepdim=True))


@given(inputs(), seeds)
def test_a_row_that_sees_nothing_is_zero_and_so_are_its_gradients(given_in, seed):
    q, k, v, seen = given_in
    before, blind = attention(q, k, v, seen), noise(*seen.shape[:-1], seed=seed) > 0
    left = seen & ~blind[..., None]
    for mask in (left, torch.zeros(left.shape, dtype=q.dtype).masked_fill(~left, -torch.inf)):
        for readable in (False, True):
            leaves = [tensor.detach().requires_grad_() for tensor in (q, k, v)]
            found = attention_weights(*leaves[:2], mask) @ leaves[2] if readable else attention(*leaves, mask)
            found.square().sum().backward()
            assert torch.all(found[blind] == 0)
            assert_near(found[~blind], before[~blind])
            assert torch.all(leaves[0].grad[blind] == 0)
            assert all(leaf.grad.isfinite().all() for leaf in leaves)


def test_very_large_scores_choose_one_key():
    q, k = torch.tensor([[3e4]]), torch.tensor([[3e4], [2e4]])
    assert attention_weights(q, k).tolist() == [[1.0, 0.0]]


@given(inputs())
def test_the_output_lies_between_the_lowest_and_the_highest_value(given_in):
    q, k, v, _ = given_in
    found, slack = attention(q, k, v), 20 * torch.finfo(v.dtype).eps
    assert torch.all(found <= v.amax(-2, keepdim=True) + slack)
    assert torch.all(found >= v.amin(-2, keepdim=True) - slack)


@given(inputs(), seeds)
def test_keys_may_stand_in_any_order(given_in, seed):
    q, k, v, seen = given_in
    order = permutation(k.shape[-2], seed)
    moved = k[..., order, :], v[..., order, :], seen[..., order]
    assert_near(attention(q, *moved), attention(q, k, v, seen))
    assert_near(attention_weights(q, moved[0], moved[2]), attention_weights(q, k, seen)[..., order])


@given(seeds, dtypes)
def test_keys_alone_may_not_move_and_a_causal_mask_sees_their_places(seed, dtype):
    q, k, v = (noise(n, 3, seed=seed + n, dtype=dtype) for n in (4, 5, 6))
    v, seen, order = v[:5], causal_mask(4, 5), torch.tensor([4, 2, 0, 1, 3])
    assert (attention(q, k[order], v) - attention(q, k, v)).abs().max() > 1e-3
    assert (attention(q, k[order], v[order], seen) - attention(q, k, v, seen)).abs().max() > 1e-3
    assert_near(attention(q, k[order], v[order]), attention(q, k, v))


@given(inputs(), seeds)
def test_permuted_queries_permute_the_output(given_in, seed):
    q, k, v, seen = given_in
    order = permutation(q.shape[-2], seed)
    assert_near(attention(q[..., order, :], k, v, seen[..., order, :]), attention(q, k, v, seen)[..., order, :])


@given(seeds, dtypes, sizes, sizes, sizes, sizes, sizes, st.booleans())
def test_parity_with_torch_multi_head_attention(seed, dtype, batch, queries, past, n_heads, head_dim, causal):
    d_model, keys = n_heads * head_dim, queries + past
    ours = seeded(lambda: MultiHeadAttention(d_model, n_heads), seed, dtype)
    theirs = nn.MultiheadAttention(d_model, n_heads, batch_first=True, dtype=dtype)
    theirs.load_state_dict(attention_state(ours))
    x, source = (noise(batch, n, d_model, seed=seed + n, dtype=dtype) for n in (queries, keys))
    seen = causal_mask(queries, keys) if causal else None
    hidden = None if seen is None else ~seen    # torch's masks mean the opposite of ours
    expected, _ = theirs(x, source, source, attn_mask=hidden, need_weights=False)
    assert_near(ours(x, *ours.keys_values(source), seen), expected)


@given(seeds, dtypes, sizes, sizes, sizes)
def test_each_head_works_on_its_own_and_its_width_is_free(seed, dtype, d_model, n_heads, head_dim):
    attn = seeded(lambda: MultiHeadAttention(d_model, n_heads, head_dim), seed, dtype)
    x = noise(2, 4, d_model, seed=seed, dtype=dtype)
    q, (k, v) = attn.queries(x), attn.keys_values(x)
    assert q.shape == k.shape == v.shape == (2, n_heads, 4, head_dim)
    alone = [attention(q[:, h], k[:, h], v[:, h]) for h in range(n_heads)]
    assert_near(attn(x, k, v), attn.out_proj(torch.cat(alone, -1)))


@given(seeds, dtypes, st.integers(2, 6), sizes, st.data())
def test_self_attention_under_the_mask_keeps_the_future_out_of_sight(seed, dtype, length, n_heads, data):
    attn = seeded(lambda: MultiHeadAttention(6, n_heads, 3), seed, dtype)
    x, place = noise(2, length, 6, seed=seed, dtype=dtype), data.draw(st.integers(0, length - 1))

    def outputs(x, seen):
        return attn(x, *attn.keys_values(x), seen)

    changed = x.clone()
    changed[:, place] += noise(6, seed=seed + 1, dtype=dtype)
    before, after = (outputs(h, causal_mask(length, length)) for h in (x, changed))
    assert_near(after[:, :place], before[:, :place])
    assert torch.all((after - before)[:, place:].abs().amax(-1) > 0)
    assert torch.all((outputs(changed, None) - outputs(x, None)).abs().amax(-1) > 0)
    assert_near(outputs(x[:, : place + 1], causal_mask(place + 1, place + 1)), before[:, : place + 1])


@given(seeds, dtypes, sizes, sizes, st.booleans())
def test_a_key_bias_does_nothing_and_a_value_bias_moves_every_output_alike(seed, dtype, queries, n_heads, causal):
    attn = seeded(lambda: MultiHeadAttention(6, n_heads, 3), seed, dtype)
    x = noise(2, queries, 6, seed=seed, dtype=dtype)
    seen = causal_mask(queries, queries) if causal else None

    @torch.no_grad()
    def moved(projection):
        before = attn(x, *attn.keys_values(x), seen)
        projection.bias.add_(noise(3 * n_heads, seed=seed, dtype=dtype))
        return attn(x, *attn.keys_values(x), seen) - before

    assert_near(moved(attn.k_proj), torch.zeros_like(x))
    by_values = moved(attn.v_proj)
    assert_near(by_values, by_values[:1, :1].expand_as(by_values))
    assert by_values.abs().max() > 1e-3
    attn(x, *attn.keys_values(x), seen).square().sum().backward()
    assert_near(attn.k_proj.bias.grad, torch.zeros_like(attn.k_proj.bias))    # what does nothing learns nothing


def test_a_query_bias_changes_the_weights():
    attn, x = seeded(lambda: MultiHeadAttention(6, 2, 3)), noise(2, 4, 6)
    before = attn(x, *attn.keys_values(x)).detach()
    with torch.no_grad():
        attn.q_proj.bias.add_(noise(6, seed=1))
    moved = attn(x, *attn.keys_values(x)) - before
    assert (moved - moved[:1, :1]).abs().max() > 1e-3    # by another vector at each position


def test_without_linear_biases_there_are_four_matrices():
    names = set(MultiHeadAttention(8, 2, bias=False).state_dict())
    assert names == {f"{name}_proj.weight" for name in ("q", "k", "v", "out")}


def test_heads_that_do_not_share_the_width_are_refused():
    with pytest.raises(ValueError, match="3 heads.*d_model = 8.*head_dim"):
        MultiHeadAttention(8, 3)
