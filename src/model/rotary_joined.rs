//! Finds rotary tables that are two in one: for short sequences, then for long ones.
//!
//! Some of the builder's exports of `longrope` models (TensorRT-RTX, WebGPU with graph capture) leave
//! the choice to the attention's kernel, which makes it by the length that a step reaches. Nothing
//! in the graph tells; but the sine of position 0 is 0 whatever the frequency, so the second table
//! begins where another row is all zeros.

use std::fs::File;
use std::io::{self, Read, Seek, SeekFrom};
use std::path::Path;

use super::external::{self, TENSOR_EXTERNAL};
use super::graph_edit::{GRAPH_INITIALIZER, MODEL_GRAPH};
use super::wire::{Damaged, Fields, Value, numbers};

/// The builder's name for the sines.
const SINES: &[u8] = b"sin_cache";

const TENSOR_DIMS: u64 = 1;
const TENSOR_TYPE: u64 = 2;
const TENSOR_NAME: u64 = 8;
const TENSOR_RAW: u64 = 9;

/// A `TensorProto`, as much of it as is of use here.
#[derive(Debug, Default)]
struct Table<'a> {
    name: &'a [u8],
    dimensions: Vec<u64>,
    element: u64,
    raw: Option<&'a [u8]>,
    file: Option<&'a str>,
    offset: u64,
}

/// Rows of the first of two joined tables, where the model `bytes`, whose weights lie in `folder`,
/// has more rows of sines than the `context` and these are two tables.
pub(super) fn first_rows(
    bytes: &[u8],
    folder: &Path,
    context: usize,
) -> Result<Option<usize>, String> {
    let table = find(bytes).map_err(|damage| damage.to_string())?;
    let Some(table) = table else { return Ok(None) };
    let (&[rows, columns], Some(size)) = (&table.dimensions[..], table.element_bytes()) else {
        return Ok(None);
    };
    let (Ok(rows), Ok(columns)) = (usize::try_from(rows), usize::try_from(columns)) else {
        return Ok(None);
    };
    if rows <= context || columns == 0 {
        return Ok(None);
    }
    let Some(length) = rows.checked_mul(columns).and_then(|count| count.checked_mul(size)) else {
        return Ok(None);
    };
    let content = table.content(folder, length);
    let content = content.map_err(|error| format!("its table of sines: {error}"))?;
    let mut rows = content.chunks_exact(columns * size);
    Ok(rows.by_ref().skip(1).position(|row| row.iter().all(|&byte| byte == 0)).map(|row| row + 1))
}

fn find(bytes: &[u8]) -> Result<Option<Table<'_>>, Damaged> {
    for field in Fields::new(bytes) {
        let field = field?;
        let (MODEL_GRAPH, Value::Bytes(graph)) = (field.number, field.value) else { continue };
        for field in Fields::new(graph) {
            let field = field?;
            if let (GRAPH_INITIALIZER, Value::Bytes(tensor)) = (field.number, field.value) {
                let table = Table::read(tensor)?;
                if table.name == SINES {
                    return Ok(Some(table));
                }
            }
        }
    }
    Ok(None)
}

impl<'a> Table<'a> {
    fn read(tensor: &'a [u8]) -> Result<Self, Damaged> {
        let mut table = Self::default();
        for field in Fields::new(tensor) {
            let field = field?;
            match (field.number, field.value) {
                (TENSOR_DIMS, Value::Number(size)) => table.dimensions.push(size),
                (TENSOR_DIMS, Value::Bytes(packed)) => table.dimensions.extend(numbers(packed)),
                (TENSOR_TYPE, Value::Number(element)) => table.element = element,
                (TENSOR_NAME, Value::Bytes(name)) => table.name = name,
                (TENSOR_RAW, Value::Bytes(raw)) => table.raw = Some(raw),
                (TENSOR_EXTERNAL, Value::Bytes(entry)) => table.external(entry)?,
                _ => {}
            }
        }
        Ok(table)
    }

    fn external(&mut self, entry: &'a [u8]) -> Result<(), Damaged> {
        let (key, value) = external::entry(entry)?;
        let value = std::str::from_utf8(value).unwrap_or_default();
        match key {
            b"location" => self.file = Some(value),
            b"offset" => self.offset = value.parse().unwrap_or(0),
            _ => {}
        }
        Ok(())
    }

    /// Bytes of an element, by `TensorProto.DataType`.
    fn element_bytes(&self) -> Option<usize> {
        match self.element {
            1 => Some(4),
            10 | 16 => Some(2),
            _ => None,
        }
    }

    fn content(&self, folder: &Path, length: usize) -> io::Result<Vec<u8>> {
        if let Some(raw) = self.raw {
            return Ok(raw.to_vec());
        }
        let name = self.file.unwrap_or_default();
        // ONNX Runtime refuses others itself.
        let inside = Path::new(name).file_name().is_some_and(|file| file == name);
        if !inside {
            return Ok(Vec::new());
        }
        let mut file = File::open(folder.join(name))?;
        file.seek(SeekFrom::Start(self.offset))?;
        let mut content = Vec::new();
        file.take(length as u64).read_to_end(&mut content)?;
        Ok(content)
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::external::{ENTRY_KEY, ENTRY_VALUE};
    use crate::wire::{put_bytes, put_number};

    /// A model with a table of sines that begins anew after `first` of `rows` rows.
    fn model(rows: usize, first: usize, outside: Option<u64>) -> (Vec<u8>, Vec<u8>) {
        const FREQUENCIES: [f32; 4] = [1.0, 0.1, 0.01, 0.001];
        let sines = |row: usize| FREQUENCIES.map(|each| ((row % first) as f32 * each).sin());
        let values = (0..rows).flat_map(sines);
        let content: Vec<u8> = values.flat_map(f32::to_le_bytes).collect();
        let mut tensor = Vec::new();
        put_number(&mut tensor, TENSOR_DIMS, rows as u64);
        put_number(&mut tensor, TENSOR_DIMS, 4);
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
