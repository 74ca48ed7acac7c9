"""A small byte-level BPE tokenizer in Qwen2's style, trained on the text below.

The model family's own vocabulary (151,643 merges, 11 MB) is not ours to distribute, and a test of a tokenizer's behaviour does
not need it: normaliser, pre-tokenizer pattern, special tokens and post-processor are those of Qwen2, with fewer merges.
"""

import json
from pathlib import Path

from tokenizers import AddedToken, Regex, Tokenizer, decoders, models, normalizers
from tokenizers import pre_tokenizers, processors, trainers

# Qwen2's pre-tokenizer pattern. Numbers are split into single digits, a word includes one leading character that is no letter,
# and punctuation includes trailing newlines.
PATTERN = (
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}"
    r"| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
)

# In vocabulary order, directly after the merges. The flag is the tokenizer's "special": such tokens are skipped when decoding.
ADDED_TOKENS = [
    ("<|endoftext|>", True),
    ("<|im_start|>", True),
    ("<|im_end|>", True),
    ("<|object_ref_start|>", True),
    ("<|object_ref_end|>", True),
    ("<|box_start|>", True),
    ("<|box_end|>", True),
    ("<|quad_start|>", True),
    ("<|quad_end|>", True),
    ("<|vision_start|>", True),
    ("<|vision_end|>", True),
    ("<|vision_pad|>", True),
    ("<|image_pad|>", True),
    ("<|video_pad|>", True),
    ("<tool_call>", False),
    ("</tool_call>", False),
    ("<|fim_prefix|>", False),
    ("<|fim_middle|>", False),
    ("<|fim_suffix|>", False),
    ("<|fim_pad|>", False),
    ("<|repo_name|>", False),
    ("<|file_sep|>", False),
    ("<tool_response>", False),
    ("</tool_response>", False),
    ("<think>", False),
    ("</think>", False),
]

# Renders the same prompt as the released processor's template for a system message and a user message.
CHAT_TEMPLATE = (
    "{%- for message in messages -%}"
    "{{- '<|im_start|>' + message.role + '\\n' -}}"
    "{%- if message.content is string -%}{{- message.content -}}{%- else -%}"
    "{%- for part in message.content -%}"
    "{%- if part.type == 'image' -%}"
    "{{- '<|vision_start|><|image_pad|><|vision_end|>' -}}"
    "{%- elif part.type == 'text' -%}{{- part.text -}}{%- endif -%}"
    "{%- endfor -%}{%- endif -%}"
    "{{- '<|im_end|>\\n' -}}"
    "{%- endfor -%}"
    "{%- if add_generation_prompt -%}{{- '<|im_start|>assistant\\n' -}}{%- endif -%}"
)

NOUNS = (
    "baby birthday cake candle dog cat beach mountain bicycle train harbour flower garden snow "
    "wedding picnic kitchen window bridge street museum concert guitar football balloon sunset "
    "grandmother brother sister friend teacher holiday camping river forest lighthouse market"
).split()
ADJECTIVES = (
    "small old red blue golden happy sleepy muddy bright foggy quiet crowded wooden striped "
    "first last favourite blurry sunny rainy"
).split()
SENTENCES = [
    "Represent the user's input.",
    "Find all the photographs of {a} {n}.",
    "A {a} {n} stands beside the {m}, and nobody's looking!",
    "We've seen the {n} where they'll meet; it's {a}, isn't it?",
    "The {n}s and the {m}s in 2019 were {a}: 1,234 pictures (56%).",
    "Ein {a} {n} über die Straße, größer als früher.",
    "Une photo {a} de l'été, déjà vue près du château: {n}.",
    "Фотография {n}: ребёнок и собака на пляже.",
    "赤ちゃんの写真、誕生日のケーキ。{n}",
    "海边的小狗和生日蛋糕的照片。{m}",
    "صورة طفل صغير على الشاطئ {n}",
    "תמונה של ילד עם כלב {m}",
    "아기 생일 사진 {n}",
    "🎂🎉 {n} 👶🐕 {m}\n\n",
    "def {n}_{m}(x): return x['{a}'] + 1\r\n\t",
]


def corpus() -> list[str]:
    """Fills every template by a fixed walk over the word lists."""
    lines = []
    for step in range(60 * len(SENTENCES)):
        template = SENTENCES[step % len(SENTENCES)]
        lines.append(
            template.format(
                a=ADJECTIVES[step * 7 % len(ADJECTIVES)],
                n=NOUNS[step * 5 % len(NOUNS)],
                m=NOUNS[step * 11 % len(NOUNS)],
            )
        )
    return lines


def train(size: int, append_end: bool) -> Tokenizer:
    """Trains a tokenizer of `size` tokens in total, added tokens included.

    With `append_end` the post-processor appends `<|endoftext|>` to every sequence, as the Qwen3 embedding tokenizers do.
    Without it nothing is appended, as in Qwen2 and Qwen3.
    """
    tokenizer = Tokenizer(models.BPE(byte_fallback=False))
    tokenizer.normalizer = normalizers.NFC()
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [
            pre_tokenizers.Split(Regex(PATTERN), behavior="isolated", invert=False),
            pre_tokenizers.ByteLevel(add_prefix_space=False, trim_offsets=False, use_regex=False),
        ]
    )
    tokenizer.decoder = decoders.ByteLevel(add_prefix_space=False, trim_offsets=False, use_regex=False)
    trainer = trainers.BpeTrainer(
        vocab_size=size - len(ADDED_TOKENS),
        min_frequency=2,
        initial_alphabet=sorted(pre_tokenizers.ByteLevel.alphabet()),
        show_progress=False,
    )
    tokenizer.train_from_iterator(corpus(), trainer)
    for content, special in ADDED_TOKENS:
        token = AddedToken(content, special=special, normalized=False)
        if special:
            tokenizer.add_special_tokens([token])
        else:
            tokenizer.add_tokens([token])
    if tokenizer.get_vocab_size() != size:
        raise RuntimeError(f"the corpus is too small for {size} tokens: {tokenizer.get_vocab_size()}")
    byte_level = processors.ByteLevel(add_prefix_space=False, trim_offsets=False, use_regex=False)
    if append_end:
        end = "<|endoftext|>"
        template = processors.TemplateProcessing(
            single=f"$A {end}",
            pair=f"$A $B {end}",
            special_tokens=[(end, tokenizer.token_to_id(end))],
        )
        tokenizer.post_processor = processors.Sequence([byte_level, template])
    else:
        tokenizer.post_processor = byte_level
    return tokenizer


def save(tokenizer: Tokenizer, directory: Path) -> None:
    """Writes tokenizer.json, tokenizer_config.json and chat_template.json."""
    directory.mkdir(parents=True, exist_ok=True)
    tokenizer.save(str(directory / "tokenizer.json"), pretty=False)
    config = {
        "tokenizer_class": "Qwen2Tokenizer",
        "add_prefix_space": False,
        "clean_up_tokenization_spaces": False,
        "eos_token": "<|im_end|>",
        "pad_token": "<|endoftext|>",
        "unk_token": None,
        "bos_token": None,
        "errors": "replace",
        "split_special_tokens": False,
        "model_max_length": 131072,
    }
    (directory / "tokenizer_config.json").write_text(json.dumps(config, indent=1) + "\n")
    (directory / "chat_template.json").write_text(
        json.dumps({"chat_template": CHAT_TEMPLATE}, indent=1) + "\n"
    )
