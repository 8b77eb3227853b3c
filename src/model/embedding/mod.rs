//! An embedding model: a folder of sentence-transformers with an ONNX graph, in a session of its own.
//!
//! It runs on the CPU whatever the generating model runs on, with few threads that do not spin: the steps
//! of answers run beside it. The graph takes `input_ids`, `attention_mask` and, where it has them,
//! `token_type_ids` and `position_ids`, all `[batch, sequence]` of 64-bit integers. It gives
//! `sentence_embedding` (`[batch, size]`), or `last_hidden_state` or `token_embeddings`
//! (`[batch, sequence, size]`), which are pooled as the folder says. Inputs are padded at the right.

mod folder;
mod pooling;

use std::path::{Path, PathBuf};
use std::sync::Arc;

use ort::session::{Session, SessionInputValue};
use ort::value::{DynValue, Tensor, TensorElementType, ValueType};

use super::error::{LoadError, RunError, lacks_threads};
use super::runner::Interrupt;
use super::stop::{LoadCancel, Terminator};
use super::{external, inspect, session};

pub use folder::{EmbeddingFolder, Shorter};
pub use pooling::{Pooling, normalise};

/// What the inputs of a graph may be called.
const INPUTS: [&str; 4] = ["input_ids", "attention_mask", "token_type_ids", "position_ids"];

/// What the output is called, the likeliest first.
const OUTPUTS: [&str; 3] = ["sentence_embedding", "last_hidden_state", "token_embeddings"];

/// Operators whose scale is that of the whole batch, so that a text's vector would depend on the others.
const OF_THE_BATCH: &str = "DynamicQuantize";

/// How to load an embedding model.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct EmbeddingOptions {
    /// The model's folder.
    pub folder: PathBuf,
    /// Threads of a run.
    pub threads: usize,
    /// Tokens of the longest input; 0 is the model's own limit, at most 2,048.
    pub max_tokens: usize,
    /// ONNX Runtime's shared library; `None` looks for it (see [`super::library_search_path`]).
    pub runtime_library: Option<PathBuf>,
}

/// A loaded embedding model.
pub struct EmbeddingModel {
    session: Session,
    terminator: Arc<Terminator>,
    folder: EmbeddingFolder,
    inputs: Vec<&'static str>,
    output: &'static str,
    dimensions: usize,
    batches: bool,
}

impl std::fmt::Debug for EmbeddingModel {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("EmbeddingModel").field("folder", &self.folder).finish_non_exhaustive()
    }
}

impl EmbeddingModel {
    /// Loads ONNX Runtime and the model, and runs it once.
    ///
    /// # Errors
    /// Everything that can be wrong with the library, the folder or the model.
    pub fn load(options: &EmbeddingOptions, cancel: &LoadCancel) -> Result<Self, LoadError> {
        let folder = EmbeddingFolder::read(&options.folder, options.max_tokens)?;
        let path = folder.graph.clone();
        let invalid = |reason: String| LoadError::Invalid { path: path.clone(), reason };
        let graph = std::fs::read(&path)
            .map_err(|source| LoadError::Read { path: path.clone(), source })?;
        let home = path.parent().unwrap_or(&options.folder);
        let (graph, weights) = external::follow(&graph, home)
            .map_err(invalid)?
            .unwrap_or_else(|| (graph, home.to_path_buf()));
        // Such a scale is that of the largest value in the batch, padding and other texts included.
        let depends = inspect::graph::has_operator(&graph, OF_THE_BATCH);
        let batches = !depends.map_err(|damage| invalid(damage.to_string()))?;
        let library = options.runtime_library.as_deref();
        let mut builder = session::embedding(options.threads, library, &weights)?;
        cancel.reach(builder.canceler())?;
        let session = builder.commit_from_memory(&graph).map_err(|error| {
            let reason = error.to_string();
            match (cancel.is_cancelled(), lacks_threads(&reason)) {
                (true, _) => LoadError::Cancelled,
                (false, true) => LoadError::Threads { reason },
                (false, false) => invalid(reason),
            }
        })?;
        drop(graph);
        let inputs = inputs_of(&session).map_err(invalid)?;
        let output = output_of(&session).map_err(invalid)?;
        if let Some(module) = folder.unsupported.as_ref().filter(|_| output != OUTPUTS[0]) {
            return Err(LoadError::Invalid {
                path: folder.folder.join("modules.json"),
                reason: format!(
                    "the module {module} is not supported; expected Transformer, Pooling and \
                     Normalize, or a graph with the output {}",
                    OUTPUTS[0]
                ),
            });
        }
        let terminator = Arc::new(Terminator::new()?);
        let mut model =
            Self { session, terminator, folder, inputs, output, dimensions: 0, batches };
        model.try_out()?;
        Ok(model)
    }

