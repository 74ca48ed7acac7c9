"""Writes tokenizer/, tokens.json and, given the released vocabulary, tokens_qwen3.json.

    python make_tokens.py                           # write tokenizer/ and tokens.json
    python make_tokens.py --tokenizer FILE          # check FILE against tokens_qwen3.json
    python make_tokens.py --tokenizer FILE --write  # write tokens_qwen3.json again

FILE is the tokenizer.json of any Qwen3 model; it has 11 MB and is not part of the repository.

A prompt is laid out as in the reference embedding script: instruction and content go through the chat template, each
`<|image_pad|>` is repeated once for every merged patch, and the whole string is encoded with special tokens.

Input that is too long: the reference passes truncation=True, so the tokenizer keeps the first tokens and those of its
post-processor, and the end of the prompt is lost (if an image is among the lost tokens, the processor raises an error).
`truncated` stores this behaviour. An implementation that cuts the user's text instead, so that the prompt's end survives,
differs from the reference here and nowhere else.
"""

import argparse
import json
import random
import tempfile
import unicodedata
from pathlib import Path

import transformers
from PIL import Image
from tokenizers import Tokenizer
from transformers import Qwen2Tokenizer, Qwen3VLProcessor, Qwen3VLVideoProcessor
from transformers.models.qwen2_vl.image_processing_qwen2_vl import Qwen2VLImageProcessor

import qwen2_tokenizer
from make_preprocess import write_json

HERE = Path(__file__).resolve().parent
SEED = 11
VOCAB = 960
DEFAULT_INSTRUCTION = "Represent the user's input."

STRINGS = [
    "", " ", "  ", "   a", "a ", "a  ", "a  b", "a   b    c", "\t", "\n", "\r\n", "\r", "\n\n\n", " \n", "\n ", " \n \n x",
    "a\nb", "a \n b", "a\t\tb", "line one\r\nline two\r\n\r\nline four", "trailing newline\n", "!\n\n?", "...\r\n", ". \n",
    "\u00a0", "a\u00a0b", "\u2003em space", "\u3000全角", "\u200b", "zero\u200bwidth", "\ufeffbom", "\u2028line\u2029para", "\u0085next",
    "a\x1cb\x1d\x1e\x1f", "\x00", "a\x00b", "\x01\x02\x7f", "\x0b\x0c", "\x80\x9f",
    "hello", "Hello, world!", "hello world", "HELLO WORLD", "hElLo", "don't", "DON'T", "I'll we've you're he'd it's 'tis",
    "'S 'T 'RE 'VE 'M 'LL 'D", "don\u2019t", "'s", "''s", "x'sy", "o'clock", "rock'n'roll", "'ſ",
    "0", "1", "12", "123", "1234567890", "3.14159", "1,000,000", "2024-09-17T12:34:56Z", "½ ¾ ² ³", "٠١٢٣", "１２３", "Ⅷ ⅷ", "①②",
    "a1b2c3", "x=1", "v1.2.3-beta+4", "100%", "$5.00", "€10", "#tag @user", "a_b_c", "snake_case camelCase kebab-case",
    "def f(x):\n\treturn x ** 2\n", "{\"key\": [1, 2, null]}", "<html>&amp;</html>", "C:\\path\\file.jpg", "https://example.org/a?b=c&d=%20#e",
    "(((((", "!!!!!!!!", "----------", "=====", "a--b", "—", "“quoted”", "«guillemets»", "…", "?!", "! !", " !", "  !",
    "你好", "你好，世界！", "海边的小狗和生日蛋糕的照片。", "日本語のテキスト", "赤ちゃんの写真", "ｶﾀｶﾅ", "カタカナ", "ガ", "か\u3099", "\u30ab\u3099",
    "한국어", "\u1112\u1161\u11ab", "각", "\u1100\u1161\u11a8", "아기 생일 사진", "ไทย ภาษา", "हिन्दी में", "தமிழ்", "မြန်မာ",
    "صورة طفل", "طِفْلٌ", "لا إله", "العربية ١٢٣ mixed", "עברית", "שָׁלוֹם", "\ufb2a", "\u05e9\u05c1", "\u202eright to left\u202c", "\u200f\u200e",
    "Привет, мир", "ёЁйЙ", "е\u0308", "Ελληνικά", "ᾳ ᾼ", "Ǆ ǆ ǅ", "straße STRASSE ẞ", "İstanbul ıI", "ﬁ ﬂ ﬃ", "Å Å Å", "\u212b", "Ω Ω", "\u2126", "K K",
    "é", "e\u0301", "café", "cafe\u0301", "naïve", "nai\u0308ve", "Zürich", "Zu\u0308rich", "ñ n\u0303", "ǖ u\u0308\u0304", "q\u0307\u0323", "q\u0323\u0307",
    "\u0301", "a\u0301\u0301\u0301", "Z̸̢̛a̷l̵g̴o̶", "\u1e69", "s\u0323\u0307", "s\u0307\u0323", "\u0344", "\u0374", "\u0958", "\u2adc", "\u0340\u0341", "\ufb1d",
    "👶", "👶🏽", "👨‍👩‍👧‍👦", "👩🏾‍🚀", "🏳️‍🌈", "🇩🇪🇯🇵", "🇩", "1️⃣", "☃️", "☃", "❤️‍🔥", "🎂🎉🎈", "a👶b", "👶 birthday 🎂", "😀😀😀😀", "\u200d", "\ufe0f", "🫠🪿",
    "𝔘𝔫𝔦𝔠𝔬𝔡𝔢", "𝟙𝟚𝟛", "𐍈", "𓀀", "𠮷野家", "\U0002f804", "\ufa0e", "\uf900", "\U000e0041", "\U0010ffff", "\ufffd", "\ufffe", "\ue000", "\u0378",
    "a" * 300, "ab" * 200, "supercalifragilisticexpialidocious" * 5, "ü" * 100, "字" * 100, " " * 100, "\n" * 50, " \t" * 30, "1" * 60, "!" * 60, "x " * 60,
    "Donaudampfschifffahrtsgesellschaftskapitän", "AAAAaaaaAAAA", "lorem ipsum dolor sit amet " * 6,
    "<|im_end|>", "<|im_start|>", "<|endoftext|>", "<|vision_start|>", "<|vision_end|>", "<|image_pad|>", "<|video_pad|>", "<|vision_pad|>",
    "a<|im_end|>b", "a <|im_end|> b", " <|im_end|>", "<|im_end|> ", "<|im_end|>\n<|im_start|>user\nhi", "<|im_end|><|im_end|>", "<|im_end|>e\u0301<|im_end|>",
    "<|im_end", "|im_end|>", "<|im_end|", "< |im_end|>", "<|IM_END|>", "<|im_end |>", "<<|im_end|>>", "<|unknown|>", "<||>", "<|", "|>",
    "<think>", "</think>", "a<think>b</think>c", "<tool_call>\n{}\n</tool_call>", "<|fim_prefix|>x<|fim_suffix|>y<|fim_middle|>", "<|object_ref_start|>dog<|object_ref_end|>",
    "<|box_start|>(1,2),(3,4)<|box_end|>", "<|repo_name|>x<|file_sep|>", "<|vision_start|><|image_pad|><|vision_end|>", "Ġ", "ĠhelloĊ", "Ċ", "▁x", "##x",
]  # fmt: skip


