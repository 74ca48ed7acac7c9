"""Writes forward/<case>/: tiny models with random weights, and the reference's results for them.

The reference is transformers' Qwen3VLModel, loaded from the directory written here, so that a case also tests how a
checkpoint is read. The weights are drawn with enough spread that attention is far from uniform and every mistake in
mistakes.py changes the embeddings of some case:

    python make_forward.py                      # write every case
    python make_forward.py --check-sensitivity  # write nothing; make each mistake and require that a case notices it
    python make_forward.py --check-stored       # write nothing; compare the reference with the stored files
"""

import argparse
import json
import shutil
from dataclasses import dataclass, field
from pathlib import Path

import torch
import torch.nn.functional as F
import transformers
from safetensors.torch import load_file, save_file
from transformers import Qwen3VLConfig, Qwen3VLForConditionalGeneration, Qwen3VLModel

import qwen2_tokenizer
from forward_reference import capture, load, pool, run
from mistakes import MISTAKES, attention_across_images

HERE = Path(__file__).resolve().parent
SEED = 20240917
VOCAB = 384
TOKENIZER = qwen2_tokenizer.train(VOCAB, append_end=True)
VISION_START, VISION_END, IMAGE_PAD, VIDEO_PAD, PAD = (
    TOKENIZER.token_to_id(token)
    for token in ("<|vision_start|>", "<|vision_end|>", "<|image_pad|>", "<|video_pad|>", "<|endoftext|>")
)
FIRST_ADDED = PAD  # random text is drawn from the token ids below

TEXT = dict(
    vocab_size=VOCAB,
    hidden_size=32,
    intermediate_size=40,
    num_hidden_layers=2,
    num_attention_heads=4,
    num_key_value_heads=2,
    head_dim=16,
    rms_norm_eps=1e-6,
    max_position_embeddings=4096,
    rope_parameters=dict(rope_type="default", rope_theta=1000.0, mrope_section=[4, 2, 2], mrope_interleaved=True),
)
VISION = dict(
    depth=3,
    hidden_size=16,
    intermediate_size=24,
    num_heads=2,
    patch_size=4,
    num_position_embeddings=16,
    deepstack_visual_indexes=[0, 2],
)


@dataclass
class Case:
    """One directory. A sample is a list of text lengths (int) and image grids ((height, width) in patches)."""

    about: str
    samples: list
    text: dict = field(default_factory=dict)
    vision: dict = field(default_factory=dict)
    padding: str = "right"
    dtype: str = "float32"
    prefixed: bool = False  # names start with `model.`, as Qwen3VLForConditionalGeneration saves them
    tied: bool = True
    shard: str | None = None  # largest shard, such as "40KB"; None: one file without an index
    # If set, config.json has rope_theta and rope_scaling, as checkpoints written before transformers 5 have. The value names
    # the key that holds the dtype in such a checkpoint.
    old_config: str | None = None

    @property
    def tolerance(self) -> str:
        return {"float32": "f32", "bfloat16": "bf16", "float16": "f16"}[self.dtype]


def rope(theta: float, section: list[int]) -> dict:
    return dict(rope_type="default", rope_theta=theta, mrope_section=section, mrope_interleaved=True)


