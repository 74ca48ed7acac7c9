"""Writes the trained model as a directory in Hugging Face layout."""

from __future__ import annotations

import json
from pathlib import Path

import torch
from safetensors.torch import save_file
from tokenizers import Tokenizer
from transformers import Qwen3VLModel

from recipe import DEFAULT_INSTRUCTION, MAX_PIXELS, MERGE, MIN_PIXELS, PATCH, SPECIAL_TOKENS, TEMPORAL

CHAT_TEMPLATE = (
    "{% for message in messages %}<|im_start|>{{ message.role }}\n"
    "{% if message.content is string %}{{ message.content }}{% else %}{% for part in message.content %}"
    "{% if part.type == 'image' %}<|vision_start|><|image_pad|><|vision_end|>"
    "{% elif part.type == 'text' %}{{ part.text }}{% endif %}"
    "{% endfor %}{% endif %}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)


# Keys that transformers adds to every configuration and that this model does not use.
NOT_OURS = (
    "_name_or_path",
    "transformers_version",
    "output_hidden_states",
    "output_attentions",
    "return_dict",
    "chunk_size_feed_forward",
    "is_encoder_decoder",
    "id2label",
    "label2id",
    "problem_type",
)


def _write(path: Path, value: dict) -> None:
    path.write_text(json.dumps(value, indent=2, ensure_ascii=False) + "\n")


def export(model: Qwen3VLModel, tokenizer: Tokenizer, folder: Path) -> None:
    """Writes weights as f16 under transformers' names, configuration, tokenizer and preprocessing. README.md and an existing
    photosearch.json are kept, because they contain measured figures."""
    folder.mkdir(parents=True, exist_ok=True)
    weights = {name: value.detach().to(torch.float16).contiguous() for name, value in model.state_dict().items()}
    partial = folder / "model.safetensors.partial"
    save_file(weights, partial, metadata={"format": "pt"})
    partial.chmod(0o644)
    partial.replace(folder / "model.safetensors")
    config = model.config.to_dict()
    config["architectures"] = ["Qwen3VLModel"]
    del config["text_config"]["architectures"], config["vision_config"]["architectures"]
    for part in (config, config["text_config"], config["vision_config"]):
        part["dtype"] = "float16"
        for key in NOT_OURS:
            part.pop(key, None)
    _write(folder / "config.json", config)
    tokenizer.save(str(folder / "tokenizer.json"))
    _write(
        folder / "tokenizer_config.json",
        {
            "tokenizer_class": "PreTrainedTokenizerFast",
            "model_max_length": 2048,
            "padding_side": "right",
            "pad_token": "<|endoftext|>",
            "eos_token": "<|im_end|>",
            "bos_token": None,
            "unk_token": None,
            "clean_up_tokenization_spaces": False,
            "extra_special_tokens": list(SPECIAL_TOKENS[1:]),
        },
    )
    (folder / "chat_template.jinja").write_text(CHAT_TEMPLATE)
    _write(
        folder / "preprocessor_config.json",
        {
            "image_processor_type": "Qwen2VLImageProcessor",
            "processor_class": "Qwen3VLProcessor",
            "size": {"shortest_edge": MIN_PIXELS, "longest_edge": MAX_PIXELS},
            "min_pixels": MIN_PIXELS,
            "max_pixels": MAX_PIXELS,
            "patch_size": PATCH,
            "temporal_patch_size": TEMPORAL,
            "merge_size": MERGE,
            "do_convert_rgb": True,
            "do_resize": True,
            "do_rescale": True,
            "do_normalize": True,
            "resample": 3,
            "rescale_factor": 1 / 255,
            "image_mean": [0.5, 0.5, 0.5],
            "image_std": [0.5, 0.5, 0.5],
        },
    )
    if not (folder / "photosearch.json").exists():  # provisional, until evaluate.py --recommend has run
        write_recommendation(folder, coarse_threshold=0.15, fine_threshold=0.17)


def write_recommendation(folder: Path, coarse_threshold: float, fine_threshold: float) -> None:
    """Writes photosearch.json, the settings that the extension reads for this model."""
    value = {
        "coarse_threshold": coarse_threshold,
        "coarse_dims": 64,
        "fine_threshold": fine_threshold,
        "compute_dtype": "float32",
        "default_instruction": DEFAULT_INSTRUCTION,
        "max_tokens": 2048,
        "image": {"min_pixels": MIN_PIXELS, "max_pixels": MAX_PIXELS},
    }
    _write(folder / "photosearch.json", value)
