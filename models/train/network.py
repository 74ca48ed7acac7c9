"""The model (transformers' `Qwen3VLModel`) and a fast forward pass for training on CPUs.

The fast pass uses the stock model's parameters and gives the same embeddings (`check_forward`). It is faster for four reasons:
every picture of a batch has the same grid; attention is written as matmul, softmax, matmul (the backward pass of SDPA is slow
on CPUs); the prompt before the picture is the same for all pictures and is computed once (attention is causal, so the prompt
does not depend on the picture); and the last layer is computed for the last token only.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from tokenizers import Tokenizer
from torch import Tensor, nn
from torch.nn import functional as F
from transformers import Qwen3VLConfig, Qwen3VLModel
from transformers.vision_utils import get_vision_interpolation_indices_and_weights, get_vision_position_ids

from recipe import FACTOR, MERGE, PATCH, TEMPORAL, patches, prompt

WIDTH = 192  # of the text model, and therefore of the embedding
PREFIXES = (16, 32, 64, 128, WIDTH)


def config(tokenizer: Tokenizer) -> Qwen3VLConfig:
    token = tokenizer.token_to_id
    return Qwen3VLConfig(
        text_config=dict(
            vocab_size=tokenizer.get_vocab_size(),
            hidden_size=WIDTH,
            intermediate_size=512,
            num_hidden_layers=4,
            num_attention_heads=4,
            num_key_value_heads=2,
            head_dim=48,
            max_position_embeddings=2048,
            rope_parameters=dict(
                rope_type="default", rope_theta=10000.0, mrope_section=[8, 8, 8], mrope_interleaved=True
            ),
            pad_token_id=token("<|endoftext|>"),
            bos_token_id=token("<|endoftext|>"),
            eos_token_id=token("<|im_end|>"),
        ),
        vision_config=dict(
            depth=4,
            hidden_size=160,
            intermediate_size=480,
            num_heads=4,
            patch_size=PATCH,
            spatial_merge_size=MERGE,
            temporal_patch_size=TEMPORAL,
            out_hidden_size=WIDTH,
            num_position_embeddings=144,
            deepstack_visual_indexes=[1],
        ),
        image_token_id=token("<|image_pad|>"),
        video_token_id=token("<|video_pad|>"),
        vision_start_token_id=token("<|vision_start|>"),
        vision_end_token_id=token("<|vision_end|>"),
        tie_word_embeddings=True,
    )


def build(tokenizer: Tokenizer, seed: int) -> Qwen3VLModel:
    torch.manual_seed(seed)
    model = Qwen3VLModel(config(tokenizer))
    with torch.no_grad():  # larger than transformers' standard deviation of 0.02, which suits widths of thousands
        for name, parameter in model.named_parameters():
            if parameter.ndim >= 2 and "embed" not in name:
                fan_in = parameter[0].numel()
                parameter.normal_(
                    0.0,
                    fan_in**-0.5
                    * (
                        0.5
                        if name.endswith(
                            ("o_proj.weight", "down_proj.weight", "attn.proj.weight", "mlp.linear_fc2.weight")
                        )
                        else 1.0
                    ),
                )
        model.visual.patch_embed.proj.weight.normal_(0.0, (3 * TEMPORAL * PATCH**2) ** -0.5)
    return model


def _rotate(x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
    half = x.shape[-1] // 2
    turned = torch.cat((-x[..., half:], x[..., :half]), dim=-1)
    return x * cos + turned * sin


def _rms(x: Tensor, norm: nn.Module) -> Tensor:
    y = x.float()
    return y * torch.rsqrt(y.pow(2).mean(-1, keepdim=True) + norm.variance_epsilon) * norm.weight


def _attend(q: Tensor, k: Tensor, v: Tensor, mask: Tensor | None) -> Tensor:
    """Attention. The arguments are [batch, heads, tokens, head_dim], the result is [batch, tokens, heads * head_dim]."""
    weights = torch.matmul(q, k.transpose(-1, -2)).float() * q.shape[-1] ** -0.5
    if mask is not None:
        weights = weights + mask
    mixed = torch.matmul(torch.softmax(weights, dim=-1).to(v.dtype), v)
    return mixed.transpose(1, 2).flatten(2)


class Grid:
    """Everything that depends only on the size of the pictures: positions, and the prompt around the image tokens."""

    def __init__(self, model: Qwen3VLModel, tokenizer: Tokenizer, width: int, height: int) -> None:
        thw = torch.tensor([[1, height // PATCH, width // PATCH]])
        visual = model.visual
        self.taps, self.tap_weights = get_vision_interpolation_indices_and_weights(
            thw, num_grid_per_side=visual.num_grid_per_side, align_corners=True, spatial_merge_size=MERGE
        )
        where = get_vision_position_ids(thw, MERGE)
        cos, sin = visual.rotary_pos_emb(torch.zeros(1), where)
        self.vision_cos, self.vision_sin = cos, sin  # [patches, head_dim]
        self.image_tokens = (height // FACTOR) * (width // FACTOR)
        self.ids = torch.tensor(tokenizer.encode(prompt(None, self.image_tokens)).ids)
        pad = model.config.image_token_id
        self.start = int((self.ids == pad).nonzero()[0])
        position_ids, _ = model.get_rope_index(self.ids[None], (self.ids[None] == pad).int(), thw)
        cos, sin = model.language_model.rotary_emb(torch.zeros(1), position_ids)
        self.text_cos, self.text_sin = cos[0], sin[0]  # [tokens, head_dim]

    def run(self, function: Callable, pixels: Tensor) -> tuple[Tensor, Tensor]:
        """Runs `Encoder.pictures`, compiled or not, on pixels [batch, height, width, 3] u8."""
        return function(
            patchify(scaled(pixels)),
            self.ids,
            self.start,
            self.taps,
            self.tap_weights,
            self.vision_cos,
            self.vision_sin,
            self.text_cos,
            self.text_sin,
        )


class Encoder(nn.Module):
    """Batched embeddings, of pictures of one grid or of texts."""

    def __init__(self, model: Qwen3VLModel) -> None:
        super().__init__()
        self.model = model

    def vision(
        self, patched: Tensor, taps: Tensor, tap_weights: Tensor, cos: Tensor, sin: Tensor
    ) -> tuple[Tensor, list[Tensor]]:
        """Turns patches [batch, patches, 192] (see `patchify`) into image tokens [batch, tokens, WIDTH] and the deepstack
        features, which have the same shape, one for each index."""
        visual = self.model.visual
        b = patched.shape[0]
        kernel = visual.patch_embed.proj.weight.sum(2).flatten(1)  # both frames are the same picture
        table = (visual.pos_embed.weight[taps] * tap_weights[..., None]).sum(1)
        x = F.linear(patched, kernel, visual.patch_embed.proj.bias) + table
        features = []
        for index, block in enumerate(visual.blocks):
            qkv = block.attn.qkv(block.norm1(x)).view(b, x.shape[1], 3, block.attn.num_heads, -1).permute(2, 0, 3, 1, 4)
            q, k = _rotate(qkv[0], cos, sin).to(qkv.dtype), _rotate(qkv[1], cos, sin).to(qkv.dtype)
            x = x + block.attn.proj(_attend(q, k, qkv[2], None))
            x = x + block.mlp(block.norm2(x))
            if index in visual.deepstack_visual_indexes:
                features.append(visual.deepstack_merger_list[len(features)](x).view(b, -1, WIDTH))
        return visual.merger(x).view(b, -1, WIDTH), features

    def _layer(
        self,
        layer: nn.Module,
        x: Tensor,
        cos: Tensor,
        sin: Tensor,
        mask: Tensor,
        past: tuple | None,
        last: Tensor | None,
    ):
        """One decoder layer on x [batch, tokens, WIDTH]. `past`: keys and values [1, kv heads, tokens, head_dim] of the shared
        prompt before x. `last`: [batch]; if given, the output is computed for that token only."""
        attention = layer.self_attn
        b, t, _ = x.shape
        d = attention.head_dim
        y = _rms(x, layer.input_layernorm)
        k = _rotate(_rms(attention.k_proj(y).view(b, t, -1, d), attention.k_norm).transpose(1, 2), cos, sin)
        v = attention.v_proj(y).view(b, t, -1, d).transpose(1, 2)
        if last is not None:
            rows = torch.arange(b)
            x, y = x[rows, last][:, None], y[rows, last][:, None]
            cos, sin = cos[last][:, None, None], sin[last][:, None, None]
            mask = mask[last][:, None, None]
        q = _rotate(_rms(attention.q_proj(y).view(b, y.shape[1], -1, d), attention.q_norm).transpose(1, 2), cos, sin)
        k, q = k.to(v.dtype), q.to(v.dtype)
        own = (k, v)
        if past is not None:
            k = torch.cat((past[0].expand(b, -1, -1, -1), k), dim=2)
            v = torch.cat((past[1].expand(b, -1, -1, -1), v), dim=2)
        groups = attention.num_key_value_groups
        x = x + attention.o_proj(_attend(q, k.repeat_interleave(groups, 1), v.repeat_interleave(groups, 1), mask))
        y = _rms(x, layer.post_attention_layernorm)
        return x + layer.mlp(y), own

    def pictures(
        self,
        patched: Tensor,
        ids: Tensor,
        start: int,
        taps: Tensor,
        tap_weights: Tensor,
        vision_cos: Tensor,
        vision_sin: Tensor,
        cos: Tensor,
        sin: Tensor,
    ) -> tuple[Tensor, Tensor]:
        """The normalised embeddings [batch, WIDTH], and the image tokens [batch, tokens, WIDTH]."""
        text = self.model.language_model
        image, features = self.vision(patched, taps, tap_weights, vision_cos, vision_sin)
        b, n = image.shape[:2]
        total = len(ids)
        words = text.embed_tokens(ids)
        before = words[None, :start].float()
        x = torch.cat((image.float(), words[start + n :].float().expand(b, -1, -1)), dim=1)
        mask = torch.full((total, total), float("-inf")).triu(1)
        last = torch.full((b,), total - start - 1)
        layers = len(text.layers)
        for index, layer in enumerate(text.layers):
            final = index == layers - 1
            before, past = self._layer(layer, before, cos[:start], sin[:start], mask[:start, :start], None, None)
            x, _ = self._layer(layer, x, cos[start:], sin[start:], mask[start:], past, last if final else None)
            if index < len(features):
                x = torch.cat((x[:, :n] + features[index], x[:, n:]), dim=1)
        return F.normalize(_rms(x[:, 0], text.norm), dim=-1), image

    def texts(self, ids: Tensor, last: Tensor) -> Tensor:
        """The normalised embeddings [batch, WIDTH] of prompts [batch, tokens], which are padded on the right; `last` [batch] is
        the index of the last token before the padding."""
        text = self.model.language_model
        x = text.embed_tokens(ids).float()
        cos, sin = text.rotary_emb(x, torch.arange(ids.shape[1]).expand(3, 1, -1))
        mask = torch.full((ids.shape[1], ids.shape[1]), float("-inf")).triu(1)
        for index, layer in enumerate(text.layers):
            x, _ = self._layer(layer, x, cos[0], sin[0], mask, None, last if index == len(text.layers) - 1 else None)
        return F.normalize(_rms(x[:, 0], text.norm), dim=-1)


def patchify(pixels: Tensor) -> Tensor:
    """Turns [batch, height, width, 3] into [batch, patches, 3 * 8 * 8] in merge order."""
    b, h, w, _ = pixels.shape
    x = pixels.view(b, h // FACTOR, MERGE, PATCH, w // FACTOR, MERGE, PATCH, 3).permute(0, 1, 4, 2, 5, 7, 3, 6)
    return x.reshape(b, -1, 3 * PATCH * PATCH)


def scaled(pixels: Tensor) -> Tensor:
    """Maps u8 to [-1, 1], as the preprocessor's configuration says."""
    return (pixels.float() / 255 - 0.5) / 0.5


