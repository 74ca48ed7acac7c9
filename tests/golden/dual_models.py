"""Writes the directory of a CLIP or SigLIP model with random weights: tiny ones for make_dual.py, and ones with the shapes of
published models. Vocabularies are real ones or small ones, which are made from make_text.py's sentences."""

import gzip
import io
import json
import tempfile
from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path

import torch
from tokenizers import AddedToken, Regex, Tokenizer, models, normalizers, pre_tokenizers, processors
from transformers import CLIPConfig, CLIPModel, CLIPTokenizer, Siglip2Config, Siglip2Model, SiglipConfig, SiglipModel


def byte_alphabet() -> dict[int, str]:
    """GPT-2's printable character for each byte."""
    printable = [*range(33, 127), *range(161, 173), *range(174, 256)]
    others = [byte for byte in range(256) if byte not in printable]
    return {byte: chr(byte) for byte in printable} | {byte: chr(256 + i) for i, byte in enumerate(others)}


def learn_merges(words: Counter, count: int) -> list[tuple[str, str]]:
    """Byte pair encoding. Ties are broken by the pair itself, because the library's trainer breaks them at random."""
    words = {tuple(word): n for word, n in words.items()}
    merges = []
    for _ in range(count):
        pairs = Counter()
        for word, n in words.items():
            for pair in zip(word, word[1:]):
                pairs[pair] += n
        if not pairs:
            break
        best = min(pairs, key=lambda pair: (-pairs[pair], pair))
        merges.append(best)
        merged = {}
        for word, n in words.items():
            out, i = [], 0
            while i < len(word):
                if word[i : i + 2] == best:
                    out.append("".join(best))
                    i += 2
                else:
                    out.append(word[i])
                    i += 1
            merged[tuple(out)] = merged.get(tuple(out), 0) + n
        words = merged
    return merges


def corpus() -> list[str]:
    """The sentences of which small vocabularies are made. Imported here, because real vocabularies do not need the packages of
    make_text.py."""
    from make_text import CORPUS

    return CORPUS


def clip_merges(real: Path | None) -> list[tuple[str, str]]:
    if real is not None:
        lines = gzip.open(real).read().decode().split("\n")
        return [tuple(line.split()) for line in lines[1 : 49152 - 256 - 2 + 1]]
    alphabet = byte_alphabet()
    words = Counter()
    for line in corpus():
        for word in line.lower().split():
            letters = [alphabet[byte] for byte in word.encode()]
            words[(*letters[:-1], letters[-1] + "</w>")] += 1
    return learn_merges(words, 60)


def clip_tokenizer(directory: Path, real: Path | None) -> int:
    """A byte-level vocabulary with end-of-word tokens (`</w>`), in OpenAI's order. Returns its size."""
    letters = list(byte_alphabet().values())
    merges = clip_merges(real)
    tokens = letters + [letter + "</w>" for letter in letters] + ["".join(pair) for pair in merges]
    tokens += ["<|startoftext|>", "<|endoftext|>"]
    vocabulary = {token: i for i, token in enumerate(tokens)}
    tokenizer = CLIPTokenizer(vocab=vocabulary, merges=merges, model_max_length=77)
    tokenizer.save_pretrained(directory)
    return len(vocabulary)


def gemma_tokenizer(directory: Path, real: Path | None) -> int:
    """A vocabulary like Gemma's: BPE over characters, spaces as "▁", unknown characters as bytes. Returns its size."""
    path = directory / "tokenizer.json"
    if real is not None:
        tokenizer = Tokenizer.from_file(str(real))
    else:
        # Gemma's pre-tokenizer splits at spaces only, and the normalizer has replaced them all: a line is one word.
        words = Counter(tuple(line.lower().replace(" ", "▁")) for line in corpus())
        characters = sorted({character for word in words for character in word})
        merges = learn_merges(words, 120)
        tokens = ["<pad>", "<eos>", "<bos>", "<unk>"] + [f"<0x{byte:02X}>" for byte in range(256)]
        tokens += characters + ["".join(pair) for pair in merges]
        vocabulary = {token: i for i, token in enumerate(dict.fromkeys(tokens))}
        tokenizer = Tokenizer(models.BPE(vocabulary, merges, unk_token="<unk>", fuse_unk=True, byte_fallback=True))
        tokenizer.normalizer = normalizers.Replace(" ", "▁")
        tokenizer.pre_tokenizer = pre_tokenizers.Split(" ", "merged_with_previous")
        tokenizer.add_special_tokens(["<pad>", "<eos>", "<bos>", "<unk>"])
    # As transformers 4 writes a GemmaTokenizerFast with add_bos_token=False and add_eos_token=True.
    eos = tokenizer.token_to_id("<eos>")
    tokenizer.post_processor = processors.TemplateProcessing(
        single="$A:0 <eos>:0", pair="$A:0 <eos>:0 $B:1 <eos>:1", special_tokens=[("<eos>", eos)]
    )
    tokenizer.save(str(path))
    settings = dict(
        add_bos_token=False,
        add_eos_token=True,
        do_lower_case=True,
        bos_token="<bos>",
        eos_token="<eos>",
        pad_token="<pad>",
        unk_token="<unk>",
        model_input_names=["input_ids"],
        model_max_length=64,
        padding_side="right",
        tokenizer_class="GemmaTokenizer",
    )
    (directory / "tokenizer_config.json").write_text(json.dumps(settings, indent=1) + "\n")
    return tokenizer.get_vocab_size()


