"""Writes recipe.json: requests and their embeddings, from text and pixels to the vector.

The model is forward/image_square, whose patches are 16 pixels wide, as in the released models, so sizes are the same. The recipe
is that of the reference embedding script: prompt, fetch_image, processor, forward pass, last-token pooling. The pictures are
computed by the formula of preprocess.json. Each request is embedded alone; a run of all requests in one padded batch then
checks that padding changes nothing.

    python make_recipe.py                   # write recipe.json
    python make_recipe.py --reference FILE  # write nothing; compare the released script with the stored embeddings

FILE is src/models/qwen3_vl_embedding.py of QwenLM/Qwen3-VL-Embedding.
"""

import argparse
import importlib.util
import json
from pathlib import Path

import torch
import transformers
from transformers import Qwen2Tokenizer

from forward_reference import load, pool, run
from make_preprocess import CONFIGS, fetched, picture, write_json
from make_tokens import conversation, processor

HERE = Path(__file__).resolve().parent
MODEL = "image_square"

REQUESTS = [
    {"text": "a baby on the beach"},
    {"text": ""},
    {},
    {"text": "a birthday cake", "instruction": "Find photographs of this"},
    {"text": "海边的小狗 👶🏽 cafe\u0301", "instruction": "检索照片。"},
    {"text": "a dog " * 60},
    {"images": [[64, 64]]},
    {"images": [[90, 130]]},
    {"images": [[301, 47]], "instruction": "Describe it"},
    {"images": [[100, 100]], "text": "two candles"},
    {"images": [[70, 150], [160, 64]], "text": "the same place"},
    {"images": [[257, 191]], "text": ""},
    {"images": [[5, 3]]},
]


def inputs_of(requests: list[dict], process) -> dict[str, torch.Tensor]:
    config = CONFIGS["large"]
    texts, images = [], []
    for request in requests:
        resized = [fetched(picture(*size), config) for size in request.get("images", [])]
        messages = conversation(request.get("text"), resized, request.get("instruction"))
        texts.append(process.apply_chat_template(messages, add_generation_prompt=True, tokenize=False))
        images += resized
    out = process(text=texts, images=images or None, padding=True, do_resize=False, return_tensors="pt")
    return dict(out)


def check_reference(script: Path) -> None:
    """Fails if the released script gives another vector than recipe.json has."""
    spec = importlib.util.spec_from_file_location("reference_script", script)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    stored = json.loads((HERE / "recipe.json").read_text(encoding="utf-8"))
    embedder = module.Qwen3VLEmbedder(str(HERE / stored["model"]), dtype=torch.float32)
    requests = []
    for row in stored["requests"]:
        request = {"text": row["text"], "instruction": row["instruction"]}
        if row["images"]:
            request["image"] = [picture(*size) for size in row["images"]]
        requests.append(request)
    right = torch.tensor([row["embedding"] for row in stored["requests"]])
    alone = torch.cat([embedder.process([request]) for request in requests])
    for name, vectors in (("alone", alone), ("in one batch", embedder.process(requests))):
        difference = (vectors - right).abs().max().item()
        print(f"{name}: largest difference {difference:.1e}")
        if difference > 1e-5:
            raise SystemExit(f"the released script differs {name}")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--reference", type=Path, help="the released qwen3_vl_embedding.py")
    arguments = parser.parse_args()
    transformers.logging.set_verbosity_error()
    transformers.logging.disable_progress_bar()
    if arguments.reference:
        check_reference(arguments.reference)
        return
    directory = HERE / "forward" / MODEL
    model = load(directory, "float32")
    process = processor(Qwen2Tokenizer.from_pretrained(directory, padding_side="right"))
    rows, vectors = [], []
    for request in REQUESTS:
        inputs = inputs_of([request], process)
        vector = pool(run(model, inputs), inputs["attention_mask"])[0]
        vectors.append(vector)
        rows.append(
            {
                "text": request.get("text"),
                "images": request.get("images", []),
                "instruction": request.get("instruction"),
                "tokens": inputs["input_ids"].shape[1],
                "embedding": [float(f"{value:.7g}") for value in vector.tolist()],
            }
        )
    together = inputs_of(REQUESTS, process)
    batch = pool(run(model, together), together["attention_mask"])
    difference = (batch - torch.stack(vectors)).abs().max().item()
    if difference > 1e-5:
        raise SystemExit(f"padding changes the embeddings by {difference}")
    cosines = torch.stack(vectors) @ torch.stack(vectors).T - 2 * torch.eye(len(vectors))
    print(f"batch against single: {difference:.1e}; closest two requests: {cosines.max():.4f}")
    write_json(HERE / "recipe.json", {"model": f"forward/{MODEL}", "pixels": CONFIGS["large"], "requests": rows})


if __name__ == "__main__":
    main()