CASES = {
    "text_right": Case(
        "text only, unequal lengths, right padding; names without a prefix",
        samples=[[41], [7], [1], [23]],
        text=dict(num_hidden_layers=3),
        vision=dict(depth=1, deepstack_visual_indexes=[0]),
    ),
    "text_left": Case(
        "text only, unequal lengths, left padding; untied lm_head, names with `model.`",
        samples=[[9], [38], [2]],
        padding="left",
        prefixed=True,
        tied=False,
        vision=dict(depth=1, deepstack_visual_indexes=[0]),
    ),
    "image_square": Case(
        "one image with as many patches per side as the position table; patch 16; one deepstack layer",
        samples=[[13, (4, 4), 21]],
        vision=dict(patch_size=16, num_position_embeddings=16, depth=2, deepstack_visual_indexes=[1]),
    ),
    "images_many": Case(
        "several images in a batch and in a sample, not square, text before, between and after",
        samples=[[5, (6, 10), 9, (4, 2), 14], [3, (2, 8), 11], [27], [2, (8, 4), 1, (2, 2), 1, (4, 6), 6]],
        prefixed=True,
        shard="80KB",
        vision=dict(depth=2, deepstack_visual_indexes=[0, 1]),
    ),
    "images_left": Case(
        "left padding with images; one sample starts with an image, one has none",
        samples=[[(4, 6), 8], [12, (6, 4), 5, (2, 4), 17], [19]],
        padding="left",
        old_config="torch_dtype",
        vision=dict(depth=2, deepstack_visual_indexes=[0, 1]),
    ),
    "grids_and_table": Case(
        "grids far larger and far smaller than the position table; no deepstack",
        samples=[[4, (14, 6), 12], [6, (2, 2), 15], [3, (6, 2), 4, (2, 12), 9]],
        vision=dict(num_position_embeddings=49, depth=2, deepstack_visual_indexes=[]),
    ),
    "deepstack_three": Case(
        "three deepstack layers with a gap, four text layers, a vision head of 12, a small table",
        samples=[[6, (6, 6), 10], [2, (4, 8), 3, (6, 4), 18]],
        text=dict(num_hidden_layers=4),
        vision=dict(
            depth=4,
            hidden_size=12,
            num_heads=1,
            deepstack_visual_indexes=[0, 1, 3],
            num_position_embeddings=9,
        ),
    ),
    "grouped_heads": Case(
        "8 heads over 2 key-value heads of 48, mrope [8, 8, 8], theta 5e6, biases, patch 8",
        samples=[[4, (4, 6), 22], [2, (2, 4), 3, (4, 2), 7], [33]],
        text=dict(
            num_attention_heads=8,
            num_key_value_heads=2,
            head_dim=48,
            num_hidden_layers=2,
            attention_bias=True,
            rope_parameters=rope(5_000_000.0, [8, 8, 8]),
        ),
        vision=dict(patch_size=8, depth=2, deepstack_visual_indexes=[1]),
        prefixed=True,
    ),
    "bfloat16": Case(
        "a bfloat16 checkpoint in shards, as released: old config, names with `model.`",
        samples=[[5, (6, 4), 9], [24], [2, (4, 8), 3, (4, 4), 11]],
        dtype="bfloat16",
        prefixed=True,
        shard="40KB",
        old_config="text_config.dtype",
    ),
    "float16": Case(
        "a float16 checkpoint",
        samples=[[7, (4, 6), 12], [3, (6, 6), 20], [18]],
        dtype="float16",
        vision=dict(depth=2, deepstack_visual_indexes=[0, 1]),
    ),
}


def build_config(case: Case) -> Qwen3VLConfig:
    text = TEXT | case.text
    vision = VISION | case.vision | dict(out_hidden_size=text["hidden_size"])
    return Qwen3VLConfig(
        text_config=text,
        vision_config=vision,
        image_token_id=IMAGE_PAD,
        video_token_id=VIDEO_PAD,
        vision_start_token_id=VISION_START,
        vision_end_token_id=VISION_END,
        tie_word_embeddings=case.tied,
    )


@torch.no_grad()
def draw_weights(model: torch.nn.Module, generator: torch.Generator) -> None:
    """Random weights whose activations stay near one and whose attention is peaked."""
    for name, parameter in model.named_parameters():
        noise = torch.randn(parameter.shape, generator=generator)
        if name.endswith("bias"):
            value = 0.3 * noise
        elif "norm" in name:
            # Large query and key norms make attention peaked.
            value = (1.7 if "q_norm" in name or "k_norm" in name else 1.0) + 0.3 * noise
        elif "embed_tokens" in name or "pos_embed" in name:
            value = noise
        else:
            fan_in = parameter[0].numel()
            gain = 1.6 if "qkv" in name or "v_proj" in name or "o_proj" in name else 1.2
            value = gain * noise / fan_in**0.5
        parameter.copy_(value)