    /// Runs two texts of different lengths: what does not fit shows now and not at the first request.
    fn try_out(&mut self) -> Result<(), LoadError> {
        let path = self.folder.graph.clone();
        let invalid = |reason| LoadError::Invalid { path: path.clone(), reason };
        // Token 0 is in every vocabulary.
        let texts: &[&[u32]] = &[&[0, 0, 0], &[0]];
        let vectors = match self.run(texts) {
            Ok(vectors) => vectors,
            Err(error) => return Err(invalid(format!("a trial run failed: {error}"))),
        };
        let sizes: Vec<usize> = vectors.iter().map(Vec::len).collect();
        if sizes[0] == 0 || sizes.iter().any(|size| *size != sizes[0]) {
            return Err(invalid(format!("a trial run gave vectors of {sizes:?} numbers")));
        }
        if !vectors.iter().flatten().all(|number| number.is_finite()) {
            return Err(invalid("a trial run gave a number that is not finite".into()));
        }
        self.dimensions = sizes[0];
        Ok(())
    }

    /// What its folder says.
    #[must_use]
    pub fn folder(&self) -> &EmbeddingFolder {
        &self.folder
    }

    /// Numbers of a vector.
    #[must_use]
    pub fn dimensions(&self) -> usize {
        self.dimensions
    }

    /// Token ids below this are known, if the folder says so.
    #[must_use]
    pub fn vocab_size(&self) -> Option<usize> {
        self.folder.vocab_size
    }

    /// Whether texts can share a run without any effect on their vectors.
    #[must_use]
    pub fn batches(&self) -> bool {
        self.batches
    }

    /// Interrupts the running and every later run.
    #[must_use]
    pub fn interrupt(&self) -> Arc<dyn Interrupt> {
        Arc::<Terminator>::clone(&self.terminator)
    }

    /// The vectors of `texts`, each of at least one token.
    ///
    /// # Errors
    /// If it was interrupted, or ONNX Runtime reports an error.
    pub fn run(&mut self, texts: &[&[u32]]) -> Result<Vec<Vec<f32>>, RunError> {
        let Self { session, terminator, folder, inputs: names, output: name, .. } = self;
        let options = terminator.options()?;
        let failed = |error: ort::Error| terminator.reason(&error);
        let width = texts.iter().map(|text| text.len()).max().unwrap_or(0);
        let mut inputs = Vec::with_capacity(names.len());
        for name in &*names {
            // As wide as the longest of this run: attention over padding would be work for nothing.
            let numbers = folder.padded(name, texts, width);
            let tensor = Tensor::from_array(([texts.len(), width], numbers)).map_err(failed)?;
            inputs.push((*name, SessionInputValue::from(tensor)));
        }
        let outputs = session.run_with_options(inputs, options).map_err(failed)?;
        let missing = || RunError::Runtime(format!("the graph gave no {name}"));
        let (shape, numbers) =
            numbers(outputs.get(&**name).ok_or_else(missing)?).map_err(failed)?;
        folder.vectors(&shape, &numbers, texts).ok_or_else(|| {
            let (texts, shape) = (texts.len(), &shape);
            RunError::Runtime(format!(
                "{name} has the shape {shape:?} for {texts} texts of {width} tokens"
            ))
        })
    }
}

