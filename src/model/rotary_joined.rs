//! Finds rotary tables that are two in one: for short sequences, then for long ones.
//!
//! Some of the builder's exports of `longrope` models (TensorRT-RTX, WebGPU with graph capture) leave
//! the choice to the attention's kernel, which makes it by the length that a step reaches. Nothing in
//! the graph says so. But the sine of position 0 is 0 for every frequency, so the second table begins
//! at the next row that is all zeros.

use std::fs::File;
use std::io::{self, Read, Seek, SeekFrom};
use std::path::Path;

use super::protobuf::{
    BFLOAT16, Damaged, FLOAT, FLOAT16, GRAPH_INITIALIZER, MODEL_GRAPH, Tensor, contents,
};

/// The builder's name for the sines.
const SINES: &[u8] = b"sin_cache";

/// Rows of the first of two joined tables. `None` unless the model `bytes`, whose weights lie in
/// `folder`, has more rows of sines than the `context` and these are two tables.
pub(super) fn first_rows(
    bytes: &[u8],
    folder: &Path,
    context: usize,
) -> Result<Option<usize>, String> {
    let table = find(bytes).map_err(|damage| damage.to_string())?;
    let Some(table) = table else { return Ok(None) };
    let size = match table.element {
        FLOAT => 4,
        FLOAT16 | BFLOAT16 => 2,
        _ => return Ok(None),
    };
    let &[rows, columns] = &table.dimensions[..] else { return Ok(None) };
    let (Ok(rows), Ok(columns)) = (usize::try_from(rows), usize::try_from(columns)) else {
        return Ok(None);
    };
    // A single table has a row for each position of the context. Without more rows there is no
    // second one, and the weights need not be read.
    if rows <= context || columns == 0 {
        return Ok(None);
    }
    let Some(length) = rows.checked_mul(columns).and_then(|count| count.checked_mul(size)) else {
        return Ok(None);
    };
    let content = values(&table, folder, length);
    let content = content.map_err(|error| format!("its table of sines: {error}"))?;
    // Row 0 begins the first table, so the search begins behind it.
    let mut rows = content.chunks_exact(columns * size);
    Ok(rows.by_ref().skip(1).position(|row| row.iter().all(|&byte| byte == 0)).map(|row| row + 1))
}

fn find(bytes: &[u8]) -> Result<Option<Tensor<'_>>, Damaged> {
    for graph in contents(bytes, MODEL_GRAPH) {
        for tensor in contents(graph?, GRAPH_INITIALIZER) {
            let tensor = Tensor::read(tensor?)?;
            if tensor.name == SINES {
                return Ok(Some(tensor));
            }
        }
    }
    Ok(None)
}

/// The bytes of the tensor's values, at most `length`.
fn values(tensor: &Tensor<'_>, folder: &Path, length: usize) -> io::Result<Vec<u8>> {
    if let Some(raw) = tensor.raw {
        return Ok(raw.to_vec());
    }
    let name = tensor.file.unwrap_or_default();
    // ONNX Runtime refuses a path that leads out of the folder, so this does not read one either.
    if Path::new(name).file_name().is_none_or(|file| file != name) {
        return Ok(Vec::new());
    }
    let mut file = File::open(folder.join(name))?;
    file.seek(SeekFrom::Start(tensor.offset))?;
    let mut content = Vec::new();
    file.take(length as u64).read_to_end(&mut content)?;
    Ok(content)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::protobuf::{
        ENTRY_KEY, ENTRY_VALUE, TENSOR_DIMENSION, TENSOR_EXTERNAL, TENSOR_NAME, TENSOR_RAW,
        TENSOR_TYPE, put_bytes, put_number,
    };

    /// A model with a table of sines that restarts after `first` of `rows` rows.
    fn model(rows: usize, first: usize, outside: Option<u64>) -> (Vec<u8>, Vec<u8>) {
        const FREQUENCIES: [f32; 4] = [1.0, 0.1, 0.01, 0.001];
        let sines = |row: usize| FREQUENCIES.map(|each| ((row % first) as f32 * each).sin());
        let values = (0..rows).flat_map(sines);
        let content: Vec<u8> = values.flat_map(f32::to_le_bytes).collect();
        let mut tensor = Vec::new();
        put_number(&mut tensor, TENSOR_DIMENSION, rows as u64);
        put_number(&mut tensor, TENSOR_DIMENSION, 4);
        put_number(&mut tensor, TENSOR_TYPE, 1);
        put_bytes(&mut tensor, TENSOR_NAME, SINES);
        match outside {
            None => put_bytes(&mut tensor, TENSOR_RAW, &content),
            Some(offset) => {
                for (key, value) in [("location", "weights"), ("offset", &offset.to_string())] {
                    let mut entry = Vec::new();
                    put_bytes(&mut entry, ENTRY_KEY, key.as_bytes());
                    put_bytes(&mut entry, ENTRY_VALUE, value.as_bytes());
                    put_bytes(&mut tensor, TENSOR_EXTERNAL, &entry);
                }
            }
        }
        let (mut graph, mut model) = (Vec::new(), Vec::new());
        put_bytes(&mut graph, GRAPH_INITIALIZER, &tensor);
        put_bytes(&mut model, MODEL_GRAPH, &graph);
        (model, content)
    }

    #[test]
    fn the_second_table_begins_where_the_sines_do_again() {
        let folder = tempfile::tempdir().unwrap();
        let first = |rows, first, context| {
            first_rows(&model(rows, first, None).0, folder.path(), context).unwrap()
        };
        assert_eq!(first(80, 16, 64), Some(16));
        // One table, as long as the context or longer.
        assert_eq!(first(64, 64, 64), None);
        assert_eq!(first(80, 80, 64), None);
        // In the file of weights.
        let (model, content) = model(80, 16, Some(7));
        std::fs::write(folder.path().join("weights"), [&[9; 7], &content[..]].concat()).unwrap();
        assert_eq!(first_rows(&model, folder.path(), 64).unwrap(), Some(16));
        std::fs::remove_file(folder.path().join("weights")).unwrap();
        assert!(first_rows(&model, folder.path(), 64).is_err());
    }

    proptest! {
        #[test]
        fn damaged_bytes_never_panic(cut in 0usize..1500, at in 0usize..1500, byte in any::<u8>()) {
            let (mut model, _) = model(80, 16, None);
            model.truncate(cut);
            if let Some(place) = model.get_mut(at) {
                *place = byte;
            }
            let _ = first_rows(&model, Path::new("/nonexistent"), 64);
        }
    }
}