@torch.no_grad()
def check_forward(model: Qwen3VLModel, tokenizer: Tokenizer, grid: Grid, pixels: Tensor, text: str) -> float:
    """The largest difference between the fast and the stock forward pass, for one picture and one text."""
    encoder = Encoder(model)
    fast, _ = grid.run(encoder.pictures, pixels[None])
    ids = grid.ids[None]
    h, w, _ = pixels.shape
    stock = model(
        input_ids=ids,
        attention_mask=torch.ones_like(ids),
        pixel_values=torch.from_numpy(patches(pixels.numpy())),
        image_grid_thw=torch.tensor([[1, h // PATCH, w // PATCH]]),
        mm_token_type_ids=(ids == model.config.image_token_id).int(),
    ).last_hidden_state[0, -1]
    worst = (fast[0] - F.normalize(stock, dim=-1)).abs().max().item()
    ids = torch.tensor([tokenizer.encode(prompt(text)).ids])
    padded = F.pad(ids, (0, 5))
    fast = encoder.texts(padded, torch.tensor([ids.shape[1] - 1]))
    stock = model(input_ids=ids, attention_mask=torch.ones_like(ids)).last_hidden_state[0, -1]
    return max(worst, (fast[0] - F.normalize(stock, dim=-1)).abs().max().item())
