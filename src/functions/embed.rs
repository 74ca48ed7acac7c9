//! The SQL functions `embed_text`, `embed_image` and `embed`, their forms for arrays, and
//! `photosearch.image_problem`.

use std::path::PathBuf;

use half::f16;
use pgrx::pg_sys::panic::ErrorReport;
use pgrx::prelude::*;
use pgrx::{Array, pg_sys};

use super::decode::{EmbedError, EmbedInput, decode_all};
use super::once::embed_once;
use super::text;
use crate::guc;
use crate::image::{self, ImageError};
use crate::inference::{catalog, model_thread, query_cache};
use crate::model::{Cache, Cancel, Embedder, ModelError, Request};
use crate::types::{
    ArrayArg, ByteaArg, MrlVector, TextArg, VectorArray, VectorDatum, reserve_one, sql_error,
    vector_error,
};
use crate::vector::from_f32s;

/// The size of the batches in which the elements of an array are sent to the model. A batch ends
/// when it has `elements` elements, or when these have at least `bytes` bytes.
struct Batch {
    elements: usize,
    bytes: usize,
}

/// The batch size for pictures. The pictures of a batch are decoded in parallel, and weights that the
/// model has loaded into the CPU caches serve several of them. A batch is small enough that the copies
/// of the encoded pictures take little memory.
const IMAGES: Batch = Batch {
    elements: 8,
    bytes: 64 << 20,
};
/// The batch size for texts. Texts are small, and the model packs them into batches of suitable
/// size itself.
const TEXTS: Batch = Batch {
    elements: 64,
    bytes: 2 << 20,
};

/// A model and an instruction. The model is looked up before anything is sent to the model thread.
struct Target {
    name: String,
    dir: PathBuf,
    instruction: Option<String>,
}

impl Target {
    fn new(
        model: Option<TextArg<'_>>,
        instruction: Option<TextArg<'_>>,
    ) -> Result<Target, ErrorReport> {
        let model = model.ok_or_else(|| {
            sql_error(
                PgSqlErrorCode::ERRCODE_NULL_VALUE_NOT_ALLOWED,
                "model must not be null",
            )
        })?;
        let instruction = instruction.map(|own| text::read(own, "instruction"));
        Target::named(catalog::name(model)?, instruction.transpose()?)
    }

    /// The model that the setting `photosearch.model` names.
    fn from_setting() -> Result<Target, ErrorReport> {
        Target::named(guc::model(), None)
    }

    fn named(name: String, instruction: Option<String>) -> Result<Target, ErrorReport> {
        Ok(Target {
            dir: catalog::find(&name)?,
            name,
            instruction,
        })
    }

    fn embed(&self, contents: Vec<EmbedInput>) -> Result<Vec<Vec<f16>>, ErrorReport> {
        let instruction = self.instruction.clone();
        let limits = guc::image_limits();
        let memory = guc::max_embed_memory();
        let result = self.run(move |embedder, cancel| {
            let images = decode_all(&contents, &limits, embedder, cancel)?;
            let requests: Vec<Request<'_>> = contents
                .iter()
                .zip(&images)
                .map(|(content, images)| Request {
                    text: content.text.as_deref(),
                    images,
                    instruction: instruction.as_deref(),
                })
                .collect();
            embedder
                .embed(&requests, memory, cancel)
                .map_err(EmbedError::Model)
        })?;
        let vectors = result.map_err(|error| self.report(error))?;
        vectors
            .iter()
            .map(|vector| from_f32s(vector).map_err(vector_error))
            .collect()
    }