def to_old_config(config: dict, dtype_key: str) -> dict:
    """Spells a configuration as checkpoints written before transformers 5 do, the released models among them."""
    text = config["text_config"]
    parameters = text.pop("rope_parameters")
    text["rope_theta"] = parameters.pop("rope_theta")
    text["rope_scaling"] = parameters
    config["vision_config"].pop("rope_parameters", None)
    dtype = config.pop("dtype")
    for part in (text, config["vision_config"]):
        part.pop("dtype", None)
    owner = text if dtype_key.startswith("text_config.") else config
    owner[dtype_key.removeprefix("text_config.")] = dtype
    return config


def write_model(case: Case, directory: Path, seed: int) -> None:
    """Writes a complete model directory: config, weights, preprocessor, tokenizer."""
    generator = torch.Generator().manual_seed(seed)
    cls = Qwen3VLForConditionalGeneration if case.prefixed else Qwen3VLModel
    model = cls(build_config(case))
    draw_weights(model, generator)
    model = model.to(getattr(torch, case.dtype))
    model.save_pretrained(directory, max_shard_size=case.shard or "1GB")
    config_path = directory / "config.json"
    config = json.loads(config_path.read_text())
    if case.old_config:
        config = to_old_config(config, case.old_config)
    config_path.write_text(json.dumps(config, indent=1) + "\n")
    (directory / "generation_config.json").unlink(missing_ok=True)
    patch = (VISION | case.vision)["patch_size"]
    preprocessor = {
        "image_processor_type": "Qwen2VLImageProcessorFast",
        "processor_class": "Qwen3VLProcessor",
        "patch_size": patch,
        "temporal_patch_size": 2,
        "merge_size": 2,
        "size": {"shortest_edge": 4 * (2 * patch) ** 2, "longest_edge": 64 * (2 * patch) ** 2},
        "image_mean": [0.5, 0.5, 0.5],
        "image_std": [0.5, 0.5, 0.5],
    }
    (directory / "preprocessor_config.json").write_text(json.dumps(preprocessor, indent=1) + "\n")
    qwen2_tokenizer.save(TOKENIZER, directory)
    about = {
        "about": case.about,
        "padding_side": case.padding,
        "dtype": case.dtype,
        "tolerance": case.tolerance,
        "seed": seed,
        "samples": [
            [{"text": part} if isinstance(part, int) else {"grid": list(part)} for part in sample]
            for sample in case.samples
        ],
    }
    (directory / "case.json").write_text(json.dumps(about, indent=1) + "\n")


