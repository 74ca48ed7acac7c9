"""Runs transformers on a checkpoint and reports the times of the forward pass and its vectors. Started by model.py.

    python model_reference.py REQUEST.json ANSWER.json

The request has `model` (a directory), `dtype`, `threads`, `texts` and `pictures` (lists of lists: each list gives one figure,
and its first entry warms up), and `vectors` (whether the answer contains them). Only the forward pass is timed: prompts are
tokenized and pictures are cut into patches before. Pictures must have sides that the recipe leaves unchanged.
"""

import json
import sys
import time
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
import transformers
from PIL import Image
from tokenizers import Tokenizer
from transformers import Qwen3VLModel

INSTRUCTION = "Represent the user's input."
IMAGE_PAD = "<|image_pad|>"


class Reference:
    def __init__(self, directory, dtype):
        # sdpa, the default, is the fastest attention of transformers on a CPU.
        self.model = Qwen3VLModel.from_pretrained(directory, dtype=getattr(torch, dtype)).eval()
        self.tokenizer = Tokenizer.from_file(str(directory / "tokenizer.json"))
        vision = self.model.config.vision_config
        self.patch, self.temporal, self.merge = vision.patch_size, vision.temporal_patch_size, vision.spatial_merge_size
        recipe = json.loads((directory / "preprocessor_config.json").read_text())
        self.least, self.most = recipe["size"]["shortest_edge"], recipe["size"]["longest_edge"]

    def tokens(self, content):
        prompt = f"<|im_start|>system\n{INSTRUCTION}<|im_end|>\n<|im_start|>user\n{content}<|im_end|>\n<|im_start|>assistant\n"
        return self.tokenizer.encode(prompt).ids

    def inputs(self, ids, **more):
        ids = torch.tensor([ids])
        image = (ids == self.tokenizer.token_to_id(IMAGE_PAD)).int()
        return dict(input_ids=ids, attention_mask=torch.ones_like(ids), mm_token_type_ids=image, **more)

    def text(self, text):
        return self.inputs(self.tokens(text))

    def picture(self, path):
        """The inputs for a picture, whose size the recipe must leave unchanged."""
        pixels = np.asarray(Image.open(path).convert("RGB"), dtype=np.float32)
        height, width, _ = pixels.shape
        side = self.patch * self.merge
        if height % side or width % side or not self.least <= height * width <= self.most:
            raise SystemExit(f"{path}: {width}x{height} would be resized")
        pixels = (pixels / 255 - 0.5) / 0.5
        rows, columns = height // self.patch, width // self.patch
        # Order: the merge x merge patches of a block together; within a patch: channel, frame, row, column.
        blocks = pixels.reshape(
            rows // self.merge, self.merge, self.patch, columns // self.merge, self.merge, self.patch, 3
        ).transpose(0, 3, 1, 4, 6, 2, 5)
        frames = np.repeat(blocks[:, :, :, :, :, None], self.temporal, axis=5)
        patches = torch.from_numpy(frames.reshape(rows * columns, -1))
        count = rows * columns // self.merge**2
        ids = self.tokens(f"<|vision_start|>{IMAGE_PAD * count}<|vision_end|>")
        return self.inputs(
            ids, pixel_values=patches.to(self.model.dtype), image_grid_thw=torch.tensor([[1, rows, columns]])
        )

    @torch.inference_mode()
    def embed(self, inputs):
        """The seconds of the forward pass, and the vector: the last token's state, normalised."""
        self.model.rope_deltas = None
        started = time.perf_counter()
        hidden = self.model(**inputs, use_cache=False).last_hidden_state
        seconds = time.perf_counter() - started
        return seconds, F.normalize(hidden[0, -1].float(), dim=-1).tolist()


def main():
    request = json.loads(Path(sys.argv[1]).read_text())
    transformers.logging.set_verbosity_error()
    transformers.logging.disable_progress_bar()
    torch.set_num_threads(request["threads"])
    reference = Reference(Path(request["model"]), request["dtype"])

    def measure(contents, prepare):
        times, tokens, vectors = [], [], []
        for content in contents:
            inputs = prepare(content)
            seconds, vector = reference.embed(inputs)
            times.append(seconds)
            tokens.append(inputs["input_ids"].shape[1])
            if request["vectors"]:
                vectors.append(vector)
        return {"times": times, "tokens": tokens, "vectors": vectors}

    answer = {
        "versions": f"transformers {transformers.__version__}, torch {torch.__version__}",
        "threads": torch.get_num_threads(),
        "texts": [measure(texts, reference.text) for texts in request["texts"]],
        "pictures": [measure(pictures, reference.picture) for pictures in request["pictures"]],
    }
    Path(sys.argv[2]).write_text(json.dumps(answer))


if __name__ == "__main__":
    main()
