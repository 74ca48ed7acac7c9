"""Writes text/<case>/: tiny text models with random weights, and the reference's results for them.

The reference is transformers' BertModel and XLMRobertaModel under sentence-transformers, loaded from the directory written
here. Its inputs are texts; its results are embeddings, or the scores of a cross-encoder. The vocabularies are made from the
sentences below.

    python make_text.py                      # write every case
    python make_text.py --check-stored       # write nothing; compare the reference with the stored files
    python make_text.py --check-sensitivity  # write nothing; make mistakes and require that a case notices each
"""

import argparse
import contextlib
import io
import json
import shutil
import tempfile
from dataclasses import dataclass, field
from pathlib import Path

import sentencepiece
import torch
import transformers
from safetensors.torch import load_file, save_file
from sentence_transformers import CrossEncoder, SentenceTransformer
from sentence_transformers.sentence_transformer.modules import Normalize, Pooling, Transformer
from sentencepiece import sentencepiece_model_pb2
from tokenizers import Regex, Tokenizer, models, normalizers, pre_tokenizers, processors
from transformers import (
    BertConfig,
    BertForMaskedLM,
    BertForSequenceClassification,
    BertModel,
    XLMRobertaConfig,
    XLMRobertaForSequenceClassification,
    XLMRobertaModel,
)

HERE = Path(__file__).resolve().parent
SEED = 20240918

CORPUS = """
A baby laughs in the bath while her sister pours water from a cup.
Grandmother blows out seventy candles on a birthday cake.
Two dogs run along the beach, and the smaller one carries a stick.
We walked up to the lighthouse; the wind took my hat at 15:40!
Snow on the roof, ice on the pond, tea in the kitchen: 3 cups, please.
The red car in front of the garage wasn't ours (it was the neighbour's).
Ein Fahrrad lehnt an der Mauer, daneben schläft eine Katze.
Les enfants jouent au bord de la rivière, près du vieux pont.
El niño mira las estrellas desde la ventana de su habitación.
Бабушка печёт пироги, а кошка спит на подоконнике.
赤ちゃんが庭で笑っている。桜の花が咲いた。
孩子们在公园里放风筝，天空很蓝。
طفل يلعب في الحديقة مع أخته الصغيرة.
Flowers, boats, trees and birds; a train at the station in the rain.
Nobody is in this picture: an empty road, hills, and a long shadow.
""".strip().splitlines()

TEXTS = [
    "a baby",
    "",
    " ",
    "Two dogs on the beach",
    "  BIRTHDAY   cake, with (seventy) candles!!  ",
    "grandmother's garden wasn't empty",
    "Ein Fahrrad und eine Katze schläft",
    "Бабушка печёт пироги",
    "赤ちゃんが笑っている 公园里",
    "طفل في الحديقة",
    "x👶🏽y ﬁsh ＡＢＣ\tcafe\u0301 no\u00a0break\r\nline",
    "the " * 40,
    "a road and hills and " * 30,
    "[SEP] </s> <pad> [PAD] tea",
    "snow",
    "Snow",
    "1234567890 15:40",
    "q" * 120,
]
PAIRS = [
    ("a baby in the bath", "A baby laughs in the bath while her sister pours water."),
    ("a baby in the bath", "The red car in front of the garage."),
    ("", ""),
    ("dogs", ""),
    ("", "dogs"),
    ("long " * 60, "short"),
    ("short", "a road and hills and " * 30),
    ("the long query " * 30, "the long content " * 40),
    ("the long query " * 40, "the long content " * 30),
    ("赤ちゃん", "طفل يلعب في الحديقة مع أخته الصغيرة."),
    ("<pad> tea", "</s> ice [SEP] pond"),
]

SIZES = dict(hidden_size=32, num_hidden_layers=3, num_attention_heads=4, intermediate_size=48)


