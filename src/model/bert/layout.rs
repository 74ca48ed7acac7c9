//! Reads the files that sentence-transformers stores beside a checkpoint: the modules after the
//! encoder, the pooling mode, the maximum length, and the prompts. Compared with
//! sentence-transformers 6.2 in tests (`tests/golden/text/`).
//!
//! A directory without `modules.json` is read as sentence-transformers reads it: as a cross-encoder
//! if `config.json` names a sequence classifier, else as an encoder with mean pooling.

use std::collections::BTreeMap;

use serde::Deserialize;
use serde::de::IgnoredAny;

use super::config::BertConfig;
use crate::ModelError;
use crate::directory::{Directory, is_plain_file_name};

const MODULES: &str = "modules.json";
const SENTENCE_TRANSFORMERS: &str = "config_sentence_transformers.json";
const TOKENIZER_CONFIG: &str = "tokenizer_config.json";
/// Files with the encoder's settings; the first that exists is used.
const ENCODER_SETTINGS: [&str; 3] = [
    "sentence_bert_config.json",
    "sentence_roberta_config.json",
    "sentence_xlm-roberta_config.json",
];
/// Names of prompts that every model has; their default text is empty.
const KNOWN_PROMPTS: [&str; 2] = ["query", "document"];

/// How the hidden states of a sequence are pooled into one vector. Vectors are always normalised,
/// because similarity here is the cosine, which ignores a vector's length. (Without the module
/// `Normalize`, sentence-transformers returns a vector of the same direction and another length.)
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Pooling {
    /// The first token's hidden state.
    First,
    /// The mean of the hidden states.
    Mean,
}

/// The function applied to a cross-encoder's output.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum ScoreActivation {
    /// `1 / (1 + exp(-x))`, the default of sentence-transformers if the model names no function.
    Sigmoid,
    Identity,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum ModelTask {
    Embed(Pooling),
    Score(ScoreActivation),
}

#[derive(Debug)]
pub(crate) struct TextModelLayout {
    pub task: ModelTask,
    pub prompts: Prompts,
    /// Number of tokens to which a longer input is truncated, if the files specify it.
    pub max_tokens: Option<usize>,
    /// Whether texts are converted to lower case before tokenization.
    pub lowercase: bool,
}

#[derive(Deserialize)]
struct Module {
    #[serde(rename = "type")]
    class: String,
    path: String,
}

/// The contents of `sentence_bert_config.json`.
#[derive(Default, Deserialize)]
#[serde(default)]
struct TransformerSettings {
    max_seq_length: Option<usize>,
    do_lower_case: bool,
    processing_kwargs: Option<BTreeMap<String, IgnoredAny>>,
}

#[derive(Default, Deserialize)]
#[serde(default)]
struct TokenizerSettings {
    /// 1e30 means "no limit".
    model_max_length: Option<f64>,
}

/// The contents of `config_sentence_transformers.json`.
#[derive(Default, Deserialize)]
#[serde(default)]
struct SentenceTransformersSettings {
    prompts: BTreeMap<String, Option<String>>,
    default_prompt_name: Option<String>,
    activation_fn: Option<String>,
}

#[derive(Deserialize)]
struct PoolingSettings {
    /// The key since version 5.
    pooling_mode: Option<Modes>,
    #[serde(default = "yes")]
    include_prompt: bool,
    /// The keys before version 5: `pooling_mode_mean_tokens` and the like, true or false.
    #[serde(flatten)]
    rest: BTreeMap<String, serde_json::Value>,
}

fn yes() -> bool {
    true
}

#[derive(Deserialize)]
#[serde(untagged)]
enum Modes {
    One(String),
    Several(Vec<String>),
}

/// Texts that are prepended to an input, by name.
#[derive(Debug, Default)]
pub(crate) struct Prompts {
    by_name: BTreeMap<String, Option<String>>,
    default_name: Option<String>,
}

impl TextModelLayout {
    /// The layout of a family without cross-encoders, and its pooling.
    pub fn of_embedder(directory: &Directory) -> Result<(Pooling, Self), ModelError> {
        let layout = Self::with(directory, None)?;
        match layout.task {
            ModelTask::Embed(pooling) => Ok((pooling, layout)),
            ModelTask::Score(_) => Err(unsupported(NO_POOLING)),
        }
    }

    pub(super) fn read(directory: &Directory, config: &BertConfig) -> Result<Self, ModelError> {
        Self::with(directory, Some(config))
    }

    /// `config` is `None` for a family without cross-encoders.
    fn with(directory: &Directory, config: Option<&BertConfig>) -> Result<Self, ModelError> {
        let modules: Option<Vec<Module>> = match directory.has(MODULES)? {
            true => Some(directory.json(MODULES)?),
            false => None,
        };
        let mut settings = SentenceTransformersSettings::default();
        let mut transformer = TransformerSettings::default();
        if modules.is_some() {
            settings = directory.optional_json(SENTENCE_TRANSFORMERS)?;
            for name in ENCODER_SETTINGS {
                if directory.has(name)? {
                    transformer = directory.json(name)?;
                    break;
                }
            }
        }
        if let Some(given) = &transformer.processing_kwargs
            && !given.is_empty()
        {
            return Err(unsupported("processing_kwargs are not supported"));
        }
        let tokenizer: TokenizerSettings = directory.optional_json(TOKENIZER_CONFIG)?;
        let pooling = match &modules {
            None if config.is_some_and(BertConfig::is_classifier) => None,
            None => Some(Pooling::Mean),
            Some(modules) => pooling(directory, modules)?,
        };
        let prompts = Prompts {
            by_name: settings.prompts,
            default_name: settings.default_prompt_name,
        };
        let task = match pooling {
            Some(pooling) => ModelTask::Embed(pooling),
            None => {
                let config = config.ok_or_else(|| unsupported(NO_POOLING))?;
                check_cross_encoder(config, &prompts)?;
                let class = settings.activation_fn.as_deref();
                ModelTask::Score(score_activation(class.or(config.score_activation()))?)
            }
        };
        let limit = tokenizer.model_max_length.map(|limit| limit as usize);
        Ok(Self {
            task,
            prompts,
            max_tokens: transformer.max_seq_length.or(limit),
            lowercase: transformer.do_lower_case,
        })
    }
}