    /// Runs `job` with the model on the model thread.
    fn run<T: Send + 'static>(
        &self,
        job: impl FnOnce(&dyn Embedder, &Cancel) -> Result<T, EmbedError> + Send + 'static,
    ) -> Result<Result<T, EmbedError>, ErrorReport> {
        let (dir, cache) = (self.dir.clone(), Cache::new(guc::cache_dir()));
        model_thread::run(move |models, cancel| {
            let embedder = models
                .get(&dir, &cache, cancel)
                .map_err(EmbedError::Model)?;
            job(embedder, cancel)
        })
    }

    fn report(&self, error: EmbedError) -> ErrorReport {
        match error {
            EmbedError::Model(error) => catalog::model_error(&self.name, error),
            EmbedError::Image(element, error) => image_error(element, &error),
        }
    }

    /// Returns the reason why `image` cannot be embedded, or `None` if it can. Decodes the picture
    /// without embedding it.
    fn image_problem(&self, image: ByteaArg<'_>) -> Result<Option<String>, ErrorReport> {
        let content = match image_content(image) {
            Ok(content) => content,
            Err(EmbedError::Image(_, error)) if is_about_file(&error) => {
                return Ok(Some(error.to_string()));
            }
            Err(error) => return Err(self.report(error)),
        };
        let limits = guc::image_limits();
        let decoded = self.run(move |embedder, cancel| {
            decode_all(&[content], &limits, embedder, cancel).map(drop)
        })?;
        match decoded {
            Ok(()) => Ok(None),
            Err(EmbedError::Image(_, error)) if is_about_file(&error) => {
                Ok(Some(error.to_string()))
            }
            Err(EmbedError::Model(ModelError::InvalidInput(reason))) => Ok(Some(reason)),
            Err(error) => Err(self.report(error)),
        }
    }

    fn embed_one(&self, content: EmbedInput) -> Result<Vec<f16>, ErrorReport> {
        self.embed(vec![content])?.pop().ok_or_else(|| {
            sql_error(
                PgSqlErrorCode::ERRCODE_INTERNAL_ERROR,
                "the model returned no vector",
            )
        })
    }

    /// Returns the vector of a text, from the session's cache if it was embedded recently.
    fn embed_text(&self, text: String) -> Result<MrlVector, ErrorReport> {
        let cache = Cache::new(guc::cache_dir());
        let embed = |text: String| {
            self.embed_one(EmbedInput {
                text: Some(text),
                ..EmbedInput::default()
            })
        };
        let vector = match cache.recorded(&self.dir) {
            Some(model) => {
                query_cache::get_or_embed(&model, self.instruction.as_deref(), text, embed, || {
                    cache.recorded(&self.dir).as_ref() == Some(&model)
                })?
            }
            None => embed(text)?,
        };
        Ok(MrlVector(vector))
    }

    fn embed_image(&self, image: ByteaArg<'_>) -> Result<MrlVector, ErrorReport> {
        let content = image_content(image).map_err(|error| self.report(error))?;
        self.embed_one(content).map(MrlVector)
    }

    /// Embeds the items in batches and returns the vectors in the same order, with NULL for NULL.
    fn embed_each<T>(
        &self,
        items: impl Iterator<Item = Option<T>>,
        batch: Batch,
        content: impl Fn(T) -> Result<EmbedInput, ErrorReport>,
    ) -> Result<VectorArray, ErrorReport> {
        let mut vectors = VectorArray::default();
        let mut pending: Vec<(usize, EmbedInput)> = Vec::new();
        let mut pending_bytes = 0;
        let flush = |vectors: &mut VectorArray, pending: &mut Vec<(usize, EmbedInput)>| {
            let (positions, contents): (Vec<_>, Vec<_>) = pending.drain(..).unzip();
            if contents.is_empty() {
                return Ok(());
            }
            for (position, vector) in positions.into_iter().zip(self.embed(contents)?) {
                vectors.set(position, MrlVector(vector));
            }
            Ok::<_, ErrorReport>(())
        };
        for item in items {
            vectors.push_null()?;
            if let Some(item) = item {
                let element = vectors.len();
                let content = EmbedInput {
                    element: Some(element),
                    ..content(item).map_err(|report| {
                        report
                            .set_detail(format!("The error is in element {element} of the array."))
                    })?
                };
                pending_bytes += content.bytes();
                pending.push((element - 1, content));
            }
            if pending.len() == batch.elements || pending_bytes >= batch.bytes {
                flush(&mut vectors, &mut pending)?;
                pending_bytes = 0;
            }
        }
        flush(&mut vectors, &mut pending)?;
        Ok(vectors)
    }
}

/// Returns whether an error describes the file, and not the current state of the server.
fn is_about_file(error: &ImageError) -> bool {
    match error {
        ImageError::TooManyBytes { .. }
        | ImageError::TooManyPixels { .. }
        | ImageError::TooLong { .. }
        | ImageError::TooMuchMemory { .. }
        | ImageError::Empty { .. }
        | ImageError::Unsupported { .. }
        | ImageError::Malformed { .. } => true,
        ImageError::OutOfMemory { .. }
        | ImageError::Cancelled
        | ImageError::Resize { .. }
        | ImageError::WrongLength { .. } => false,
    }
}