def wordpiece(path: Path, lowercase: bool) -> int:
    """Writes a tokenizer.json in BERT's style. Returns the size of its vocabulary."""
    normalizer = normalizers.BertNormalizer(lowercase=lowercase)
    splitter = pre_tokenizers.BertPreTokenizer()
    words = {word for line in CORPUS for word, _ in splitter.pre_tokenize_str(normalizer.normalize_str(line))}
    characters = sorted(set("".join(words)))
    # The library's trainer breaks ties at random. So the pieces are chosen here: all letters, every second word, and the endings
    # of the other words.
    pieces = characters + ["##" + character for character in characters]
    for index, word in enumerate(sorted(words)):
        pieces.append(word if index % 2 else "##" + word[-3:])
    special = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"]
    vocabulary = {piece: index for index, piece in enumerate(dict.fromkeys(special + pieces))}
    tokenizer = Tokenizer(models.WordPiece(vocabulary, unk_token="[UNK]", max_input_chars_per_word=100))
    tokenizer.normalizer = normalizer
    tokenizer.pre_tokenizer = splitter
    tokenizer.add_special_tokens(special)
    tokenizer.post_processor = processors.TemplateProcessing(
        single="[CLS] $A [SEP]",
        pair="[CLS] $A [SEP] $B:1 [SEP]:1",
        special_tokens=[(token, tokenizer.token_to_id(token)) for token in ("[CLS]", "[SEP]")],
    )
    # Released files contain truncation and padding settings from their last use, which must be ignored.
    tokenizer.enable_truncation(7)
    tokenizer.enable_padding(length=9)
    tokenizer.save(str(path))
    return tokenizer.get_vocab_size()


def unigram(path: Path) -> int:
    """Writes a tokenizer.json in XLM-RoBERTa's style: SentencePiece's Unigram model with a small normalisation table of our
    own. Returns the size of its vocabulary."""
    rules = {"\t": " ", "\r": "", "\n": " ", "\u00a0": " ", "\u3000": " ", "ﬁ": "fi", "e\u0301": "é"}
    rules |= {chr(0xFF21 + i): chr(0x41 + i) for i in range(26)}
    with tempfile.TemporaryDirectory() as scratch:
        table = Path(scratch) / "rules.tsv"
        code = lambda text: " ".join(f"{ord(c):X}" for c in text)
        table.write_text("".join(f"{code(a)}\t{code(b)}\n" for a, b in rules.items()))
        trained = io.BytesIO()
        sentencepiece.SentencePieceTrainer.train(
            sentence_iterator=iter(CORPUS),
            model_writer=trained,
            model_type="unigram",
            vocab_size=330,
            hard_vocab_limit=False,
            character_coverage=1.0,
            normalization_rule_tsv=str(table),
            remove_extra_whitespaces=True,
            minloglevel=2,
        )
    model = sentencepiece_model_pb2.ModelProto()
    model.ParseFromString(trained.getvalue())
    # XLM-RoBERTa's order of tokens: <s>, <pad>, </s>, <unk>, the pieces, <mask>.
    pieces = [(piece.piece, piece.score) for piece in model.pieces[3:]]
    vocabulary = [("<s>", 0.0), ("<pad>", 0.0), ("</s>", 0.0), ("<unk>", 0.0), *pieces, ("<mask>", 0.0)]
    tokenizer = Tokenizer(models.Unigram(vocabulary, unk_id=3, byte_fallback=False))
    tokenizer.normalizer = normalizers.Sequence(
        [normalizers.Precompiled(model.normalizer_spec.precompiled_charsmap), normalizers.Replace(Regex(" {2,}"), " ")]
    )
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [pre_tokenizers.WhitespaceSplit(), pre_tokenizers.Metaspace(replacement="▁", prepend_scheme="always")]
    )
    tokenizer.add_special_tokens(["<s>", "<pad>", "</s>", "<unk>", "<mask>"])
    tokenizer.post_processor = processors.TemplateProcessing(
        single="<s> $A </s>",
        pair="<s> $A </s> </s> $B </s>",
        special_tokens=[("<s>", 0), ("</s>", 2)],
    )
    tokenizer.save(str(path))
    return tokenizer.get_vocab_size()