def random_strings(count: int) -> list[str]:
    """Mixtures of scripts, spaces, digits, punctuation and special tokens."""
    generator = random.Random(SEED)
    pieces = [
        "baby", "Birthday", "CAKE", " ", "  ", "\n", "\t", "\r\n", "12", "7", "'s", "'LL", "é", "e\u0301", "字", "犬。", "ل", "\u064e", "ש\u05c1",
        "👶", "👶🏽", "\u200d", "🎂", "!", "?", "...", "—", "“", "”", "-", "_", "/", "<|im_end|>", "<|image_pad|>", "<think>", "ß", "Я", "ё", "한", "\u1112\u1161",
        "\u00a0", "\u3000", "½", "²", "$", "~", "`", "\\", "\x07", "\ufe0f",
    ]  # fmt: skip
    return ["".join(generator.choice(pieces) for _ in range(generator.randint(2, 14))) for _ in range(count)]


NO_TEXT = None
# (text, images as (width, height) in pixels, instruction)
PROMPTS = [
    ("a baby on the beach", [], None),
    ("", [], None),
    (NO_TEXT, [], None),
    (NO_TEXT, [], "Find the picture"),
    (NO_TEXT, [(64, 64)], None),
    ("", [(64, 64)], None),
    ("a birthday cake", [(64, 96)], None),
    ("two pictures", [(64, 64), (128, 32)], "Compare the pictures"),
    (" leading and trailing ", [], " Padded instruction "),
    ("line\nbreak\r\n", [], "Two\nlines"),
    ("<|im_end|>\n<|im_start|>user\nignore", [], None),
    ("<|endoftext|>", [], None),
    ("<|vision_start|><|vision_end|>", [], None),
    ("e\u0301 \u1112\u1161\u11ab 👨‍👩‍👧", [], "Cafe\u0301"),
    *(
        ("a dog", [], instruction)
        for instruction in [
            "", " ", "\n\t", "Retrieve photos", "Retrieve photos.", "Retrieve photos. ", "Retrieve photos!", "Why?", "检索照片", "检索照片。", "写真を探す！",
            "Find—", "Find-", "Find_", "Find)", "Find]", "Find\"", "Find'", "Find”", "Find»", "Find…", "Find:", "Find;", "Find,", "Find/", "Find\\", "Find&", "Find*",
            "Find%", "Find#", "Find@", "Find¿", "Find·", "Find؟", "Find।", "Find、", "Find〜", "Find+", "Find$", "Find~", "Find^", "Find`", "Find<", "Find=", "Find|",
            "Find€", "Find©", "Find°", "Find1", "Find½", "Find👶", "Find☃", "Find\u0301", "Find.\u0301", "Find.\u200b", "Find.\u00a0", "Find\u3000", "Find.\x1f", "Find\u2019", "Find‰", "Find§", "Find¶",
            "<|im_end|>", "Represent the user's input",
        ]
    ),
]  # fmt: skip

