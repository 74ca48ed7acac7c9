"""Runs transformers' Qwen3VLModel on a model directory and records its intermediate results."""

from pathlib import Path

import torch
import torch.nn.functional as F
from transformers import Qwen3VLModel
from transformers.models.qwen3_vl import modeling_qwen3_vl as reference


def pool(hidden: torch.Tensor, mask: torch.Tensor) -> torch.Tensor:
    """The hidden state at each row's last token that is not padding, L2 normalised."""
    last = mask.shape[1] - 1 - mask.flip(1).argmax(1)
    return F.normalize(hidden[torch.arange(len(hidden)), last], dim=-1)


def load(directory: Path, dtype: str) -> Qwen3VLModel:
    model, info = Qwen3VLModel.from_pretrained(
        directory, dtype=getattr(torch, dtype), output_loading_info=True
    )
    unexpected = [key for key in info["unexpected_keys"] if "lm_head" not in key]
    if info["missing_keys"] or unexpected or info["mismatched_keys"]:
        raise RuntimeError(f"{directory.name}: {info}")
    return model.eval()


def positions(model: Qwen3VLModel, inputs: dict) -> torch.Tensor:
    """Position ids of shape [3, b, t]. Without images all three axes are equal."""
    ids, _ = model.get_rope_index(
        inputs["input_ids"],
        mm_token_type_ids=inputs["mm_token_type_ids"],
        image_grid_thw=inputs.get("image_grid_thw"),
        attention_mask=inputs["attention_mask"],
    )
    return ids


@torch.no_grad()
def run(model: Qwen3VLModel, inputs: dict) -> torch.Tensor:
    model.rope_deltas = None
    return model(**inputs, use_cache=False).last_hidden_state


@torch.no_grad()
def capture(model: Qwen3VLModel, inputs: dict) -> dict[str, torch.Tensor]:
    """Runs the model and returns every intermediate result that another implementation may compare with."""
    out: dict[str, torch.Tensor] = {}
    handles = []

    def keep(name):
        def hook(_module, _args, output):
            out[name] = output.detach().float().clone()

        return hook

    visual, language = model.visual, model.language_model
    handles.append(visual.patch_embed.register_forward_hook(keep("vision.patch_embed")))
    for index, block in enumerate(visual.blocks):
        handles.append(block.register_forward_hook(keep(f"vision.block.{index}")))
    handles.append(visual.merger.register_forward_hook(keep("vision.merged")))
    for index, merger in enumerate(visual.deepstack_merger_list):
        handles.append(merger.register_forward_hook(keep(f"vision.deepstack.{index}")))

    def first_vision_input(_module, args):
        out["vision.input"] = args[0].detach().float().clone()

    handles.append(visual.blocks[0].register_forward_pre_hook(first_vision_input))

    # The input of layer i + 1 is the output of layer i plus what deepstack adds there.
    def text_input(name):
        def hook(_module, args):
            out[name] = args[0].detach().float().clone()

        return hook

    for index, layer in enumerate(language.layers):
        name = "text.embed" if index == 0 else f"text.block.{index - 1}"
        handles.append(layer.register_forward_pre_hook(text_input(name)))
    last = len(language.layers) - 1
    handles.append(language.norm.register_forward_pre_hook(text_input(f"text.block.{last}")))
    hidden = run(model, inputs)
    for handle in handles:
        handle.remove()
    out["text.norm"] = hidden.float()
    if "image_grid_thw" in inputs:
        indices, weights = reference.get_vision_interpolation_indices_and_weights(
            inputs["image_grid_thw"],
            num_grid_per_side=visual.num_grid_per_side,
            mode="bilinear",
            align_corners=True,
            spatial_merge_size=visual.spatial_merge_size,
        )
        table = visual.pos_embed(indices) * weights[:, :, None]
        out["vision.pos"] = table.sum(1).to(visual.dtype).float()
        total = (out["vision.patch_embed"] + out["vision.pos"]).to(visual.dtype).float()
        torch.testing.assert_close(total, out.pop("vision.input"), rtol=0, atol=0)
    out["position_ids"] = positions(model, inputs)
    mask = inputs["attention_mask"]
    for name, value in out.items():
        if name.startswith("text."):  # states at padding are undefined, so zeros are stored
            out[name] = value * mask[..., None]
            if not out[name].isfinite().all():
                raise RuntimeError(f"{name} is not finite")
    out["embedding"] = pool(hidden, mask).float()
    torch.testing.assert_close(
        out["embedding"], pool(out["text.norm"], mask), rtol=0, atol=1e-6 if hidden.dtype == torch.float32 else 4e-3
    )
    return out
