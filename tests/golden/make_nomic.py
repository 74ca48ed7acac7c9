"""Writes nomic/<case>/: tiny NomicBert models with random weights, and the reference's results for them.

The reference is transformers' NomicBertModel with the recipe of nomic-embed-text-v1.5's model card: the mean over the tokens goes
through a layer norm without weights, is cut, and is scaled to length one. The inputs are texts after a task prefix.

    python make_nomic.py                      # write every case
    python make_nomic.py --check-stored       # write nothing; compare the reference with the stored files
    python make_nomic.py --check-sensitivity  # write nothing; make mistakes and require that a case notices each
"""

import argparse
import contextlib
import json
import shutil
from dataclasses import dataclass, field
from pathlib import Path

import torch
import transformers
from safetensors.torch import load_file, save_file
from tokenizers import Tokenizer
from torch.nn.functional import cosine_similarity, layer_norm, normalize
from transformers import NomicBertConfig, NomicBertForMaskedLM, NomicBertModel

from make_text import TEXTS, wordpiece

HERE = Path(__file__).resolve().parent
SEED = 20240920
QUERY, DOCUMENT, OWN = "search_query: ", "search_document: ", "My own: "
CUTS = [4, 12, 24, 32]
# transformers' key -> the key of the model's authors.
AUTHORS = {
    "hidden_size": "n_embd",
    "num_attention_heads": "n_head",
    "num_hidden_layers": "n_layer",
    "intermediate_size": "n_inner",
    "layer_norm_eps": "layer_norm_epsilon",
    "vocab_size": "vocab_size",
    "type_vocab_size": "type_vocab_size",
}


@dataclass
class Case:
    """One directory."""

    about: str
    model: type = NomicBertModel
    config: dict = field(default_factory=dict)
    # config.json as the authors write it, and not as transformers does.
    authors: bool = True
    max_tokens: int = 40
    dtype: torch.dtype = torch.float32


CASES = {
    "authors": Case("like nomic-embed-text-v1.5: the authors' keys, names without a prefix, mean pooling, cut to 40 tokens"),
    "transformers": Case(
        "as transformers saves it, with a head: other heads, another base and epsilon, one type of tokens, weights in bf16",
        NomicBertForMaskedLM,
        config=dict(num_attention_heads=2, num_hidden_layers=2, layer_norm_eps=1e-5, type_vocab_size=1, rope_parameters=dict(rope_type="default", rope_theta=50.0)),
        authors=False,
        max_tokens=32,
        dtype=torch.bfloat16,
    ),
}


@torch.no_grad()
def draw_weights(model: torch.nn.Module, dtype: torch.dtype, generator: torch.Generator) -> None:
    """Random weights. Attention is far from uniform, and no bias is zero."""
    for name, parameter in model.named_parameters():
        noise = torch.randn(parameter.shape, generator=generator)
        if name.endswith("bias"):
            value = 0.3 * noise
        elif "norm" in name.lower():
            value = 1.0 + 0.3 * noise
        elif "embeddings" in name:
            value = noise
        else:
            gain = 2.0 if "q_proj" in name or "k_proj" in name else 1.2
            value = gain * noise / parameter[0].numel() ** 0.5
        # Rounded to the type that the file stores.
        parameter.copy_(value.to(dtype))


