"""Attention agrees with torch, weighs what is visible, and does not see order."""

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from small import noise, seeded, seeds
from torch import nn
from torch.nn.functional import scaled_dot_product_attention
from torch.testing import assert_close

from annotated_decoder.attention import MultiHeadAttention, attention, attention_weights, causal_mask

sizes = st.integers(1, 6)


def qkv(queries, keys, seed, batch=2, width=3):
    made = noise(batch, queries + 2 * keys, width, seed=seed)
    return made.split([queries, keys, keys], dim=1)


def some_visible(queries, keys, seed):
    "A random mask in which every query sees at least one key."
    seen = noise(2, queries, keys, seed=seed + 1) > 0
    seen[..., 0] |= ~seen.any(-1)
    return seen


@given(sizes, st.integers(0, 5))
def test_the_last_query_lines_up_with_the_last_key(queries, past):
    seen = causal_mask(queries, queries + past)
    for i in range(queries):
        assert seen[i].tolist() == [True] * (i + 1 + past) + [False] * (queries - 1 - i)


@given(sizes, sizes, seeds, st.sampled_from([None, 0.3]))
def test_parity_with_scaled_dot_product_attention(queries, keys, seed, scale):
    q, k, v = qkv(queries, keys, seed)
    seen, bias = some_visible(queries, keys, seed), noise(queries, keys, seed=seed + 2)
    assert_close(attention(q, k, v, scale=scale), scaled_dot_product_attention(q, k, v, scale=scale))
    assert_close(
        attention(q, k, v, seen, bias, scale),
        scaled_dot_product_attention(q, k, v, bias.where(seen, -torch.inf), scale=scale),
    )


@given(sizes, sizes, seeds)
def test_visible_rows_sum_to_one_and_hidden_columns_weigh_nothing(queries, keys, seed):
    q, k, _ = qkv(queries, keys, seed)
    seen = some_visible(queries, keys, seed)
    weights = attention_weights(q, k, seen)
    assert_close(weights.sum(-1), torch.ones(2, queries, dtype=torch.float64))
    assert torch.all(weights[~seen] == 0)
    assert torch.all(weights[seen] > 0)


def test_a_row_that_sees_nothing_is_zero_and_so_are_its_gradients():
    q, k, v = (t.requires_grad_() for t in (noise(1, 2, 3), noise(1, 4, 3, seed=1), noise(1, 4, 3, seed=2)))
    seen = torch.tensor([[True] * 4, [False] * 4])
    found = attention(q, k, v, seen)
    found.sum().backward()
    assert torch.all(found[0, 1] == 0) and torch.all(found[0, 0] != 0)
    assert torch.all(q.grad[0, 1] == 0) and torch.all(q.grad[0, 0] != 0)
    assert k.grad.isfinite().all() and v.grad.isfinite().all()


def test_very_large_scores_choose_one_key():
    q, k = torch.tensor([[3e4]]), torch.tensor([[3e4], [2e4]])
    assert attention_weights(q, k).tolist() == [[1.0, 0.0]]


@given(sizes, sizes, seeds)
def test_the_output_lies_between_the_lowest_and_the_highest_value(queries, keys, seed):
    q, k, v = qkv(queries, keys, seed)
    found = attention(q, k, v)
    assert torch.all(found <= v.amax(1, keepdim=True) + 1e-12)
    assert torch.all(found >= v.amin(1, keepdim=True) - 1e-12)


@given(sizes, sizes, seeds)
def test_keys_may_stand_in_any_order(queries, keys, seed):
    q, k, v = qkv(queries, keys, seed)
    seen = some_visible(queries, keys, seed)
    order = torch.randperm(keys, generator=torch.Generator().manual_seed(seed))
    assert_close(attention(q, k[:, order], v[:, order], seen[..., order]), attention(q, k, v, seen))
    assert_close(attention_weights(q, k[:, order], seen[..., order]), attention_weights(q, k, seen)[..., order])


@given(sizes, sizes, seeds)
def test_permuted_queries_permute_the_output(queries, keys, seed):
    q, k, v = qkv(queries, keys, seed)
    order = torch.randperm(queries, generator=torch.Generator().manual_seed(seed))
    assert_close(attention(q[:, order], k, v), attention(q, k, v)[:, order])


@given(seeds, st.booleans())
def test_parity_with_torch_multi_head_attention(seed, causal):
    ours = seeded(lambda: MultiHeadAttention(8, 2), seed)
    theirs = nn.MultiheadAttention(8, 2, batch_first=True).double()
    projections = ours.q_proj, ours.k_proj, ours.v_proj
    theirs.load_state_dict(
        {
            "in_proj_weight": torch.cat([p.weight for p in projections]),
            "in_proj_bias": torch.cat([p.bias for p in projections]),
            "out_proj.weight": ours.out_proj.weight,
            "out_proj.bias": ours.out_proj.bias,
        }
    )
    x, source = noise(2, 4, 8, seed=seed), noise(2, 5, 8, seed=seed + 1)
    seen = causal_mask(4, 5) if causal else None
    hidden = None if seen is None else ~seen    # torch's masks mean the opposite of ours
    expected, _ = theirs(x, source, source, attn_mask=hidden, need_weights=False)
    assert_close(ours(x, *ours.keys_values(source), seen), expected)


def test_each_head_works_on_its_own_part_of_the_width():
    attn = seeded(lambda: MultiHeadAttention(6, 3))
    x = noise(1, 4, 6)
    q, (k, v) = attn.queries(x), attn.keys_values(x)
    alone = [attention(q[:, h], k[:, h], v[:, h]) for h in range(3)]
    assert_close(attn(x, k, v), attn.out_proj(torch.cat(alone, -1)))


def test_the_width_of_a_head_is_free():
    attn = seeded(lambda: MultiHeadAttention(7, 3, head_dim=5))
    x = noise(2, 4, 7)
    assert attn.queries(x).shape == (2, 3, 4, 5)
    assert attn(x, *attn.keys_values(x)).shape == x.shape


def test_heads_that_do_not_divide_the_width_are_refused():
    with pytest.raises(ValueError, match="3 heads.*d_model = 8.*head_dim"):
        MultiHeadAttention(8, 3)