@dataclass
class Case:
    """One directory. `modules` are those after the encoder; None means that there is no modules.json."""

    about: str
    model: type
    inputs: list
    config: dict = field(default_factory=dict)
    modules: list | None = None
    max_seq_length: int | None = None  # sentence_bert_config.json
    model_max_length: int = 512  # tokenizer_config.json
    lower: bool = False
    prompts: dict | None = None
    default_prompt: str | None = None
    edit: dict = field(default_factory=dict)  # changes to config.json
    new_pooling: bool = False  # the pooling configuration is spelled as sentence-transformers 5 writes it

    @property
    def xlm(self) -> bool:
        return self.model.__name__.startswith("XLM")

    @property
    def scores(self) -> bool:
        return self.model.__name__.endswith("ForSequenceClassification")


CASES = {
    "bert_mean": Case(
        "like all-MiniLM-L6-v2: names without a prefix, mean pooling, Normalize, cut to 24 tokens",
        BertModel,
        TEXTS,
        modules=["mean", "Normalize"],
        max_seq_length=24,
    ),
    "bert_bare": Case(
        "a masked language model: names with `bert.`, no modules.json (so mean pooling), cut at the tokenizer's limit",
        BertForMaskedLM,
        TEXTS,
        config=dict(num_hidden_layers=1, num_attention_heads=2, hidden_act="gelu_pytorch_tanh"),
        model_max_length=20,
    ),
    "bert_prompts": Case(
        "prompts with a default prompt, text lowered before the tokenizer, CLS pooling without Normalize",
        BertModel,
        TEXTS,
        config=dict(num_hidden_layers=1),
        modules=["cls"],
        max_seq_length=32,
        lower=True,
        prompts={"query": "find: ", "passage": "Picture of ", "none": ""},
        default_prompt="passage",
        new_pooling=True,
    ),
    "xlm_roberta_cls": Case(
        "like bge-m3: names without a prefix, CLS pooling, Normalize, one segment, positions after that of the padding",
        XLMRobertaModel,
        TEXTS,
        modules=["cls", "Normalize"],
        max_seq_length=60,
    ),
    "xlm_roberta_rerank": Case(
        "like bge-reranker-v2-m3: names with `roberta.`, one label, sigmoid",
        XLMRobertaForSequenceClassification,
        PAIRS,
        model_max_length=40,
    ),
    "bert_rerank": Case(
        "like ms-marco-MiniLM: two segments, a score without an activation function",
        BertForSequenceClassification,
        PAIRS,
        config=dict(num_hidden_layers=2),
        model_max_length=33,
        edit=dict(sbert_ce_default_activation_function="torch.nn.modules.linear.Identity"),
    ),
}


@torch.no_grad()
def draw_weights(model: torch.nn.Module, generator: torch.Generator) -> None:
    """Random weights. Attention is far from uniform, and no bias is zero."""
    for name, parameter in model.named_parameters():
        noise = torch.randn(parameter.shape, generator=generator)
        if name.endswith("bias"):
            value = 0.3 * noise
        elif "LayerNorm" in name:
            value = 1.0 + 0.3 * noise
        elif "embeddings" in name:
            value = noise
        else:
            gain = 2.0 if "query" in name or "key" in name else 1.2
            value = gain * noise / parameter[0].numel() ** 0.5
        parameter.copy_(value)
    # torch would leave the embedding and the position of the padding token at zero. They are drawn, too, so that a wrong use of
    # them changes the results.


