"""Runs transformers on a checkpoint and reports the times of the forward pass and its vectors. Started by model.py.

    python model_reference.py REQUEST.json ANSWER.json

The request has `model` (a directory of Qwen3-VL, CLIP or SigLIP), `dtype`, `threads`, `texts` and `pictures` (lists of lists:
each list gives one figure, and its first entry warms up), and `vectors` (whether the answer contains them). Only the forward
pass is timed: prompts are tokenized and pictures are cut into patches before. Pictures must have sides that the model's recipe
(preprocessor_config.json) leaves unchanged.

`photos` are files that are embedded from disk, `ways` are pairs of an image processor's backend and a number of decoding threads,
and `passes` is how often each way embeds all photos. All of the work is timed. Only CLIP and SigLIP can do this.
"""

import json
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
import transformers
from PIL import Image
from tokenizers import Tokenizer
from transformers import AutoImageProcessor, AutoModel, CLIPTokenizer, Qwen3VLModel
from transformers.models.siglip2.tokenization_siglip2 import Siglip2Tokenizer

INSTRUCTION = "Represent the user's input."
IMAGE_PAD = "<|image_pad|>"
BATCH = 16


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


class DualReference:
    """CLIP and SigLIP."""

    def __init__(self, directory, dtype):
        self.directory = directory
        self.model = AutoModel.from_pretrained(directory, dtype=getattr(torch, dtype)).eval()
        # For a published directory of SigLIP 2, AutoTokenizer makes a tokenizer that does not put texts in lower case.
        clip = self.model.config.model_type == "clip"
        self.tokenizer = (CLIPTokenizer if clip else Siglip2Tokenizer).from_pretrained(directory)
        length = self.model.config.text_config.max_position_embeddings
        self.lengths = {"truncation": True, "max_length": length, "padding": False if clip else "max_length"}
        self.pil = self.processor("pil")

    def processor(self, backend):
        return AutoImageProcessor.from_pretrained(self.directory, backend=backend)

    def text(self, text):
        return {"input_ids": self.tokenizer([text], return_tensors="pt", **self.lengths)["input_ids"]}

    def picture(self, path):
        return {"pixel_values": self.pixels(self.pil, path)}

    def pixels(self, processor, path):
        image = Image.open(path).convert("RGB")
        return processor(image, return_tensors="pt")["pixel_values"].to(self.model.dtype)

    @torch.inference_mode()
    def embed(self, inputs):
        """The seconds of the forward pass, and the normalised vector."""
        started = time.perf_counter()
        features = self.model.get_text_features if "input_ids" in inputs else self.model.get_image_features
        output = features(**inputs).pooler_output
        seconds = time.perf_counter() - started
        return seconds, F.normalize(output[0].float(), dim=-1).tolist()

    @torch.inference_mode()
    def photos_per_second(self, paths, backend, threads):
        """The rate of a loop over batches, which are decoded and resized in this many threads before the forward pass."""
        processor = self.processor(backend)
        started = time.perf_counter()
        with ThreadPoolExecutor(threads) as pool:
            for n in range(0, len(paths), BATCH):
                pixels = torch.cat(list(pool.map(lambda path: self.pixels(processor, path), paths[n : n + BATCH])))
                F.normalize(self.model.get_image_features(pixel_values=pixels).pooler_output.float(), dim=-1).tolist()
        return len(paths) / (time.perf_counter() - started)


def main():
    request = json.loads(Path(sys.argv[1]).read_text())
    transformers.logging.set_verbosity_error()
    transformers.logging.disable_progress_bar()
    torch.set_num_threads(request["threads"])
    directory = Path(request["model"])
    qwen = json.loads((directory / "config.json").read_text())["model_type"].startswith("qwen")
    reference = (Reference if qwen else DualReference)(directory, request["dtype"])

    def measure(contents, prepare):
        times, tokens, vectors = [], [], []
        for content in contents:
            inputs = prepare(content)
            seconds, vector = reference.embed(inputs)
            times.append(seconds)
            if "input_ids" in inputs:
                tokens.append(inputs["input_ids"].shape[1])
            if request["vectors"]:
                vectors.append(vector)
        return {"times": times, "tokens": tokens, "vectors": vectors}

    answer = {
        "versions": f"transformers {transformers.__version__}, torch {torch.__version__}",
        "threads": torch.get_num_threads(),
        "texts": [measure(texts, reference.text) for texts in request["texts"]],
        "pictures": [measure(pictures, reference.picture) for pictures in request["pictures"]],
        "photos": [
            [reference.photos_per_second(request["photos"], *way) for _ in range(request["passes"])]
            for way in request["ways"]
        ],
    }
    Path(sys.argv[2]).write_text(json.dumps(answer))


if __name__ == "__main__":
    main()