TRUNCATED = [("a dog on the beach with a ball", 12), ("a dog on the beach with a ball", 20), ("short", 64)]


def conversation(text: str | None, images: list[Image.Image], instruction: str | None) -> list[dict]:
    """The system message and the user message, by the rules of the reference script."""
    instruction = (instruction or "").strip()
    if instruction and not unicodedata.category(instruction[-1]).startswith("P"):
        instruction += "."
    content = [{"type": "image", "image": image} for image in images]
    if text is not None:
        content.append({"type": "text", "text": text})
    if not content:
        content.append({"type": "text", "text": "NULL"})
    return [
        {"role": "system", "content": [{"type": "text", "text": instruction or DEFAULT_INSTRUCTION}]},
        {"role": "user", "content": content},
    ]


def processor(tokenizer: Qwen2Tokenizer) -> Qwen3VLProcessor:
    images = Qwen2VLImageProcessor(
        patch_size=16, merge_size=2, temporal_patch_size=2, image_mean=[0.5] * 3, image_std=[0.5] * 3
    )
    return Qwen3VLProcessor(images, tokenizer, Qwen3VLVideoProcessor(), chat_template=qwen2_tokenizer.CHAT_TEMPLATE)


def prompt_entries(tokenizer: Qwen2Tokenizer) -> list[dict]:
    process = processor(tokenizer)
    entries = []
    for text, sizes, instruction in PROMPTS:
        images = [Image.new("RGB", size) for size in sizes]
        messages = conversation(text, images, instruction)
        prompt = process.apply_chat_template(messages, add_generation_prompt=True, tokenize=False)
        out = process(text=[prompt], images=images or None, do_resize=False, return_tensors="np")
        entries.append(
            {
                "text": text,
                "instruction": instruction,
                "grids": out["image_grid_thw"].tolist() if images else [],
                "prompt": prompt,
                "ids": out["input_ids"][0].tolist(),
            }
        )
    return entries


def truncated_entries(tokenizer: Qwen2Tokenizer) -> list[dict]:
    process = processor(tokenizer)
    entries = []
    for text, length in TRUNCATED:
        messages = conversation(text, [], None)
        prompt = process.apply_chat_template(messages, add_generation_prompt=True, tokenize=False)
        ids = process(text=[prompt], truncation=True, max_length=length)["input_ids"][0]
        entries.append({"text": text, "max_length": length, "ids": list(ids)})
    return entries


def string_entries(tokenizer: Qwen2Tokenizer) -> list[dict]:
    strings = list(dict.fromkeys(STRINGS + random_strings(160)))
    return [{"text": text, "ids": list(tokenizer(text)["input_ids"])} for text in strings]


def from_file(path: Path) -> Qwen2Tokenizer:
    """Loads a bare tokenizer.json with the settings of released Qwen models."""
    with tempfile.TemporaryDirectory() as directory:
        qwen2_tokenizer.save(Tokenizer.from_file(str(path)), Path(directory))
        return Qwen2Tokenizer.from_pretrained(directory)


def sections(tokenizer: Qwen2Tokenizer) -> dict:
    return {
        "strings": string_entries(tokenizer),
        "prompts": prompt_entries(tokenizer),
        "truncated": truncated_entries(tokenizer),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--tokenizer", type=Path, help="a Qwen3 model's tokenizer.json")
    parser.add_argument("--write", action="store_true", help="with --tokenizer: rewrite instead of check")
    arguments = parser.parse_args()
    transformers.logging.set_verbosity_error()
    if arguments.tokenizer:
        released = HERE / "tokens_qwen3.json"
        now = sections(from_file(arguments.tokenizer))
        if arguments.write:
            write_json(released, now)
            return
        stored = json.loads(released.read_text(encoding="utf-8"))
        wrong = [name for name in now if now[name] != stored.get(name)]
        if wrong:
            raise SystemExit(f"{arguments.tokenizer} gives other ids than stored in: {', '.join(wrong)}")
        print(f"{arguments.tokenizer} gives the stored ids")
        return
    directory = HERE / "tokenizer"
    qwen2_tokenizer.save(qwen2_tokenizer.train(VOCAB, append_end=False), directory)
    tokenizer = Qwen2Tokenizer.from_pretrained(directory)
    ending = qwen2_tokenizer.train(VOCAB, append_end=True)
    with tempfile.TemporaryDirectory() as ending_directory:
        qwen2_tokenizer.save(ending, Path(ending_directory))
        ending_tokenizer = Qwen2Tokenizer.from_pretrained(ending_directory)
        # A post-processor that appends <|endoftext|>, to be used in place of the one in tokenizer.json. The merges are the
        # same.
        post_processor = json.loads(ending.to_str())["post_processor"]
        appended = {
            "post_processor": post_processor,
            "prompts_appended": prompt_entries(ending_tokenizer)[:8],
            "truncated_appended": truncated_entries(ending_tokenizer),
        }
    write_json(HERE / "tokens.json", sections(tokenizer) | appended)


if __name__ == "__main__":
    main()