def write_model(case: Case, directory: Path, seed: int) -> None:
    directory.mkdir(parents=True)
    vocabulary = wordpiece(directory / "tokenizer.json", lowercase=True)
    sizes = dict(vocab_size=vocabulary, hidden_size=32, num_hidden_layers=3, num_attention_heads=4, intermediate_size=48)
    config = NomicBertConfig(**(sizes | dict(max_position_embeddings=64) | case.config))
    model = case.model(config)
    draw_weights(model, case.dtype, torch.Generator().manual_seed(seed))
    model.to(case.dtype).save_pretrained(directory)
    (directory / "generation_config.json").unlink(missing_ok=True)
    path = directory / "config.json"
    saved = json.loads(path.read_text())
    if case.authors:
        saved = dict(architectures=["NomicBertModel"], model_type="nomic_bert") | {own: saved[key] for key, own in AUTHORS.items()}
        saved |= dict(activation_function="swiglu", causal=False, max_trained_positions=48, n_positions=64, prenorm=False, use_rms_norm=False)
        saved |= dict(mlp_fc1_bias=False, mlp_fc2_bias=False, qkv_proj_bias=False, parallel_block=False)
        saved |= dict(rotary_emb_base=1000, rotary_emb_fraction=1.0, rotary_emb_interleaved=False, rotary_emb_scale_base=None, rotary_scaling_factor=None)
    path.write_text(json.dumps(saved, indent=1, sort_keys=True) + "\n")
    special = dict(cls_token="[CLS]", pad_token="[PAD]", sep_token="[SEP]", unk_token="[UNK]", mask_token="[MASK]")
    settings = dict(tokenizer_class="BertTokenizer", do_lower_case=True, model_max_length=8192)
    (directory / "tokenizer_config.json").write_text(json.dumps(settings | special, indent=1) + "\n")
    library = "sentence_transformers.models."
    modules = [dict(idx=0, name="0", path="", type=library + "Transformer"), dict(idx=1, name="1", path="1_Pooling", type=library + "Pooling")]
    (directory / "modules.json").write_text(json.dumps(modules, indent=1) + "\n")
    (directory / "1_Pooling").mkdir()
    pooling = dict(word_embedding_dimension=32, pooling_mode_cls_token=False, pooling_mode_mean_tokens=True)
    (directory / "1_Pooling/config.json").write_text(json.dumps(pooling, indent=1) + "\n")
    (directory / "sentence_bert_config.json").write_text(json.dumps(dict(max_seq_length=case.max_tokens, do_lower_case=False), indent=1) + "\n")


def load(case: Case, directory: Path) -> NomicBertModel:
    """The model in f32. transformers knows only its own keys, so the authors' keys are mapped back."""
    saved = json.loads((directory / "config.json").read_text())
    if case.authors:
        saved = {key: saved[own] for key, own in AUTHORS.items()} | dict(max_position_embeddings=saved["n_positions"])
    saved.pop("dtype", None)
    config = NomicBertConfig(**saved)
    model, loading = case.model.from_pretrained(directory, config=config, dtype=torch.float32, output_loading_info=True)
    if any(loading[kind] for kind in ("missing_keys", "unexpected_keys", "mismatched_keys")):
        raise SystemExit(f"{directory.name}: {loading}")
    return getattr(model.eval(), "nomic_bert", model)


def token_ids(case: Case, directory: Path, text: str) -> torch.Tensor:
    tokenizer = Tokenizer.from_file(str(directory / "tokenizer.json"))
    tokenizer.enable_truncation(case.max_tokens)
    tokenizer.no_padding()
    return torch.tensor([tokenizer.encode(text).ids])


def recipe(states: torch.Tensor, cut: int) -> torch.Tensor:
    """The vector of a text with these hidden states, [tokens, hidden], cut to `cut` values."""
    pooled = states.mean(0, keepdim=True)
    return normalize(layer_norm(pooled, (pooled.shape[1],))[:, :cut], dim=1)[0]


@torch.no_grad()
def results(case: Case, model, directory: Path, prefix: str = QUERY, cut: int = 32, finish=recipe) -> torch.Tensor:
    """Runs each text alone, so that nothing is padded."""
    states = (model(token_ids(case, directory, prefix + text)).last_hidden_state[0] for text in TEXTS)
    return torch.stack([finish(own, cut) for own in states])


@torch.no_grad()
def expected(case: Case, directory: Path) -> dict[str, torch.Tensor]:
    model = load(case, directory)
    ids = [token_ids(case, directory, QUERY + text)[0] for text in TEXTS]
    out = dict(ids=torch.cat(ids), lengths=torch.tensor([len(own) for own in ids]))
    out["states"] = torch.cat([model(own[None]).last_hidden_state[0] for own in ids])
    for cut in CUTS:
        out[f"result.{cut}"] = results(case, model, directory, cut=cut)
    out["result_document"] = results(case, model, directory, DOCUMENT)
    out["result_own"] = results(case, model, directory, OWN)
    out["result_without_layer_norm"] = results(case, model, directory, finish=lambda states, _: normalize(states.mean(0), dim=0))
    return {name: value.contiguous() for name, value in out.items()}


