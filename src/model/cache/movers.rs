//! Copies within and out of a device's memory, as graphs of a few nodes that run on the device.
//!
//! ONNX Runtime's API copies whole tensors only. What is wanted here is a row of one tensor as the
//! whole of another, so the provider's own `Gather`, `Slice`, `Pad` and `ScatterND` do it, which
//! every provider has. Elements are moved as they are, whatever they mean.

use std::sync::Arc;

use ort::memory::{AllocationDevice, AllocatorType, MemoryInfo, MemoryType};
use ort::session::builder::SessionBuilder;
use ort::session::{NoSelectedOutputs, RunOptions, Session};
use ort::value::TensorElementType;

use crate::binding::{Binding, Tensor};
use crate::device::DeviceBlock;
use crate::error::LoadError;
use crate::memory::Mapping;
use crate::wire::{put_bytes, put_number};

/// Makes the sessions that copy: options with the model's provider.
pub(crate) type NewSession<'a> = &'a dyn Fn() -> Result<SessionBuilder, LoadError>;

/// A cache tensor, or a part of one, `[rows, heads, positions, head_size]`.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Whole<'a> {
    pub(crate) place: Place<'a>,
    pub(crate) rows: usize,
    pub(crate) positions: usize,
}

/// Where it lies.
#[derive(Debug, Clone, Copy)]
pub(crate) enum Place<'a> {
    Host(&'a Arc<Mapping>),
    Device(&'a Arc<DeviceBlock>),
}

/// The copying sessions.
pub(crate) struct Movers {
    take: Arc<Session>,
    put: Arc<Session>,
    host: MemoryInfo<'static>,
    options: RunOptions<NoSelectedOutputs>,
    element: TensorElementType,
    heads: usize,
    head_size: usize,
}

impl std::fmt::Debug for Movers {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Movers").field("element", &self.element).finish_non_exhaustive()
    }
}

impl Movers {
    /// Sessions for tensors of `heads` heads of `head_size` elements of so many bytes.
    pub(crate) fn new(
        new_session: NewSession<'_>,
        element_bytes: usize,
        heads: usize,
        head_size: usize,
    ) -> Result<Self, LoadError> {
        // Only the size of an element matters, and every provider has these.
        let element = match element_bytes {
            1 => TensorElementType::Uint8,
            2 => TensorElementType::Float16,
            _ => TensorElementType::Float32,
        };
        let ort = |error: ort::Error| LoadError::Session(error.to_string());
        let open =
            |graph: Vec<u8>| new_session()?.commit_from_memory(&graph).map(Arc::new).map_err(ort);
        Ok(Self {
            take: open(graph::take(element))?,
            put: open(graph::put(element))?,
            host: MemoryInfo::new(
                AllocationDevice::CPU,
                0,
                AllocatorType::Device,
                MemoryType::Default,
            )
            .map_err(ort)?,
            options: RunOptions::new().map_err(ort)?,
            element,
            heads,
            head_size,
        })
    }

    /// Row `i` of `to` becomes row `rows[i]` of `from`, as many of its positions as both have;
    /// further ones of `to` become 0.
    pub(crate) fn take(&self, from: Whole<'_>, rows: &[usize], to: Whole<'_>) -> ort::Result<()> {
        let common = from.positions.min(to.positions);
        let rows: Vec<i64> = rows.iter().map(|&row| row as i64).collect();
        let mut padding = [0; 8];
        padding[6] = (to.positions - common) as i64;
        let mut binding = Binding::new(&self.take)?;
        binding.input(graph::FROM, self.tensor(from)?)?;
        binding.input(graph::ROWS, self.numbers(&rows, &[rows.len()])?)?;
        binding.input(graph::END, self.numbers(&[common as i64], &[1])?)?;
        binding.input(graph::PADDING, self.numbers(&padding, &[8])?)?;
        binding.output(graph::RESULT, self.tensor(to)?)?;
        self.run(&mut binding)
    }

    /// Row `rows[i]` of `to` becomes row `i` of `from`, which has as many positions.
    pub(crate) fn put(&self, from: Whole<'_>, to: Whole<'_>, rows: &[usize]) -> ort::Result<()> {
        let rows: Vec<i64> = rows.iter().map(|&row| row as i64).collect();
        let mut binding = Binding::new(&self.put)?;
        binding.input(graph::FROM, self.tensor(from)?)?;
        binding.input(graph::ROWS, self.numbers(&rows, &[rows.len(), 1])?)?;
        // In place: the other rows stay as they are.
        binding.input(graph::TO, self.tensor(to)?)?;
        binding.output(graph::RESULT, self.tensor(to)?)?;
        self.run(&mut binding)
    }

    fn tensor(&self, whole: Whole<'_>) -> ort::Result<Tensor> {
        let shape = [whole.rows, self.heads, whole.positions, self.head_size];
        match whole.place {
            Place::Host(mapping) => Tensor::new(&self.host, mapping, 0, &shape, self.element),
            Place::Device(block) => Tensor::on_device(block, &shape, self.element),
        }
    }