fn image_error(element: Option<usize>, error: &ImageError) -> ErrorReport {
    let code = match error {
        ImageError::Malformed { .. } | ImageError::Empty { .. } => {
            PgSqlErrorCode::ERRCODE_INVALID_BINARY_REPRESENTATION
        }
        ImageError::Unsupported { .. } => PgSqlErrorCode::ERRCODE_INVALID_PARAMETER_VALUE,
        ImageError::TooManyBytes { .. }
        | ImageError::TooManyPixels { .. }
        | ImageError::TooLong { .. }
        | ImageError::TooMuchMemory { .. } => PgSqlErrorCode::ERRCODE_PROGRAM_LIMIT_EXCEEDED,
        ImageError::OutOfMemory { .. } => PgSqlErrorCode::ERRCODE_OUT_OF_MEMORY,
        ImageError::Cancelled => PgSqlErrorCode::ERRCODE_QUERY_CANCELED,
        ImageError::Resize { .. } | ImageError::WrongLength { .. } => {
            PgSqlErrorCode::ERRCODE_INTERNAL_ERROR
        }
    };
    let report = sql_error(code, error.to_string());
    let report = match element {
        Some(element) => {
            report.set_detail(format!("The error is in element {element} of the array."))
        }
        None => report,
    };
    match error {
        ImageError::TooManyBytes { .. } => {
            report.set_hint("The limit is the setting photosearch.max_image_size.")
        }
        ImageError::TooMuchMemory { .. } => {
            report.set_hint("The limit is the setting photosearch.max_embed_memory.")
        }
        ImageError::Unsupported { .. } => {
            report.set_hint(format!("Supported formats are {}.", image::FORMATS))
        }
        _ => report,
    }
}

#[pg_extern(sql = false)]
fn photosearch_embed_text(
    model: Option<TextArg<'_>>,
    content: Option<TextArg<'_>>,
    instruction: Option<TextArg<'_>>,
    fcinfo: pg_sys::FunctionCallInfo,
) -> Result<Option<VectorDatum>, ErrorReport> {
    let Some(content) = content else {
        return Ok(None);
    };
    let arguments = [
        model.map(|m| m.0),
        Some(content.0),
        instruction.map(|i| i.0),
    ];
    embed_once(fcinfo, &arguments, || {
        Target::new(model, instruction)?.embed_text(text::read(content, "text")?)
    })
    .map(Some)
}

#[pg_extern(sql = false)]
fn photosearch_embed_text_default(
    content: TextArg<'_>,
    fcinfo: pg_sys::FunctionCallInfo,
) -> Result<VectorDatum, ErrorReport> {
    embed_once(fcinfo, &[Some(content.0)], || {
        Target::from_setting()?.embed_text(text::read(content, "text")?)
    })
}

#[pg_extern(sql = false)]
fn photosearch_embed_image(
    model: Option<TextArg<'_>>,
    image: Option<ByteaArg<'_>>,
    instruction: Option<TextArg<'_>>,
    fcinfo: pg_sys::FunctionCallInfo,
) -> Result<Option<VectorDatum>, ErrorReport> {
    let Some(image) = image else {
        return Ok(None);
    };
    let arguments = [model.map(|m| m.0), Some(image.0), instruction.map(|i| i.0)];
    embed_once(fcinfo, &arguments, || {
        Target::new(model, instruction)?.embed_image(image)
    })
    .map(Some)
}

#[pg_extern(sql = false)]
fn photosearch_embed_image_default(
    image: ByteaArg<'_>,
    fcinfo: pg_sys::FunctionCallInfo,
) -> Result<VectorDatum, ErrorReport> {
    embed_once(fcinfo, &[Some(image.0)], || {
        Target::from_setting()?.embed_image(image)
    })
}

fn image_content(image: ByteaArg<'_>) -> Result<EmbedInput, EmbedError> {
    let to_embed_error = |error| EmbedError::Image(None, error);
    // The size is checked before the value is decompressed or fetched.
    check_size(image.0.len()).map_err(to_embed_error)?;
    Ok(EmbedInput {
        images: vec![copy_image(image.0.bytes().as_slice()).map_err(to_embed_error)?],
        ..EmbedInput::default()
    })
}

fn check_size(bytes: usize) -> Result<(), ImageError> {
    let limit = guc::image_limits().max_bytes;
    if bytes > limit {
        return Err(ImageError::TooManyBytes { bytes, limit });
    }
    Ok(())
}

