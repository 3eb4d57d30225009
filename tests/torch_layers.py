"""torch's layers in our shapes, and our layers' weights under the names that torch's layers give them."""

import torch
from small import shapes

# torch's heads share d_model among them; its layers have no RMSNorm, no other scale, no bias on the scores, no gate.
torch_shapes = shapes.map(
    lambda shape: shape
    | dict(d_model=shape["n_heads"] * shape["head_dim"], head_dim=None, norm="layer", norm_eps=None)
    | dict(positions="learned", attention_scale=None, linear_bias=True, gated=False)
    | dict(activation={"silu": "relu", "gelu_tanh": "gelu"}.get(shape["activation"], shape["activation"]))
)


def torch_layer(kind, stack, dtype):
    "In training mode: in evaluation torch's encoder may take another path, which zeroes padded outputs."
    order = dict(batch_first=True, norm_first=stack.config.pre_norm)
    shape = stack.config.d_model, stack.config.n_heads, stack.config.d_ff
    return kind(*shape, 0.0, stack.parts.activation, dtype=dtype, **order).train()


def attention_state(attn, prefix=""):
    projections = attn.q_proj, attn.k_proj, attn.v_proj
    return {
        f"{prefix}in_proj_weight": torch.cat([p.weight for p in projections]),
        f"{prefix}in_proj_bias": torch.cat([p.bias for p in projections]),
        f"{prefix}out_proj.weight": attn.out_proj.weight,
        f"{prefix}out_proj.bias": attn.out_proj.bias,
    }


def named(**modules):
    return {f"{name}.{k}": v for name, module in modules.items() for k, v in module.state_dict().items()}


def encoder_layer_state(layer):
    return attention_state(layer.self_attn, "self_attn.") | named(
        linear1=layer.ffn.up_proj, linear2=layer.ffn.down_proj, norm1=layer.self_res.norm, norm2=layer.ffn_res.norm
    )


def decoder_layer_state(layer):
    return (
        attention_state(layer.self_attn, "self_attn.")
        | attention_state(layer.cross_attn, "multihead_attn.")
        | named(linear1=layer.ffn.up_proj, linear2=layer.ffn.down_proj)
        | named(norm1=layer.self_res.norm, norm2=layer.cross_res.norm, norm3=layer.ffn_res.norm)
    )