def mistakes(model):
    """Yields the name of each mistake, a context in which the model makes it, and the recipe to apply."""

    @contextlib.contextmanager
    def changed(parameters, change):
        before = [parameter.data.clone() for parameter in parameters]
        for parameter in parameters:
            parameter.data = change(parameter.data)
        yield
        for parameter, own in zip(parameters, before):
            parameter.data = own

    @contextlib.contextmanager
    def swapped():
        for layer in model.layers:
            layer.mlp.gate_proj, layer.mlp.up_proj = layer.mlp.up_proj, layer.mlp.gate_proj
        yield
        for layer in model.layers:
            layer.mlp.gate_proj, layer.mlp.up_proj = layer.mlp.up_proj, layer.mlp.gate_proj

    def exchange():
        for layer in model.layers:
            own = layer.self_attn
            own.q_proj, own.v_proj = own.v_proj, own.q_proj

    @contextlib.contextmanager
    def misread():
        exchange()
        yield
        exchange()

    def cut_first(states, cut):
        pooled = states.mean(0, keepdim=True)[:, :cut]
        return normalize(layer_norm(pooled, (cut,)), dim=1)[0]

    def first_token(states, cut):
        return recipe(states[:1], cut)

    none = contextlib.nullcontext
    yield "the two halves of SwiGLU swapped", swapped(), recipe
    yield "another order of queries, keys and values", misread(), recipe
    yield "another base of the rotation", changed([model.rotary_emb.inv_freq], lambda own: own.sqrt()), recipe
    yield "the frequencies of the rotation in reverse", changed([model.rotary_emb.inv_freq], lambda own: own.flip(0)), recipe
    yield "no token types", changed([model.embeddings.token_type_embeddings.weight], torch.zeros_like), recipe
    yield "no layer norm", none(), lambda states, cut: normalize(states.mean(0)[:cut], dim=0)
    yield "layer norm after the cut", none(), cut_first
    yield "the first token for the mean", none(), first_token


def check_sensitivity() -> None:
    caught: dict[str, list] = {}
    for name, case in CASES.items():
        directory = HERE / "nomic" / name
        model = load(case, directory)
        stored = load_file(directory / "golden.safetensors")["result.12"]
        for mistake, wrong, finish in mistakes(model):
            with wrong:
                now = results(case, model, directory, cut=12, finish=finish)
            shows = cosine_similarity(now, stored, dim=-1).min() < 0.999
            caught.setdefault(mistake, []).extend([name] if shows else [])
    for mistake, names in caught.items():
        print(f"{mistake}: {', '.join(names)}")
    if not all(caught.values()):
        raise SystemExit("no case notices one of the mistakes")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--check-stored", action="store_true")
    parser.add_argument("--check-sensitivity", action="store_true")
    arguments = parser.parse_args()
    torch.use_deterministic_algorithms(True)
    transformers.logging.set_verbosity_error()
    transformers.logging.disable_progress_bar()
    if arguments.check_sensitivity:
        return check_sensitivity()
    for index, (name, case) in enumerate(CASES.items()):
        directory = HERE / "nomic" / name
        if not arguments.check_stored:
            shutil.rmtree(directory, ignore_errors=True)
            write_model(case, directory, SEED + index)
        out = expected(case, directory)
        if arguments.check_stored:
            stored = load_file(directory / "golden.safetensors")
            worst = max((stored[key].double() - out[key].double()).abs().max().item() for key in stored)
            print(f"{name}: largest difference {worst:.2e}")
            if stored.keys() != out.keys() or worst > 2e-4:
                raise SystemExit(f"{name}: differs")
            continue
        about = dict(about=case.about, seed=SEED + index, inputs=TEXTS, cuts=CUTS)
        (directory / "case.json").write_text(json.dumps(about, indent=1) + "\n")
        save_file(out, directory / "golden.safetensors", metadata={"reference": f"transformers {transformers.__version__}"})
        for path in directory.rglob("*"):
            path.chmod(0o755 if path.is_dir() else 0o644)
        size = sum(path.stat().st_size for path in directory.rglob("*"))
        print(f"{name}: {size // 1024} KiB, lengths {out['lengths'].tolist()}, results {out['result.32'].std(0).mean():.3f}")


if __name__ == "__main__":
    main()