def sentencepiece_tokenizer(directory: Path, _real: None) -> int:
    """A Unigram vocabulary like SigLIP's: spiece.model for the reference, and a tokenizer.json as transformers' converter of
    SentencePiece models writes it. Returns its size."""
    import sentencepiece
    from sentencepiece import sentencepiece_model_pb2

    rules = {"\t": " ", "\n": " ", "\u00a0": " ", "\u3000": " ", "ﬁ": "fi", "e\u0301": "é"}
    rules |= {chr(0xFF41 + i): chr(0x61 + i) for i in range(26)}
    code = lambda text: " ".join(f"{ord(c):X}" for c in text)
    with tempfile.TemporaryDirectory() as scratch:
        table = Path(scratch) / "rules.tsv"
        table.write_text("".join(f"{code(a)}\t{code(b)}\n" for a, b in rules.items()))
        trained = io.BytesIO()
        sentencepiece.SentencePieceTrainer.train(
            sentence_iterator=iter([line.lower() for line in corpus()]),
            model_writer=trained,
            model_type="unigram",
            vocab_size=280,
            hard_vocab_limit=False,
            character_coverage=1.0,
            normalization_rule_tsv=str(table),
            pad_id=0,
            eos_id=1,
            unk_id=2,
            bos_id=-1,
            minloglevel=2,
        )
    (directory / "spiece.model").write_bytes(trained.getvalue())
    model = sentencepiece_model_pb2.ModelProto()
    model.ParseFromString(trained.getvalue())
    tokenizer = Tokenizer(models.Unigram([(piece.piece, piece.score) for piece in model.pieces], unk_id=2))
    tokenizer.normalizer = normalizers.Sequence(
        [normalizers.Precompiled(model.normalizer_spec.precompiled_charsmap), normalizers.Replace(Regex(" {2,}"), " ")]
    )
    tokenizer.pre_tokenizer = pre_tokenizers.Metaspace(replacement="▁", prepend_scheme="always")
    tokenizer.add_special_tokens([AddedToken(t, lstrip=True, rstrip=True, normalized=False) for t in ("</s>", "<unk>")])
    tokenizer.post_processor = processors.TemplateProcessing(single="$A </s>", pair="$A </s> $B </s>", special_tokens=[("</s>", 1)])
    tokenizer.save(str(directory / "tokenizer.json"))
    settings = dict(
        do_lower_case=True,
        eos_token="</s>",
        pad_token="</s>",
        unk_token={"__type": "AddedToken", "content": "<unk>", "lstrip": True, "normalized": False, "rstrip": True, "single_word": False},
        model_input_names=["input_ids"],
        model_max_length=64,
        tokenizer_class="SiglipTokenizer",
    )
    (directory / "tokenizer_config.json").write_text(json.dumps(settings, indent=1) + "\n")
    return len(model.pieces)


@dataclass
class Case:
    about: str
    vocabulary: str  # a key of TOKENIZERS
    text: dict
    vision: dict
    top: dict = field(default_factory=dict)
    preprocessor: dict = field(default_factory=dict)
    edit: dict = field(default_factory=dict)  # changes to config.json
    shard: str = "5GB"
    dtype: torch.dtype = torch.float32
    # (width, height): square, landscape, portrait, smaller than the model's size, twice long, large. Some leave an odd number of
    # pixels to crop.
    pictures: tuple = ((32, 32), (40, 31), (31, 44), (1, 1), (150, 40), (33, 200), (333, 250))

    @property
    def clip(self) -> bool:
        return self.vocabulary == "clip"

    @property
    def naflex(self) -> bool:
        return "num_patches" in self.vision

    @property
    def model(self) -> type:
        return CLIPModel if self.clip else Siglip2Model if self.naflex else SiglipModel


def sizes(hidden: int, heads: int, layers: int, **others) -> dict:
    return dict(hidden_size=hidden, intermediate_size=2 * hidden, num_attention_heads=heads, num_hidden_layers=layers, **others)


OPENAI_MEANS = dict(image_mean=[0.48145466, 0.4578275, 0.40821073], image_std=[0.26862954, 0.26130258, 0.27577711])
MEANS_OF_HALF = dict(image_mean=[0.5, 0.5, 0.5], image_std=[0.5, 0.5, 0.5])


