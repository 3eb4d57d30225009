"""Our layers' weights under the names that torch's layers give them."""

import torch


def attention_state(attn, name):
    projections = attn.q_proj, attn.k_proj, attn.v_proj
    return {
        f"{name}.in_proj_weight": torch.cat([p.weight for p in projections]),
        f"{name}.in_proj_bias": torch.cat([p.bias for p in projections]),
        f"{name}.out_proj.weight": attn.out_proj.weight,
        f"{name}.out_proj.bias": attn.out_proj.bias,
    }


def named(**modules):
    return {f"{name}.{k}": v for name, module in modules.items() for k, v in module.state_dict().items()}


def encoder_layer_state(layer):
    return attention_state(layer.self_attn, "self_attn") | named(
        linear1=layer.ffn.up_proj, linear2=layer.ffn.down_proj, norm1=layer.self_res.norm, norm2=layer.ffn_res.norm
    )


def decoder_layer_state(layer):
    return (
        attention_state(layer.self_attn, "self_attn")
        | attention_state(layer.cross_attn, "multihead_attn")
        | named(linear1=layer.ffn.up_proj, linear2=layer.ffn.down_proj)
        | named(norm1=layer.self_res.norm, norm2=layer.cross_res.norm, norm3=layer.ffn_res.norm)
    )
