//! `embed_text`, `embed_image`, `embed` and their array forms.

use std::path::PathBuf;

use half::f16;
use pgrx::pg_sys::panic::ErrorReport;
use pgrx::prelude::*;
use pgrx::{Array, pg_sys};
use sha2::{Digest, Sha256};

use super::{catalog, query_cache, worker};
use crate::guc;
use crate::image::{self, ImageError, Limits, RgbImage};
use crate::model::{Cache, Cancel, Embedder, ModelError, Request};
use crate::types::{MrlVector, Prepared, VectorArray, call_site_state, sql_error};
use crate::vector::from_f32s;

/// Pictures of an array that go to the model together: enough to share the weights' way through
/// the caches, few enough that the copies of their encoded bytes stay small.
const IMAGE_BATCH: usize = 8;
/// Encoded bytes of those pictures, from which on they do not wait for more.
const BATCH_BYTES: usize = 64 << 20;
/// Texts of an array likewise: they are small, and the model cuts them into fitting packs itself.
const TEXT_BATCH: usize = 64;

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
    fn new(name: Option<&str>, instruction: Option<&str>) -> Result<Target, ErrorReport> {
        let name = name.ok_or_else(|| {
            sql_error(
                PgSqlErrorCode::ERRCODE_NULL_VALUE_NOT_ALLOWED,
                "model must not be null",
            )
        })?;
        let dir = catalog::find(name)?;
        Ok(Target {
            name: name.to_owned(),
            dir,
            instruction: instruction.map(str::to_owned),
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
            .map(|vector| from_f32s(vector).map_err(ErrorReport::from))
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
    fn image_problem(&self, image: &[u8]) -> Result<Option<String>, ErrorReport> {
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

    /// The one vector of a content. A function that stands in a filter is called for every row,
    /// however stable: what its call site was asked last, it knows.
    fn embed_once(
        &self,
        content: Content,
        fcinfo: pg_sys::FunctionCallInfo,
    ) -> Result<MrlVector, ErrorReport> {
        let mut own = Prepared::default();
        // SAFETY: this call's fcinfo; the functions of this file keep a prepared vector.
        let site: &mut Prepared<Vec<f16>> = unsafe { call_site_state(fcinfo) }.unwrap_or(&mut own);
        let vector = site.get(Some(&self.identity(&content)), || {
            match (&content.text, content.images.as_slice()) {
                (Some(text), []) => {
                    let text = text.clone();
                    let cache = Cache::new(guc::cache_dir());
                    let Some(model) = cache.recorded(&self.dir) else {
                        return self.embed_one(content);
                    };
                    query_cache::get_or_embed(
                        &model,
                        self.instruction.as_deref(),
                        &text,
                        || self.embed_one(content),
                        || cache.recorded(&self.dir).as_ref() == Some(&model),
                    )
                }
                _ => self.embed_one(content),
            }
        })?;
        Ok(MrlVector(vector.clone()))
    }

    /// A hash that stands for the model, the instruction and a content: each part behind its
    /// length. The content itself may be large, and a call site keeps what it is given.
    fn identity(&self, content: &Content) -> Vec<u8> {
        let parts = [
            Some(self.dir.as_os_str().as_encoded_bytes()),
            self.instruction.as_deref().map(str::as_bytes),
            content.text.as_deref().map(str::as_bytes),
        ];
        let images = content.images.iter().map(|image| Some(image.as_slice()));
        let mut hash = Sha256::new();
        for part in parts.into_iter().chain(images) {
            let length = part.map_or(u64::MAX, |part| part.len() as u64);
            hash.update(length.to_ne_bytes());
            hash.update(part.unwrap_or_default());
        }
        hash.finalize().to_vec()
    }

    /// In order, NULL for NULL.
    fn embed_each<T>(
        &self,
        items: impl Iterator<Item = Option<T>>,
        batch: usize,
        content: impl Fn(T) -> Result<Content, EmbedError>,
    ) -> Result<VectorArray, ErrorReport> {
        let mut vectors: Vec<Option<MrlVector>> = Vec::new();
        let mut waiting: Vec<(usize, Content)> = Vec::new();
        let mut waiting_bytes = 0;
        let flush = |vectors: &mut Vec<Option<MrlVector>>, waiting: &mut Vec<(usize, Content)>| {
            let (places, contents): (Vec<_>, Vec<_>) = waiting.drain(..).unzip();
            if contents.is_empty() {
                return Ok(());
            }
            for (place, vector) in places.into_iter().zip(self.embed(contents)?) {
                vectors[place] = Some(MrlVector(vector));
            }
            Ok::<_, ErrorReport>(())
        };
        for item in items {
            vectors.push(None);
            if let Some(item) = item {
                let element = Some(vectors.len());
                let content = match content(item) {
                    Err(EmbedError::Image(_, error)) => Err(EmbedError::Image(element, error)),
                    content => content,
                };
                let content = Content {
                    element,
                    ..content.map_err(|error| self.report(error))?
                };
                waiting_bytes += content.image_bytes();
                waiting.push((vectors.len() - 1, content));
            }
            if waiting.len() == batch || waiting_bytes >= BATCH_BYTES {
                flush(&mut vectors, &mut waiting)?;
                waiting_bytes = 0;
            }
        }
        flush(&mut vectors, &mut waiting)?;
        Ok(VectorArray(vectors))
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
        let mut images = Vec::with_capacity(content.images.len());
        for (index, bytes) in content.images.iter().enumerate() {
            cancel.check().map_err(EmbedError::Model)?;
            let several = (content.images.len() > 1).then_some(index + 1);
            let element = content.element.or(several);
            let in_image = |error| EmbedError::Image(element, error);

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
    model: Option<&str>,
    content: Option<&str>,
    instruction: Option<&str>,
    fcinfo: pg_sys::FunctionCallInfo,
) -> Result<Option<MrlVector>, ErrorReport> {
    let Some(content) = content else {
        return Ok(None);
    };
    let target = Target::new(model, instruction)?;
    target.embed_once(of_text(content), fcinfo).map(Some)
}

#[pg_extern(sql = false)]
fn photosearch_embed_text_default(
    content: &str,
    fcinfo: pg_sys::FunctionCallInfo,
) -> Result<MrlVector, ErrorReport> {
    Target::new(Some(&guc::model()), None)?.embed_once(of_text(content), fcinfo)
}

fn of_text(text: &str) -> Content {
    Content {
        text: Some(text.to_owned()),
        ..Content::default()
    }
}

#[pg_extern(sql = false)]
fn photosearch_embed_image(
    model: Option<&str>,
    image: Option<&[u8]>,
    instruction: Option<&str>,
    fcinfo: pg_sys::FunctionCallInfo,
) -> Result<Option<MrlVector>, ErrorReport> {
    let Some(image) = image else {
        return Ok(None);
    };
    let target = Target::new(model, instruction)?;
    let content = of_image(image).map_err(|error| target.report(error))?;
    target.embed_once(content, fcinfo).map(Some)
}

#[pg_extern(sql = false)]
fn photosearch_embed_image_default(
    image: &[u8],
    fcinfo: pg_sys::FunctionCallInfo,
) -> Result<MrlVector, ErrorReport> {
    let target = Target::new(Some(&guc::model()), None)?;
    let content = of_image(image).map_err(|error| target.report(error))?;
    target.embed_once(content, fcinfo)
}

fn of_image(image: &[u8]) -> Result<Content, EmbedError> {
    Ok(Content {
        images: vec![encoded(image).map_err(|error| EmbedError::Image(None, error))?],
        ..Content::default()
    })
}

/// A copy of an encoded picture, of a length within the limit.
fn encoded(image: &[u8]) -> Result<Vec<u8>, ImageError> {
    let limit = guc::image_limits().max_bytes;
    if image.len() > limit {
        return Err(ImageError::TooManyBytes {
            bytes: image.len(),
            limit,
        });
    }
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
    image: Option<&[u8]>,
    model: Option<&str>,
) -> Result<Option<String>, ErrorReport> {
    let Some(image) = image else {
        return Ok(None);
    };
    let default = guc::model();
    Target::new(Some(model.unwrap_or(&default)), None)?.image_problem(image)
}

/// Pictures, then text. NULL only where there is neither.
#[pg_extern(sql = false)]
fn photosearch_embed(
    model: Option<&str>,
    content: Option<&str>,
    images: Option<Array<'_, &[u8]>>,
    instruction: Option<&str>,
    fcinfo: pg_sys::FunctionCallInfo,
) -> Result<Option<MrlVector>, ErrorReport> {
    let mut copies = Vec::new();
    for (index, image) in images.iter().flat_map(Array::iter).enumerate() {
        let image = image.ok_or_else(|| {
            sql_error(
                PgSqlErrorCode::ERRCODE_NULL_VALUE_NOT_ALLOWED,
                "images must not contain nulls",
            )
        })?;
        copies.push(encoded(image).map_err(|error| image_error(Some(index + 1), &error))?);
    }
    let images = copies;
    if content.is_none() && images.is_empty() {
        return Ok(None);
    }
    let target = Target::new(model, instruction)?;
    let content = Content {
        text: content.map(str::to_owned),
        images,
        element: None,
    };
    target.embed_once(content, fcinfo).map(Some)
}

#[pg_extern(sql = false)]
fn photosearch_embed_texts(
    model: Option<&str>,
    contents: Option<Array<'_, &str>>,
    instruction: Option<&str>,
) -> Result<Option<VectorArray>, ErrorReport> {
    let Some(contents) = contents else {
        return Ok(None);
    };
    let target = Target::new(model, instruction)?;
    target
        .embed_each(contents.iter(), TEXT_BATCH, |text| Ok(of_text(text)))
        .map(Some)
}

#[pg_extern(sql = false)]
fn photosearch_embed_images(
    model: Option<&str>,
    images: Option<Array<'_, &[u8]>>,
    instruction: Option<&str>,
) -> Result<Option<VectorArray>, ErrorReport> {
    let Some(images) = images else {
        return Ok(None);
    };
    Target::new(model, instruction)?
        .embed_each(images.iter(), IMAGE_BATCH, of_image)
        .map(Some)
}