def write_model(case: Case, directory: Path, seed: int) -> None:
    directory.mkdir(parents=True)
    tokenizer = directory / "tokenizer.json"
    # If sentence-transformers lowers the case (do_lower_case), the tokenizer does not.
    vocabulary = unigram(tokenizer) if case.xlm else wordpiece(tokenizer, lowercase=not case.lower)
    config = SIZES | dict(vocab_size=vocabulary) | case.config
    if case.xlm:
        config |= dict(max_position_embeddings=64, type_vocab_size=1, layer_norm_eps=1e-5)
        config |= dict(pad_token_id=1, bos_token_id=0, eos_token_id=2)
    else:
        config |= dict(max_position_embeddings=48)
    if case.scores:
        config |= dict(num_labels=1)
    model = case.model((XLMRobertaConfig if case.xlm else BertConfig)(**config))
    draw_weights(model, torch.Generator().manual_seed(seed))
    model.save_pretrained(directory)
    path = directory / "config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | case.edit, indent=1) + "\n")
    (directory / "generation_config.json").unlink(missing_ok=True)
    special = dict(zip(("cls_token", "pad_token", "sep_token", "unk_token", "mask_token"), ("<s>", "<pad>", "</s>", "<unk>", "<mask>") if case.xlm else ("[CLS]", "[PAD]", "[SEP]", "[UNK]", "[MASK]")))
    settings = dict(tokenizer_class="XLMRobertaTokenizer" if case.xlm else "BertTokenizer", model_max_length=case.model_max_length)
    if not case.xlm:
        settings["do_lower_case"] = not case.lower  # overrides tokenizer.json
    (directory / "tokenizer_config.json").write_text(json.dumps(settings | special, indent=1) + "\n")
    if case.modules is not None:
        library = "sentence_transformers.models."
        modules = [dict(idx=0, name="0", path="", type=library + "Transformer")]
        for name in case.modules:
            kind = name if name == "Normalize" else "Pooling"
            index = len(modules)
            modules.append(dict(idx=index, name=str(index), path=f"{index}_{kind}", type=library + kind))
            if kind == "Pooling":
                (directory / f"{index}_Pooling").mkdir()
                if case.new_pooling:
                    pooling = dict(embedding_dimension=config["hidden_size"], pooling_mode=name, include_prompt=True)
                else:
                    pooling = dict(word_embedding_dimension=config["hidden_size"])
                    pooling |= {f"pooling_mode_{mode}": mode.startswith(name) for mode in ("cls_token", "mean_tokens", "max_tokens", "mean_sqrt_len_tokens")}
                    pooling["pooling_mode_mean_sqrt_len_tokens"] = False
                (directory / f"{index}_Pooling/config.json").write_text(json.dumps(pooling, indent=1) + "\n")
        (directory / "modules.json").write_text(json.dumps(modules, indent=1) + "\n")
        (directory / "sentence_bert_config.json").write_text(json.dumps(dict(max_seq_length=case.max_seq_length, do_lower_case=case.lower), indent=1) + "\n")
        about = {"__version__": {"sentence_transformers": "2.0.0"}}
        if case.prompts is not None:
            about |= dict(prompts=case.prompts, default_prompt_name=case.default_prompt)
        (directory / "config_sentence_transformers.json").write_text(json.dumps(about, indent=1) + "\n")


def load(case: Case, directory: Path):
    with contextlib.redirect_stderr(io.StringIO()):
        cls = CrossEncoder if case.scores else SentenceTransformer
        return cls(str(directory), device="cpu", local_files_only=True)


def encoder(model) -> torch.nn.Module:
    inner = model[0].model
    return getattr(inner, inner.base_model_prefix, inner)


@torch.no_grad()
def outputs(case: Case, model, item, prompt: dict) -> torch.Tensor:
    if case.scores:
        return torch.tensor(model.predict([item])).reshape(1)
    return model.encode(item, convert_to_tensor=True, **prompt).cpu()


