//! `embed_text`, `embed_image`, `embed` and their array forms.

use std::path::PathBuf;

use half::f16;
use pgrx::pg_sys::panic::ErrorReport;
use pgrx::prelude::*;
use pgrx::{Array, pg_sys};

use super::once::once;
use super::text;
use crate::guc;
use crate::image::{self, ImageError, Limits, RgbImage};
use crate::inference::{catalog, query_cache, worker};
use crate::model::{Cache, Cancel, Embedder, ModelError, Request};
use crate::types::{
    ArrayArg, ByteaArg, MrlVector, TextArg, VectorArray, VectorDatum, reserve_one, sql_error,
    vector_error,
};
use crate::vector::from_f32s;

/// What of an array goes to the model together: so many elements at most, and no more once they have
/// so many bytes.
struct Batch {
    elements: usize,
    bytes: usize,
}

/// Pictures: enough to share the weights' way through the caches, few enough that the copies of their
/// encoded bytes stay small.
const IMAGES: Batch = Batch {
    elements: 8,
    bytes: 64 << 20,
};
/// Texts: they are small, and the model cuts them into fitting packs itself.
const TEXTS: Batch = Batch {
    elements: 64,
    bytes: 2 << 20,
};

/// One thing to embed, owned: it goes to the worker.
#[derive(Default)]
struct Content {
    text: Option<String>,
    /// Encoded pictures.
    images: Vec<Vec<u8>>,
    /// Which element of an array it is, from 1, to be named in an error.
    element: Option<usize>,
}

impl Content {
    /// Length of the encoded pictures.
    fn image_bytes(&self) -> usize {
        self.images.iter().map(Vec::len).sum()
    }

    /// Length of everything.
    fn bytes(&self) -> usize {
        self.image_bytes() + self.text.as_ref().map_or(0, String::len)
    }
}

/// What can go wrong on the worker.
enum EmbedError {
    Model(ModelError),
    /// A picture, and which element of an array it was (from 1), where it came in one.
    Image(Option<usize>, ImageError),
}