impl EmbeddingFolder {
    /// The vectors of `texts` from an output of `shape`; `None` if it is not one of theirs.
    fn vectors(&self, shape: &[i64], numbers: &[f32], texts: &[&[u32]]) -> Option<Vec<Vec<f32>>> {
        let sizes = shape.iter().map(|size| usize::try_from(*size).ok().filter(|size| *size > 0));
        let sizes: Vec<usize> = sizes.collect::<Option<_>>()?;
        let longest = texts.iter().map(|text| text.len()).max()?;
        let vectors: Vec<Vec<f32>> = match *sizes.as_slice() {
            [count, size] if count == texts.len() => {
                numbers.chunks_exact(size).map(<[f32]>::to_vec).collect()
            }
            // Rows behind a text's own tokens are those of padding, and count in no vector.
            [count, width, size] if count == texts.len() && width == longest => {
                let rows = numbers.chunks_exact(width * size).zip(texts);
                rows.map(|(rows, text)| self.pooling.pooled(&rows[..text.len() * size], size))
                    .collect()
            }
            _ => return None,
        };
        let finished = |mut vector: Vec<f32>| {
            if self.normalised {
                normalise(&mut vector);
            }
            vector
        };
        Some(vectors.into_iter().map(finished).collect())
    }

    /// The numbers of the input `name` for `texts`, padded to `width`.
    fn padded(&self, name: &str, texts: &[&[u32]], width: usize) -> Vec<i64> {
        let mut numbers = Vec::with_capacity(texts.len() * width);
        for text in texts {
            let end = numbers.len() + width;
            match name {
                "input_ids" => numbers.extend(text.iter().map(|id| i64::from(*id))),
                "attention_mask" => numbers.extend(text.iter().map(|_| 1)),
                "position_ids" => numbers.extend((0_i64..).take(text.len())),
                _ => {}
            }
            // Nothing attends to padding, which RoBERTa's positions know by its id.
            numbers.resize(end, if name == "input_ids" { self.pad_token } else { 0 });
        }
        numbers
    }
}

/// A tensor's shape and numbers, in single precision.
fn numbers(value: &DynValue) -> ort::Result<(Vec<i64>, Vec<f32>)> {
    if value.dtype().tensor_type() == Some(TensorElementType::Float16) {
        let (shape, halves) = value.try_extract_tensor::<half::f16>()?;
        return Ok((shape.to_vec(), halves.iter().map(|half| half.to_f32()).collect()));
    }
    let (shape, numbers) = value.try_extract_tensor::<f32>()?;
    Ok((shape.to_vec(), numbers.to_vec()))
}

/// The names of the graph's inputs.
fn inputs_of(session: &Session) -> Result<Vec<&'static str>, String> {
    let is_whole = |kind: &ValueType| kind.tensor_type() == Some(TensorElementType::Int64);
    let mut names = Vec::new();
    for input in session.inputs() {
        let known = INPUTS.iter().find(|name| **name == input.name());
        let name = known.filter(|_| is_whole(input.dtype())).ok_or_else(|| {
            format!(
                "its input {} of {} is unknown; expected {} of int64",
                input.name(),
                input.dtype(),
                INPUTS.join(", ")
            )
        })?;
        names.push(*name);
    }
    match INPUTS[..2].iter().find(|name| !names.contains(name)) {
        Some(missing) => Err(format!("it has no input {missing}")),
        None => Ok(names),
    }
}

/// The name of the output that vectors are made of.
fn output_of(session: &Session) -> Result<&'static str, String> {
    let floats = [TensorElementType::Float32, TensorElementType::Float16];
    let is_float = |kind: &ValueType| kind.tensor_type().is_some_and(|kind| floats.contains(&kind));
    let fits = |name: &&&str| {
        session.outputs().iter().any(|out| out.name() == **name && is_float(out.dtype()))
    };
    OUTPUTS.iter().find(fits).copied().ok_or_else(|| {
        let names: Vec<&str> = session.outputs().iter().map(|out| out.name()).collect();
        format!(
            "its outputs are {}; expected {}, of float32 or float16",
            names.join(", "),
            OUTPUTS.join(" or ")
        )
    })
}

/// Bytes of memory that an embedding model in `folder` takes, for the memory plan.
///
/// # Errors
/// As [`EmbeddingFolder::read`].
pub fn embedding_bytes(folder: &Path, max_tokens: usize) -> Result<u64, LoadError> {
    let folder = EmbeddingFolder::read(folder, max_tokens)?;
    Ok(folder.weight_bytes.saturating_add(folder.run_bytes))
}

#[cfg(test)]
mod tests;