@torch.no_grad()
def expected(case: Case, directory: Path) -> dict[str, torch.Tensor]:
    """Runs each input alone, so that nothing is padded. Returns lengths, ids, states and results."""
    model = load(case, directory)
    states: dict[str, list] = {}
    lengths, ids, results = [], [], []

    def keep(name):
        def hook(_module, _args, output):
            output = output[0] if isinstance(output, tuple) else output
            states.setdefault(name, []).append(output[0].float().clone())

        return hook

    # sentence-transformers may call the encoder's forward directly, which skips its hooks. Those of its embeddings always run.
    def seen(_module, _args, kwargs):
        ids.append(kwargs["input_ids"][0].clone())

    inner = encoder(model)
    inner.embeddings.register_forward_pre_hook(seen, with_kwargs=True)
    inner.embeddings.register_forward_hook(keep("embedded"))
    for index, layer in enumerate(inner.encoder.layer):
        layer.register_forward_hook(keep(f"layer.{index}"))
    for item in case.inputs:
        results.append(outputs(case, model, item, {}))
        lengths.append(len(ids[-1]))
    out = {name: torch.cat(parts) for name, parts in states.items()}
    out |= dict(ids=torch.cat(ids), lengths=torch.tensor(lengths), result=torch.stack(results))
    if case.prompts is not None:
        # The same texts under a prompt given by name, and under a prompt given as text.
        for key, prompt in (("result_query", dict(prompt_name="query")), ("result_own", dict(prompt="My own: "))):
            out[key] = torch.stack([outputs(case, model, item, prompt) for item in case.inputs])
    return {name: value.contiguous() for name, value in out.items()}


def mistakes(case: Case, model):
    """Yields the name of each mistake and a context in which the model makes it."""
    inner = encoder(model)

    @contextlib.contextmanager
    def rolled(parameter, shift):
        before = parameter.data.clone()
        parameter.data = torch.roll(before, shift, 0)
        yield
        parameter.data = before

    @contextlib.contextmanager
    def without(parameter):
        before = parameter.data.clone()
        parameter.data = torch.zeros_like(before)
        yield
        parameter.data = before

    @contextlib.contextmanager
    def unscaled():
        layers = [layer.attention.self for layer in inner.encoder.layer]
        for layer in layers:
            layer.scaling *= layer.attention_head_size**0.5
        yield
        for layer in layers:
            layer.scaling /= layer.attention_head_size**0.5

    @contextlib.contextmanager
    def pooled(mode):
        module = next(module for module in model if isinstance(module, Pooling))
        before, module.pooling_mode = module.pooling_mode, mode
        yield
        module.pooling_mode = before

    yield "positions off by one", rolled(inner.embeddings.position_embeddings.weight, 1)
    yield "no segment embedding", without(inner.embeddings.token_type_embeddings.weight)
    yield "scores not scaled", unscaled()
    if not case.scores:
        yield "mean for CLS", pooled("mean")
        yield "CLS for mean", pooled("cls")


def check_sensitivity() -> None:
    caught: dict[str, list] = {}
    for name, case in CASES.items():
        model = load(case, HERE / "text" / name)
        stored = load_file(HERE / "text" / name / "golden.safetensors")["result"]
        for mistake, wrong in mistakes(case, model):
            with wrong:
                now = torch.stack([outputs(case, model, item, {}) for item in case.inputs])
            if case.scores:
                shows = (now - stored).abs().max() > 1e-3
            else:
                shows = torch.nn.functional.cosine_similarity(now, stored, dim=-1).min() < 0.999
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
        directory = HERE / "text" / name
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
        about = dict(about=case.about, seed=SEED + index, inputs=case.inputs)
        (directory / "case.json").write_text(json.dumps(about, indent=1) + "\n")
        save_file(out, directory / "golden.safetensors", metadata={"reference": f"transformers {transformers.__version__}"})
        for path in directory.rglob("*"):
            path.chmod(0o755 if path.is_dir() else 0o644)
        size = sum(path.stat().st_size for path in directory.rglob("*"))
        print(f"{name}: {size // 1024} KiB, lengths {out['lengths'].tolist()}, results {out['result'].std(0).mean():.3f}")


if __name__ == "__main__":
    main()
