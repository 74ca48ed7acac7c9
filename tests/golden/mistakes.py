"""Mistakes that another implementation of the forward pass could make.

Each function in MISTAKES takes a model and its inputs and returns the embeddings that result from the mistake.
"""

import torch
import torch.nn.functional as F
from transformers.models.qwen3_vl import modeling_qwen3_vl as reference

from forward_reference import pool, positions, run


def explicit_mask(mask: torch.Tensor, causal: bool, padding: bool) -> torch.Tensor:
    """An additive attention mask of shape [b, 1, t, t]."""
    length = mask.shape[1]
    allowed = torch.ones(len(mask), 1, length, length, dtype=torch.bool)
    if causal:
        allowed &= torch.ones(length, length, dtype=torch.bool).tril()
    if padding:
        allowed &= mask[:, None, None, :].bool()
    allowed |= torch.eye(length, dtype=torch.bool)  # every row attends to at least one key
    return torch.zeros(allowed.shape).masked_fill(~allowed, torch.finfo(torch.float32).min)


def with_attention(model, inputs, causal: bool, padding: bool):
    changed = inputs | {
        "position_ids": positions(model, inputs),
        "attention_mask": explicit_mask(inputs["attention_mask"], causal, padding),
    }
    return pool(run(model, changed), inputs["attention_mask"])


def bidirectional(model, inputs):
    return with_attention(model, inputs, causal=False, padding=True)


def no_padding_mask(model, inputs):
    return with_attention(model, inputs, causal=True, padding=False)


def one_dimensional_positions(model, inputs):
    mask = inputs["attention_mask"]
    flat = (mask.cumsum(1) - 1).clamp(min=0)
    return pool(run(model, inputs | {"position_ids": flat.expand(3, -1, -1)}), mask)


def resume_after_every_patch(model, inputs):
    """Text after an image continues at the token count instead of at the largest position plus one."""
    right = positions(model, inputs)
    mask = inputs["attention_mask"]
    flat = (mask.cumsum(1) - 1).clamp(min=0)
    image = inputs["mm_token_type_ids"].bool()
    start = torch.where(image & ~image.roll(1, 1), right[0] - flat, 0).cumsum(1)
    wrong = torch.where(image, right - start, flat)
    return pool(run(model, inputs | {"position_ids": wrong}), mask)


class patched:
    """Replaces an attribute within a `with` block."""

    def __init__(self, owner, name, value):
        self.owner, self.name, self.value = owner, name, value

    def __enter__(self):
        self.saved = getattr(self.owner, self.name)
        setattr(self.owner, self.name, self.value)

    def __exit__(self, *_):
        setattr(self.owner, self.name, self.saved)


def sections_in_a_row(model, inputs):
    """The M-RoPE of Qwen2-VL: consecutive sections [T..., H..., W...] instead of interleaved ones."""
    rotary = model.language_model.rotary_emb
    sections = list(rotary.mrope_section)

    def chunked(freq):
        parts = [part[axis] for axis, part in enumerate(freq.split(sections, dim=-1))]
        return torch.cat(parts * 2, dim=-1)

    with patched(rotary, "recomposition_frequencies", chunked):
        return pool(run(model, inputs), inputs["attention_mask"])


def no_deepstack(model, inputs):
    with patched(model.language_model, "_deepstack_process", lambda hidden, *_: hidden):
        return pool(run(model, inputs), inputs["attention_mask"])


def interpolation(change):
    """The position table is resampled in another way."""

    def mistake(model, inputs):
        right = reference.get_vision_interpolation_indices_and_weights
        with patched(reference, right.__name__, lambda *a, **k: change(right, *a, **k)):
            return pool(run(model, inputs), inputs["attention_mask"])

    return mistake


def nearest(right, *args, **kwargs):
    indices, weights = right(*args, **kwargs)
    return indices, F.one_hot(weights.argmax(1), 4).float()


def half_pixel(right, *args, **kwargs):
    return right(*args, **(kwargs | {"align_corners": False}))


def raster_table(right, *args, **kwargs):
    return right(*args, **(kwargs | {"spatial_merge_size": 1}))