/// A model and an instruction, looked up before anything is sent to the worker.
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

    /// The model of the setting `photosearch.model`.
    fn of_setting() -> Result<Target, ErrorReport> {
        Target::named(guc::model(), None)
    }

    fn named(name: String, instruction: Option<String>) -> Result<Target, ErrorReport> {
        Ok(Target {
            dir: catalog::find(&name)?,
            name,
            instruction,
        })
    }

    fn embed(&self, contents: Vec<Content>) -> Result<Vec<Vec<f16>>, ErrorReport> {
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

    /// Runs `job` with the model on the worker's thread.
    fn run<T: Send + 'static>(
        &self,
        job: impl FnOnce(&dyn Embedder, &Cancel) -> Result<T, EmbedError> + Send + 'static,
    ) -> Result<Result<T, EmbedError>, ErrorReport> {
        let (dir, cache) = (self.dir.clone(), Cache::new(guc::cache_dir()));
        worker::run(move |models, cancel| {
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

    /// Why `image` cannot be embedded; `None` where it can. Embeds nothing.
    fn image_problem(&self, image: ByteaArg<'_>) -> Result<Option<String>, ErrorReport> {
        let content = match of_image(image) {
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

    fn embed_one(&self, content: Content) -> Result<Vec<f16>, ErrorReport> {
        self.embed(vec![content])?.pop().ok_or_else(|| {
            sql_error(
                PgSqlErrorCode::ERRCODE_INTERNAL_ERROR,
                "the model returned no vector",
            )
        })
    }

    /// The vector of a text: one that this session has embedded lately, if it has.
    fn embed_text(&self, text: String) -> Result<MrlVector, ErrorReport> {
        let cache = Cache::new(guc::cache_dir());
        let embed = |text: String| {
            self.embed_one(Content {
                text: Some(text),
                ..Content::default()
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
        let content = of_image(image).map_err(|error| self.report(error))?;
        self.embed_one(content).map(MrlVector)
    }

    /// In order, NULL for NULL.
    fn embed_each<T>(
        &self,
        items: impl Iterator<Item = Option<T>>,
        batch: Batch,
        content: impl Fn(T) -> Result<Content, ErrorReport>,
    ) -> Result<VectorArray, ErrorReport> {
        let mut vectors = VectorArray::default();
        let mut waiting: Vec<(usize, Content)> = Vec::new();
        let mut waiting_bytes = 0;
        let flush = |vectors: &mut VectorArray, waiting: &mut Vec<(usize, Content)>| {
            let (places, contents): (Vec<_>, Vec<_>) = waiting.drain(..).unzip();
            if contents.is_empty() {
                return Ok(());
            }
            for (place, vector) in places.into_iter().zip(self.embed(contents)?) {
                vectors.set(place, MrlVector(vector));
            }
            Ok::<_, ErrorReport>(())
        };
        for item in items {
            vectors.push_null()?;
            if let Some(item) = item {
                let element = vectors.len();
                let content = Content {
                    element: Some(element),
                    ..content(item).map_err(|report| {
                        report.set_detail(format!("It is element {element} of the array."))
                    })?
                };
                waiting_bytes += content.bytes();
                waiting.push((element - 1, content));
            }
            if waiting.len() == batch.elements || waiting_bytes >= batch.bytes {
                flush(&mut vectors, &mut waiting)?;
                waiting_bytes = 0;
            }
        }
        flush(&mut vectors, &mut waiting)?;
        Ok(vectors)
    }
}

/// Every picture of every content, at the model's own size where that is smaller. The encoded
/// pictures and those that are decoded already count against the memory of each decoding.
fn decode_all(
    contents: &[Content],
    limits: &Limits,
    embedder: &dyn Embedder,
    cancel: &Cancel,
) -> Result<Vec<Vec<RgbImage>>, EmbedError> {
    if contents.iter().any(|content| !content.images.is_empty()) {
        embedder.check_images().map_err(EmbedError::Model)?;
    }
    let encoded: usize = contents.iter().map(Content::image_bytes).sum();
    let mut limits = Limits {
        held: encoded as u64,
        ..*limits
    };
    let mut all = Vec::with_capacity(contents.len());
    for content in contents {
        let mut images = Vec::new();
        for (index, bytes) in content.images.iter().enumerate() {
            cancel.check().map_err(EmbedError::Model)?;
            let several = (content.images.len() > 1).then_some(index + 1);
            let element = content.element.or(several);
            let in_image = |error| match error {
                // Of memory, the decoders know only that they are to stop.
                ImageError::Cancelled => {
                    EmbedError::Model(cancel.check().err().unwrap_or(ModelError::Cancelled))
                }
                error => EmbedError::Image(element, error),
            };

            let picture = image::open(bytes, &limits).map_err(in_image)?;
            let (width, height) = picture.size();
            let cancelled = || cancel.check().is_err();
            let decoded = match embedder
                .fitted_size(width, height)
                .map_err(EmbedError::Model)?
            {
                Some((width, height)) => picture.decode_to(width, height, &cancelled),
                None => picture.decode(None, &cancelled),
            };
            let image = decoded.map_err(in_image)?;
            limits.held += image.pixels().len() as u64;
            images
                .try_reserve(1)
                .map_err(|_| EmbedError::Model(ModelError::NoMemory))?;
            images.push(image);
        }
        all.push(images);
    }
    Ok(all)
}

/// Whether an error says something about the file, rather than about the server at this moment.
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
        Some(element) => report.set_detail(format!("It is element {element} of the array.")),
        None => report,
    };
    match error {
        ImageError::TooManyBytes { .. } => {
            report.set_hint("The limit is the setting photosearch.max_image_size.")
        }
        ImageError::TooMuchMemory { .. } => {
            report.set_hint("The limit is the setting photosearch.max_embed_memory.")
        }
        ImageError::Unsupported { .. } => report.set_hint(format!("{} are read.", image::FORMATS)),
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
    once(fcinfo, &arguments, || {
        Target::new(model, instruction)?.embed_text(text::read(content, "text")?)
    })
    .map(Some)
}

#[pg_extern(sql = false)]
fn photosearch_embed_text_default(
    content: TextArg<'_>,
    fcinfo: pg_sys::FunctionCallInfo,
) -> Result<VectorDatum, ErrorReport> {
    once(fcinfo, &[Some(content.0)], || {
        Target::of_setting()?.embed_text(text::read(content, "text")?)
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
    once(fcinfo, &arguments, || {
        Target::new(model, instruction)?.embed_image(image)
    })
    .map(Some)
}

#[pg_extern(sql = false)]
fn photosearch_embed_image_default(
    image: ByteaArg<'_>,
    fcinfo: pg_sys::FunctionCallInfo,
) -> Result<VectorDatum, ErrorReport> {
    once(fcinfo, &[Some(image.0)], || {
        Target::of_setting()?.embed_image(image)
    })
}

fn of_image(image: ByteaArg<'_>) -> Result<Content, EmbedError> {
    let no_element = |error| EmbedError::Image(None, error);
    // Before it is decompressed or fetched.
    check_size(image.0.len()).map_err(no_element)?;
    Ok(Content {
        images: vec![encoded(image.0.bytes().as_slice()).map_err(no_element)?],
        ..Content::default()
    })
}

fn check_size(bytes: usize) -> Result<(), ImageError> {
    let limit = guc::image_limits().max_bytes;
    if bytes > limit {
        return Err(ImageError::TooManyBytes { bytes, limit });
    }
    Ok(())
}

/// A copy of an encoded picture, of a length within the limit.
fn encoded(image: &[u8]) -> Result<Vec<u8>, ImageError> {
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

/// NULL for NULL and for what can be embedded.
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
        None => Target::of_setting()?,
    };
    target.image_problem(image)
}

/// Pictures, then text. NULL only where there is neither.
#[pg_extern(sql = false)]
fn photosearch_embed(
    model: Option<TextArg<'_>>,
    content: Option<TextArg<'_>>,
    images: Option<ArrayArg<'_>>,
    instruction: Option<TextArg<'_>>,
    fcinfo: pg_sys::FunctionCallInfo,
) -> Result<Option<VectorDatum>, ErrorReport> {
    // SAFETY: declared as bytea[] in SQL.
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
    once(fcinfo, &arguments, || {
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
            let copy = encoded(image).map_err(|error| image_error(Some(index + 1), &error))?;
            reserve_one(&mut images)?;
            images.push(copy);
        }
        let content = Content {
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
    // SAFETY: declared as text[] in SQL.
    let contents = unsafe { contents.open::<&str>() };
    let content = |text: &str| {
        Ok(Content {
            text: Some(text::copy(text)?),
            ..Content::default()
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
    // SAFETY: declared as bytea[] in SQL.
    let images = unsafe { images.open::<&[u8]>() };
    let content = |image: &[u8]| {
        let copy = encoded(image).map_err(|error| target.report(EmbedError::Image(None, error)))?;
        Ok(Content {
            images: vec![copy],
            ..Content::default()
        })
    };
    target.embed_each(images.iter(), IMAGES, content).map(Some)
}