impl Prompts {
    /// Adds prompts that the directory does not define, and a default if it names none.
    pub fn or(mut self, prompts: &[(&str, &str)], default: &str) -> Self {
        for (name, text) in prompts {
            let own = self.by_name.entry((*name).to_owned());
            own.or_insert_with(|| Some((*text).to_owned()));
        }
        self.default_name.get_or_insert_with(|| default.to_owned());
        self
    }

    /// The text to prepend to an input, as `encode(prompt_name=…)` or `encode(prompt=…)` does. If
    /// the instruction is the name of a prompt, the result is that prompt. Any other instruction is
    /// itself the prompt, unchanged, including trailing spaces. A blank instruction gives the
    /// default prompt, or nothing if there is none.
    pub fn prefix<'a>(&'a self, instruction: Option<&'a str>) -> &'a str {
        let named = |name: &str| {
            let known = KNOWN_PROMPTS.contains(&name).then_some("");
            let prompt = self.by_name.get(name);
            prompt
                .map(|text| text.as_deref().unwrap_or_default())
                .or(known)
        };
        match instruction.filter(|instruction| !instruction.trim().is_empty()) {
            Some(instruction) => named(instruction).unwrap_or(instruction),
            None => self.default_name.as_deref().and_then(named).unwrap_or(""),
        }
    }
}

const NO_POOLING: &str = "modules.json names no pooling module";

fn unsupported(reason: impl Into<String>) -> ModelError {
    ModelError::UnsupportedModel(reason.into())
}

/// The last component of a dotted class name. The module path of a class differs between versions
/// of sentence-transformers.
fn class_name(dotted: &str) -> &str {
    dotted.rsplit('.').next().unwrap_or(dotted)
}

/// `None` if the modules contain only the encoder.
fn pooling(directory: &Directory, modules: &[Module]) -> Result<Option<Pooling>, ModelError> {
    let mut found = None;
    for (i, module) in modules.iter().enumerate() {
        match (i, class_name(&module.class)) {
            (0, "Transformer") if module.path.is_empty() => {}
            (0, "Transformer") => {
                return Err(unsupported(format!(
                    "an encoder in a subdirectory (\"{}\") is not supported",
                    module.path
                )));
            }
            (1, "Pooling") => found = Some(read_pooling(directory, &module.path)?),
            (2.., "Normalize") => {}
            (_, other) => {
                return Err(unsupported(format!(
                    "module \"{other}\" at index {i} of {MODULES} is not supported (known: Transformer, then Pooling, then Normalize)"
                )));
            }
        }
    }
    Ok(found)
}

fn read_pooling(directory: &Directory, path: &str) -> Result<Pooling, ModelError> {
    if !is_plain_file_name(path) {
        return Err(ModelError::malformed(
            MODULES,
            format!("\"{path}\" is not the name of a directory in the model's directory"),
        ));
    }
    let settings: PoolingSettings = directory.json(&format!("{path}/config.json"))?;
    if !settings.include_prompt {
        return Err(unsupported(
            "pooling without the prompt's tokens (include_prompt) is not supported",
        ));
    }
    let modes: Vec<String> = match settings.pooling_mode {
        Some(Modes::One(mode)) => vec![mode],
        Some(Modes::Several(modes)) => modes,
        None => settings
            .rest
            .iter()
            .filter(|(_, value)| value.as_bool() == Some(true))
            .filter_map(|(key, _)| key.strip_prefix("pooling_mode_"))
            .map(|mode| mode.strip_suffix("_tokens").unwrap_or(mode))
            .map(|mode| mode.strip_suffix("_token").unwrap_or(mode).to_owned())
            .collect(),
    };
    match modes.iter().map(String::as_str).collect::<Vec<_>>()[..] {
        ["cls"] => Ok(Pooling::First),
        // Mean is the default of sentence-transformers.
        ["mean"] | [] => Ok(Pooling::Mean),
        _ => Err(unsupported(format!(
            "pooling \"{}\" is not supported (known: cls, mean)",
            modes.join(" + ")
        ))),
    }
}

fn check_cross_encoder(config: &BertConfig, prompts: &Prompts) -> Result<(), ModelError> {
    if !config.is_classifier() {
        return Err(unsupported(format!(
            "{MODULES} names no pooling module, and {} names no sequence classifier",
            crate::directory::CONFIG
        )));
    }
    let labels = config.labels();
    if labels != 1 {
        return Err(unsupported(format!(
            "a classifier of {labels} labels is not supported: a cross-encoder has one"
        )));
    }
    if !prompts.prefix(None).is_empty() {
        return Err(unsupported("a cross-encoder's prompt is not supported"));
    }
    Ok(())
}

fn score_activation(class: Option<&str>) -> Result<ScoreActivation, ModelError> {
    match class.map(class_name) {
        None | Some("Sigmoid") => Ok(ScoreActivation::Sigmoid),
        Some("Identity") => Ok(ScoreActivation::Identity),
        Some(other) => Err(unsupported(format!(
            "activation \"{other}\" of a cross-encoder is not supported (known: Sigmoid, Identity)"
        ))),
    }
}