def raster_vision_rotary(model, inputs):
    right = reference.get_vision_position_ids
    with patched(reference, "get_vision_position_ids", lambda grid, merge, **k: right(grid, 1, **k)):
        return pool(run(model, inputs), inputs["attention_mask"])


def attention_across_images(model, inputs):
    def one_chunk(grid, config, **_):
        return torch.tensor([0, int(grid.prod(1).sum())], dtype=torch.int32), None

    with patched(reference, "get_vision_attention_seqlens", one_chunk):
        return pool(run(model, inputs), inputs["attention_mask"])


def norms_swapped_in_mergers(model, inputs):
    """The deepstack mergers normalise over one patch instead of over the merged block."""

    def forward(self, x):
        if self.use_postshuffle_norm:
            width = x.shape[-1]
            x = F.layer_norm(x, (width,)).view(-1, self.hidden_size) * self.norm.weight + self.norm.bias
        else:
            x = self.norm(x).view(-1, self.hidden_size)
        return self.linear_fc2(self.act_fn(self.linear_fc1(x)))

    with patched(reference.Qwen3VLVisionPatchMerger, "forward", forward):
        return pool(run(model, inputs), inputs["attention_mask"])


def first_token(model, inputs):
    mask = inputs["attention_mask"]
    hidden = run(model, inputs)
    return F.normalize(hidden[torch.arange(len(hidden)), mask.argmax(1)], dim=-1)


def last_column(model, inputs):
    return F.normalize(run(model, inputs)[:, -1], dim=-1)


def no_final_norm(model, inputs):
    with patched(model.language_model, "norm", torch.nn.Identity()):
        return pool(run(model, inputs), inputs["attention_mask"])


def no_query_key_norm(model, inputs):
    with patched(reference.Qwen3VLTextRMSNorm, "forward", _skip_head_norm(reference.Qwen3VLTextRMSNorm.forward)):
        return pool(run(model, inputs), inputs["attention_mask"])


def _skip_head_norm(right):
    return lambda self, x: x if x.ndim == 4 else right(self, x)


def heads_taken_in_turn(model, inputs):
    """Query heads share key-value heads in the order 0,1,0,1 instead of 0,0,1,1."""
    saved = []
    for layer in model.language_model.layers:
        attention = layer.self_attn
        heads, groups = attention.config.num_attention_heads, attention.num_key_value_groups
        order = torch.arange(heads).view(groups, heads // groups).T.flatten()
        q, o = attention.q_proj, attention.o_proj
        saved.append((q, o, q.weight.data, o.weight.data, None if q.bias is None else q.bias.data))
        rows = q.weight.data.view(heads, attention.head_dim, -1)[order]
        q.weight.data = rows.reshape(q.weight.shape)
        if q.bias is not None:
            q.bias.data = q.bias.data.view(heads, -1)[order].flatten()
        columns = o.weight.data.view(-1, heads, attention.head_dim)[:, order]
        o.weight.data = columns.reshape(o.weight.shape)
    result = pool(run(model, inputs), inputs["attention_mask"])
    for q, o, q_weight, o_weight, q_bias in saved:
        q.weight.data, o.weight.data = q_weight, o_weight
        if q_bias is not None:
            q.bias.data = q_bias
    return result


MISTAKES = {
    "bidirectional mask": bidirectional,
    "padding attended to": no_padding_mask,
    "1-D positions": one_dimensional_positions,
    "text resumes at the token count": resume_after_every_patch,
    "M-RoPE not interleaved": sections_in_a_row,
    "no deepstack": no_deepstack,
    "nearest position": interpolation(nearest),
    "half-pixel centres": interpolation(half_pixel),
    "position table in raster order": interpolation(raster_table),
    "vision rotary in raster order": raster_vision_rotary,
    "attention across images": attention_across_images,
    "deepstack norm before the shuffle": norms_swapped_in_mergers,
    "first token pooled": first_token,
    "last column pooled": last_column,
    "no final norm": no_final_norm,
    "no query and key norm": no_query_key_norm,
    "key-value heads taken in turn": heads_taken_in_turn,
}
