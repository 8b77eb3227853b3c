//! Copies within and out of a device's memory, as graphs of a few nodes that run on the device.
//!
//! ONNX Runtime's API copies whole tensors only. What is wanted here is a row of one tensor as the
//! whole of another, so the provider's own `Gather`, `Slice`, `Pad` and `ScatterND` do it, which
//! every provider has. Elements are moved as they are, whatever they mean.

use std::sync::Arc;

use ort::memory::MemoryInfo;
use ort::session::builder::SessionBuilder;
use ort::session::{NoSelectedOutputs, RunOptions, Session};
use ort::value::TensorElementType;

use crate::binding::{Binding, Tensor};
use crate::device::{DeviceBlock, host_memory};
use crate::error::LoadError;
use crate::memory::Mapping;

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
        // The sizes are open in the graphs, so two sessions serve every layout and every tensor.
        let open = |graph: Vec<u8>| -> Result<_, LoadError> {
            Ok(Arc::new(new_session()?.commit_from_memory(&graph)?))
        };
        Ok(Self {
            take: open(graph::take(element))?,
            put: open(graph::put(element))?,
            host: host_memory()?,
            options: RunOptions::new()?,
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
        // Pad takes the begins of the four axes, then their ends; positions are axis 2.
        let mut padding = [0; 8];
        padding[6] = (to.positions - common) as i64;
        // A binding for each copy: moves are rare, and a kept one would hold its tensors' memory.
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
        // ScatterND wants each index as a list of its own, here of one axis.
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

/// The graphs, as onnx.proto's messages.
mod graph {
    use super::TensorElementType;
    use crate::protobuf::{
        FLOAT, FLOAT16, GRAPH_INITIALIZER, GRAPH_INPUT, GRAPH_NODE, GRAPH_OUTPUT, INT64,
        MODEL_GRAPH, Size, int64_constant, message, message_of_number, node, put_bytes, value_info,
    };

    pub(super) const FROM: &str = "from";
    pub(super) const TO: &str = "to";
    pub(super) const ROWS: &str = "rows";
    pub(super) const END: &str = "end";
    pub(super) const PADDING: &str = "padding";
    pub(super) const RESULT: &str = "result";

    const UINT8: u64 = 2;
    /// The oldest operator set in which all of these nodes have today's form, so that an old provider
    /// library takes them.
    const OPERATORS: u64 = 18;
    const FORMAT: u64 = 9;

    /// `result = Pad(from[rows][:, :, ..end], padding)`.
    pub(super) fn take(element: TensorElementType) -> Vec<u8> {
        let nodes = [
            // Gather works on axis 0, the rows, where nothing else is said.
            named("Gather", &[FROM, ROWS], "gathered"),
            named("Slice", &["gathered", "start", END, "axis"], "cut"),
            named("Pad", &["cut", PADDING], RESULT),
        ];
        // Axis 2 is that of the positions.
        let constants = [int64_constant("start", 0), int64_constant("axis", 2)];
        let inputs = [
            cache(FROM, element, "rows"),
            value_info(ROWS, INT64, &[Size::Open("count")]),
            value_info(END, INT64, &[Size::Fixed(1)]),
            value_info(PADDING, INT64, &[Size::Fixed(8)]),
        ];
        model(&nodes, &constants, &inputs, &cache(RESULT, element, "count"))
    }

    /// `result = to; result[rows[i]] = from[i]`.
    pub(super) fn put(element: TensorElementType) -> Vec<u8> {
        let nodes = [named("ScatterND", &[TO, ROWS, FROM], RESULT)];
        let inputs = [
            cache(TO, element, "rows"),
            value_info(ROWS, INT64, &[Size::Open("count"), Size::Fixed(1)]),
            cache(FROM, element, "count"),
        ];
        model(&nodes, &[], &inputs, &cache(RESULT, element, "rows"))
    }

    fn named(operator: &str, inputs: &[&str], output: &str) -> Vec<u8> {
        let inputs: Vec<_> = inputs.iter().map(|name| name.as_bytes()).collect();
        node(operator, &inputs, output.as_bytes(), operator)
    }

    fn cache(name: &str, element: TensorElementType, rows: &str) -> Vec<u8> {
        let element = match element {
            TensorElementType::Uint8 => UINT8,
            TensorElementType::Float16 => FLOAT16,
            _ => FLOAT,
        };
        // A name stands for one size, and the result may have more positions than its origin.
        let positions = if name == RESULT { "positions" } else { "held" };
        value_info(name, element, &[rows, "heads", positions, "head_size"].map(Size::Open))
    }

    /// A `ModelProto`.
    fn model(
        nodes: &[Vec<u8>],
        constants: &[Vec<u8>],
        inputs: &[Vec<u8>],
        output: &[u8],
    ) -> Vec<u8> {
        let mut graph = Vec::new();
        let mut put = |number, messages: &[Vec<u8>]| {
            messages.iter().for_each(|message| put_bytes(&mut graph, number, message));
        };
        put(GRAPH_NODE, nodes);
        put(2, &[b"phi4d.cache".to_vec()]);
        put(GRAPH_INITIALIZER, constants);
        put(GRAPH_INPUT, inputs);
        put(GRAPH_OUTPUT, &[output.to_vec()]);
        let operators = [message(1, b""), message_of_number(2, OPERATORS)].concat();
        [message_of_number(1, FORMAT), message(MODEL_GRAPH, &graph), message(8, &operators)]
            .concat()
    }
}