def tower(hidden: int, inner: int, heads: int, layers: int, **others) -> dict:
    return sizes(hidden, heads, layers, **others) | dict(intermediate_size=inner)


LARGE = {
    "clip_vit_b_32": Case(
        "the sizes of openai/clip-vit-base-patch32",
        "clip",
        tower(512, 2048, 8, 12, max_position_embeddings=77, hidden_act="quick_gelu", eos_token_id=2),
        tower(768, 3072, 12, 12, image_size=224, patch_size=32, hidden_act="quick_gelu"),
        top=dict(projection_dim=512),
        preprocessor=dict(**OPENAI_MEANS, crop_size=224, size=224, resample=3),
    ),
    "clip_vit_h_14": Case(
        "the sizes of laion/CLIP-ViT-H-14 with 3 layers",
        "clip",
        tower(1024, 4096, 16, 3, max_position_embeddings=77, hidden_act="gelu"),
        tower(1280, 5120, 16, 3, image_size=224, patch_size=14, hidden_act="gelu"),
        top=dict(projection_dim=1024),
        preprocessor=dict(**OPENAI_MEANS, crop_size=224, size=224, resample=3),
    ),
    "siglip_so400m": Case(
        "the sizes of google/siglip2-so400m-patch14-384 with 3 layers",
        "gemma",
        tower(1152, 4304, 16, 3, max_position_embeddings=64),
        tower(1152, 4304, 16, 3, image_size=384, patch_size=14),
        preprocessor=dict(**MEANS_OF_HALF, size=dict(height=384, width=384), resample=2),
    ),
    "siglip2_base": Case(
        "the sizes of google/siglip2-base-patch16-224",
        "gemma",
        tower(768, 3072, 12, 12, max_position_embeddings=64),
        tower(768, 3072, 12, 12, image_size=224, patch_size=16),
        preprocessor=dict(**MEANS_OF_HALF, size=dict(height=224, width=224), resample=2),
    ),
    "siglip2_naflex_base": Case(
        "the sizes of google/siglip2-base-patch16-naflex",
        "gemma",
        tower(768, 3072, 12, 12, max_position_embeddings=64),
        tower(768, 3072, 12, 12, num_patches=256, patch_size=16),
        preprocessor=dict(**MEANS_OF_HALF, max_num_patches=256, patch_size=16, resample=2),
    ),
}

TOKENIZERS = dict(clip=clip_tokenizer, gemma=gemma_tokenizer, sentencepiece=sentencepiece_tokenizer)


@torch.no_grad()
def draw_weights(model: torch.nn.Module, generator: torch.Generator) -> None:
    """Random weights. Attention is far from uniform, and no bias is zero."""
    for name, parameter in model.named_parameters():
        noise = torch.randn(parameter.shape, generator=generator)
        if name == "logit_scale":
            value = torch.full(parameter.shape, 4.6)
        elif name == "logit_bias":
            value = torch.full(parameter.shape, -12.5)
        elif name.endswith("bias"):
            value = 0.2 * noise
        elif "norm" in name or "layrnorm" in name:
            value = 1.0 + 0.3 * noise
        elif "position" in name or "class" in name:
            value = 0.4 * noise
        elif "token_embedding" in name or "probe" in name:
            value = noise
        else:
            gain = 1.5 if "q_proj" in name or "k_proj" in name else 3.0 if "patch" in name else 1.0
            value = gain * noise / parameter[0].numel() ** 0.5
        parameter.copy_(value)


def write_model(case: Case, directory: Path, seed: int, real: Path | None) -> None:
    directory.mkdir(parents=True)
    vocabulary = TOKENIZERS[case.vocabulary](directory, real)
    text = case.text | dict(vocab_size=vocabulary)
    if case.clip:
        text = dict(bos_token_id=vocabulary - 2, eos_token_id=vocabulary - 1) | text
    config_class = CLIPConfig if case.clip else Siglip2Config if case.naflex else SiglipConfig
    model = case.model(config_class(text_config=text, vision_config=case.vision, **case.top))
    draw_weights(model, torch.Generator().manual_seed(seed))
    model.to(case.dtype).save_pretrained(directory, max_shard_size=case.shard)
    path = directory / "config.json"
    written = json.loads(path.read_text()) | case.edit
    if directory.name == "clip_laion":
        # transformers prefers the values of the _dict keys. The others are decoys.
        for part in ("text", "vision"):
            written[f"{part}_config_dict"] = written[f"{part}_config"]
            written[f"{part}_config"] = written[f"{part}_config"] | dict(hidden_act="quick_gelu", hidden_size=512)
    path.write_text(json.dumps(written, indent=1) + "\n")
    (directory / "preprocessor_config.json").write_text(json.dumps(case.preprocessor, indent=1) + "\n")