/// Copies an encoded picture, or returns an error if it exceeds the size limit.
fn copy_image(image: &[u8]) -> Result<Vec<u8>, ImageError> {
    check_size(image.len())?;
    let mut copy = Vec::new();
    copy.try_reserve_exact(image.len())
        .map_err(|_| ImageError::OutOfMemory {
            width: 0,
            height: 0,
        })?;
    copy.extend_from_slice(image);
    Ok(copy)
}

/// Returns NULL if the picture is NULL or can be embedded.
#[pg_extern(sql = false)]
fn photosearch_image_problem(
    image: Option<ByteaArg<'_>>,
    model: Option<TextArg<'_>>,
) -> Result<Option<String>, ErrorReport> {
    let Some(image) = image else {
        return Ok(None);
    };
    let target = match model {
        Some(model) => Target::new(Some(model), None)?,
        None => Target::from_setting()?,
    };
    target.image_problem(image)
}

/// Embeds pictures followed by a text. Returns NULL only if there is neither a picture nor a text.
#[pg_extern(sql = false)]
fn photosearch_embed(
    model: Option<TextArg<'_>>,
    content: Option<TextArg<'_>>,
    images: Option<ArrayArg<'_>>,
    instruction: Option<TextArg<'_>>,
    fcinfo: pg_sys::FunctionCallInfo,
) -> Result<Option<VectorDatum>, ErrorReport> {
    // SAFETY: the SQL declaration says bytea[].
    let pictures = images.map(|images| unsafe { images.open::<&[u8]>() });
    let count = pictures.as_ref().map_or(0, Array::len);
    if content.is_none() && count == 0 {
        return Ok(None);
    }
    let arguments = [
        model.map(|m| m.0),
        content.map(|c| c.0),
        images.map(|i| i.0),
        instruction.map(|i| i.0),
    ];
    embed_once(fcinfo, &arguments, || {
        let target = Target::new(model, instruction)?;
        let text = content.map(|content| text::read(content, "text"));
        let text = text.transpose()?;
        if let (Some(text), 0) = (&text, count) {
            return target.embed_text(text.clone());
        }
        let mut images = Vec::new();
        for (index, image) in pictures.iter().flat_map(Array::iter).enumerate() {
            let image = image.ok_or_else(|| {
                sql_error(
                    PgSqlErrorCode::ERRCODE_NULL_VALUE_NOT_ALLOWED,
                    "images must not contain nulls",
                )
            })?;
            let copy = copy_image(image).map_err(|error| image_error(Some(index + 1), &error))?;
            reserve_one(&mut images)?;
            images.push(copy);
        }
        let content = EmbedInput {
            text,
            images,
            element: None,
        };
        target.embed_one(content).map(MrlVector)
    })
    .map(Some)
}

#[pg_extern(sql = false)]
fn photosearch_embed_texts(
    model: Option<TextArg<'_>>,
    contents: Option<ArrayArg<'_>>,
    instruction: Option<TextArg<'_>>,
) -> Result<Option<VectorArray>, ErrorReport> {
    let Some(contents) = contents else {
        return Ok(None);
    };
    let target = Target::new(model, instruction)?;
    // SAFETY: the SQL declaration says text[].
    let contents = unsafe { contents.open::<&str>() };
    let content = |text: &str| {
        Ok(EmbedInput {
            text: Some(text::copy(text)?),
            ..EmbedInput::default()
        })
    };
    target.embed_each(contents.iter(), TEXTS, content).map(Some)
}

#[pg_extern(sql = false)]
fn photosearch_embed_images(
    model: Option<TextArg<'_>>,
    images: Option<ArrayArg<'_>>,
    instruction: Option<TextArg<'_>>,
) -> Result<Option<VectorArray>, ErrorReport> {
    let Some(images) = images else {
        return Ok(None);
    };
    let target = Target::new(model, instruction)?;
    // SAFETY: the SQL declaration says bytea[].
    let images = unsafe { images.open::<&[u8]>() };
    let content = |image: &[u8]| {
        let copy =
            copy_image(image).map_err(|error| target.report(EmbedError::Image(None, error)))?;
        Ok(EmbedInput {
            images: vec![copy],
            ..EmbedInput::default()
        })
    };
    target.embed_each(images.iter(), IMAGES, content).map(Some)
}