def draw_inputs(case: Case, seed: int) -> dict[str, torch.Tensor]:
    """Token ids, mask and patches of the case's samples, in the processor's layout."""
    generator = torch.Generator().manual_seed(seed + 1)
    vision = VISION | case.vision
    rows, grids = [], []
    for sample in case.samples:
        row = []
        for part in sample:
            if isinstance(part, int):
                row += torch.randint(0, FIRST_ADDED, (part,), generator=generator).tolist()
            else:
                height, width = part
                grids.append([1, height, width])
                row += [VISION_START] + [IMAGE_PAD] * (height * width // 4) + [VISION_END]
        rows.append(row)
    length = max(map(len, rows))
    ids = torch.full((len(rows), length), PAD)
    mask = torch.zeros_like(ids)
    for index, row in enumerate(rows):
        span = slice(0, len(row)) if case.padding == "right" else slice(length - len(row), length)
        ids[index, span] = torch.tensor(row)
        mask[index, span] = 1
    inputs = {
        "input_ids": ids,
        "attention_mask": mask,
        "mm_token_type_ids": (ids == IMAGE_PAD).long(),
    }
    if grids:
        patch, count = vision["patch_size"], sum(h * w for _, h, w in grids)
        # 8-bit pixels after normalisation. A still image is repeated to fill the pair of frames of a temporal patch.
        pixels = torch.randint(0, 256, (count, 3, 1, patch, patch), generator=generator)
        pixels = (pixels.float() - 127.5) / 127.5
        inputs["pixel_values"] = pixels.expand(-1, -1, 2, -1, -1).reshape(count, -1).contiguous()
        inputs["image_grid_thw"] = torch.tensor(grids)
    return inputs


def expected(case: Case, directory: Path, seed: int) -> dict[str, torch.Tensor]:
    inputs = draw_inputs(case, seed)
    model = load(directory, case.dtype)
    out = inputs | capture(model, inputs)
    if case.dtype != "float32":
        upcast = load(directory, "float32")
        out["embedding_f32"] = pool(run(upcast, inputs), inputs["attention_mask"])
    return {name: value.contiguous() for name, value in out.items()}


def check_sensitivity() -> None:
    """Fails if a mistake leaves the embeddings of every float32 case above cosine 0.999."""
    lowest = {name: {} for name in MISTAKES}
    for name, case in CASES.items():
        if case.dtype != "float32":
            continue
        directory = HERE / "forward" / name
        stored = load_file(directory / "golden.safetensors")
        inputs = draw_inputs(case, SEED + list(CASES).index(name))
        model = load(directory, case.dtype)
        for mistake, make in MISTAKES.items():
            if "image_grid_thw" not in inputs and make is attention_across_images:
                continue
            cosine = F.cosine_similarity(make(model, inputs), stored["embedding"], dim=-1)
            lowest[mistake][name] = cosine.min().item()
        again = pool(run(model, inputs), inputs["attention_mask"])
        torch.testing.assert_close(again, stored["embedding"], rtol=0, atol=1e-5)
    failed = []
    for mistake, cosines in lowest.items():
        caught = {name: round(value, 4) for name, value in cosines.items() if value < 0.999}
        print(f"{mistake}: {caught}")
        if not caught:
            failed.append(mistake)
    if failed:
        raise SystemExit(f"no case notices these mistakes: {', '.join(failed)}")


def check_stored() -> None:
    """Fails if the reference's results differ from the stored ones."""
    for index, (name, case) in enumerate(CASES.items()):
        directory = HERE / "forward" / name
        stored = load_file(directory / "golden.safetensors")
        now = expected(case, directory, SEED + index)
        if stored.keys() != now.keys():
            raise SystemExit(f"{name}: keys differ: {sorted(stored.keys() ^ now.keys())}")
        tolerance = {"f32": 2e-4, "bf16": 0.25, "f16": 0.05}[case.tolerance]
        worst = max((stored[key].double() - now[key].double()).abs().max().item() for key in now)
        print(f"{name}: largest difference {worst:.2e}")
        if worst > tolerance:
            raise SystemExit(f"{name}: differs by {worst}")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--check-sensitivity", action="store_true")
    parser.add_argument("--check-stored", action="store_true")
    arguments = parser.parse_args()
    torch.use_deterministic_algorithms(True)
    transformers.logging.set_verbosity_error()
    transformers.logging.disable_progress_bar()
    if arguments.check_sensitivity:
        check_sensitivity()
        return
    if arguments.check_stored:
        check_stored()
        return
    for index, (name, case) in enumerate(CASES.items()):
        directory = HERE / "forward" / name
        shutil.rmtree(directory, ignore_errors=True)
        directory.mkdir(parents=True)
        write_model(case, directory, SEED + index)
        out = expected(case, directory, SEED + index)
        # At most one metadata entry: safetensors writes several in no fixed order.
        save_file(out, directory / "golden.safetensors", metadata={"padding_side": case.padding})
        for path in directory.iterdir():
            path.chmod(0o644)
        size = sum(path.stat().st_size for path in directory.iterdir())
        hidden = out["text.norm"]
        print(f"{name}: {size // 1024} KiB, batch {tuple(hidden.shape)}, spread {hidden.std():.2f}")


if __name__ == "__main__":
    main()