    #[expect(unsafe_code, reason = "writes into memory that is to be bound")]
    fn numbers(&self, numbers: &[i64], shape: &[usize]) -> ort::Result<Tensor> {
        let memory = Mapping::reserve(size_of_val(numbers)).map_err(ort::Error::wrap)?;
        // SAFETY: nobody else knows of it yet.
        unsafe { memory.write(numbers.iter().copied()) };
        Tensor::new(&self.host, &Arc::new(memory), 0, shape, TensorElementType::Int64)
    }

    #[expect(unsafe_code, reason = "a run writes into bound memory")]
    fn run(&self, binding: &mut Binding) -> ort::Result<()> {
        // SAFETY: nothing else runs on the runner's thread, and nobody holds a reference into what
        // is bound.
        unsafe { binding.run(&self.options) }
    }
}

/// The graphs, in protocol-buffer wire format (onnx.proto).
mod graph {
    use super::{TensorElementType, put_bytes, put_number};

    pub(super) const FROM: &str = "from";
    pub(super) const TO: &str = "to";
    pub(super) const ROWS: &str = "rows";
    pub(super) const END: &str = "end";
    pub(super) const PADDING: &str = "padding";
    pub(super) const RESULT: &str = "result";

    const INT64: u64 = 7;
    const OPERATORS: u64 = 18;
    const FORMAT: u64 = 9;

    /// `result = Pad(from[rows][:, :, ..end], padding)`.
    pub(super) fn take(element: TensorElementType) -> Vec<u8> {
        let nodes = [
            node("Gather", &[FROM, ROWS], "gathered"),
            node("Slice", &["gathered", "start", END, "axis"], "cut"),
            node("Pad", &["cut", PADDING], RESULT),
        ];
        let constants = [constant("start", 0), constant("axis", 2)];
        let inputs = [
            cache(FROM, element, "rows"),
            info(ROWS, INT64, &[Size::Open("count")]),
            info(END, INT64, &[Size::Fixed(1)]),
            info(PADDING, INT64, &[Size::Fixed(8)]),
        ];
        model(&nodes, &constants, &inputs, &cache(RESULT, element, "count"))
    }

    /// `result = to; result[rows[i]] = from[i]`.
    pub(super) fn put(element: TensorElementType) -> Vec<u8> {
        let nodes = [node("ScatterND", &[TO, ROWS, FROM], RESULT)];
        let inputs = [
            cache(TO, element, "rows"),
            info(ROWS, INT64, &[Size::Open("count"), Size::Fixed(1)]),
            cache(FROM, element, "count"),
        ];
        model(&nodes, &[], &inputs, &cache(RESULT, element, "rows"))
    }

    enum Size {
        Open(&'static str),
        Fixed(u64),
    }

    fn cache(name: &str, element: TensorElementType, rows: &'static str) -> Vec<u8> {
        let element = match element {
            TensorElementType::Uint8 => 2,
            TensorElementType::Float16 => 10,
            _ => 1,
        };
        let positions = if name == RESULT { "positions" } else { "held" };
        info(name, element, &[rows, "heads", positions, "head_size"].map(Size::Open))
    }

    fn field(number: u64, content: &[u8]) -> Vec<u8> {
        let mut bytes = Vec::new();
        put_bytes(&mut bytes, number, content);
        bytes
    }

    fn number(number: u64, value: u64) -> Vec<u8> {
        let mut bytes = Vec::new();
        put_number(&mut bytes, number, value);
        bytes
    }

    /// A `ModelProto`.
    fn model(
        nodes: &[Vec<u8>],
        constants: &[Vec<u8>],
        inputs: &[Vec<u8>],
        output: &[u8],
    ) -> Vec<u8> {
        let mut graph = Vec::new();
        for node in nodes {
            put_bytes(&mut graph, 1, node);
        }
        put_bytes(&mut graph, 2, b"phi4d.cache");
        for constant in constants {
            put_bytes(&mut graph, 5, constant);
        }
        for input in inputs {
            put_bytes(&mut graph, 11, input);
        }
        put_bytes(&mut graph, 12, output);
        let operators = [field(1, b""), number(2, OPERATORS)].concat();
        [number(1, FORMAT), field(7, &graph), field(8, &operators)].concat()
    }

    /// A `NodeProto` with one output.
    fn node(operator: &str, inputs: &[&str], output: &str) -> Vec<u8> {
        let mut node = Vec::new();
        for input in inputs {
            put_bytes(&mut node, 1, input.as_bytes());
        }
        put_bytes(&mut node, 2, output.as_bytes());
        put_bytes(&mut node, 3, operator.as_bytes());
        put_bytes(&mut node, 4, operator.as_bytes());
        node
    }

    /// A `TensorProto`: int64 `[1]`.
    fn constant(name: &str, value: i64) -> Vec<u8> {
        [number(1, 1), number(2, INT64), field(8, name.as_bytes()), field(9, &value.to_le_bytes())]
            .concat()
    }

    /// A `ValueInfoProto` of a tensor.
    fn info(name: &str, element: u64, sizes: &[Size]) -> Vec<u8> {
        let sizes = sizes.iter().map(|size| match size {
            Size::Open(name) => field(1, &field(2, name.as_bytes())),
            Size::Fixed(size) => field(1, &number(1, *size)),
        });
        let shape: Vec<u8> = sizes.flatten().collect();
        let tensor = [number(1, element), field(2, &shape)].concat();
        [field(1, name.as_bytes()), field(2, &field(1, &tensor))].concat()
    }
}
