//! Paged attention for the tests, in plain loops, by the contract of `com.microsoft`'s
//! `PagedAttention`, which ONNX Runtime has for devices only.

#![expect(clippy::expect_used, reason = "for tests")]

use ort::operator::{
    ComputeContext, Kernel, KernelContext, Operator, OperatorDomain, OperatorInput, OperatorOutput,
};
use ort::session::builder::SessionBuilder;
use ort::value::TensorElementType;

/// The domain of the node in `models/longrope/paged.onnx`.
const DOMAIN: &str = "phi4d.test";

/// Adds the operator to a session.
pub(crate) fn register(builder: SessionBuilder) -> ort::Result<SessionBuilder> {
    Ok(builder.with_operators(OperatorDomain::new(DOMAIN)?.add(PagedAttention)?)?)
}

struct PagedAttention;

// Inputs of the operator, in its order.
const QUERY: usize = 0;
const KEY_CACHE: usize = 3;
const VALUE_CACHE: usize = 4;
const STARTS: usize = 5;
const PAST: usize = 6;
const TABLE: usize = 7;
const COS: usize = 8;
const SIN: usize = 9;
const BOUNDS: usize = 16;

impl Operator for PagedAttention {
    type Kernel<'attr> = Attention;

    fn name(&self) -> &str {
        "PagedAttention"
    }

    fn inputs(&self) -> impl IntoIterator<Item = OperatorInput> {
        (0..=BOUNDS).map(|index| match index {
            QUERY | KEY_CACHE | VALUE_CACHE => OperatorInput::required(TensorElementType::Float32),
            STARTS | PAST | TABLE => OperatorInput::required(TensorElementType::Int32),
            // Slots of positions, and bounds of lengths.
            10 | BOUNDS => OperatorInput::optional(TensorElementType::Int32),
            _ => OperatorInput::optional(TensorElementType::Float32),
        })
    }

    fn outputs(&self) -> impl IntoIterator<Item = OperatorOutput> {
        [TensorElementType::Float32; 3].map(OperatorOutput::required)
    }

    fn create_kernel<'attr>(&self, context: &KernelContext<'attr>) -> ort::Result<Attention> {
        let size = |name: &str| {
            let size = context.get::<i64>(name).and_then(|size| usize::try_from(size).ok());
            size.ok_or_else(|| ort::Error::new(format!("no {name}")))
        };
        let scale = context.get::<f32>("scale").ok_or_else(|| ort::Error::new("no scale"))?;
        Ok(Attention { heads: size("num_heads")?, kv_heads: size("kv_num_heads")?, scale })
    }
}

struct Attention {
    heads: usize,
    kv_heads: usize,
    scale: f32,
}

/// A tensor's dimensions and values.
fn tensor<T: ort::value::PrimitiveTensorElementType + Copy>(
    context: &ComputeContext,
    index: usize,
) -> ort::Result<(Vec<i64>, Vec<T>)> {
    let input = context.input(index)?.ok_or_else(|| ort::Error::new("no tensor"))?;
    let (shape, values) = input.try_extract_tensor::<T>()?;
    Ok((shape.to_vec(), values.to_vec()))
}

fn lengths(context: &ComputeContext, index: usize) -> ort::Result<Vec<usize>> {
    let (_, values) = tensor::<i32>(context, index)?;
    values.into_iter().map(|value| usize::try_from(value).map_err(ort::Error::wrap)).collect()
}

/// What one sequence has in the cache.
struct Cached<'a> {
    table: &'a [i32],
    keys: Blocks<'a>,
    values: Blocks<'a>,
}

impl Cached<'_> {
    fn key(&mut self, position: usize) -> &mut [f32] {
        self.keys.at(self.table, position)
    }

    fn value(&mut self, position: usize) -> &mut [f32] {
        self.values.at(self.table, position)
    }
}

/// One of the two caches, written in place.
struct Blocks<'a> {
    values: &'a mut [f32],
    /// Positions in a block, and values of a position.
    sizes: [usize; 2],
}

impl Blocks<'_> {
    fn at(&mut self, table: &[i32], position: usize) -> &mut [f32] {
        let [tokens, width] = self.sizes;
        let block = usize::try_from(table[position / tokens]).expect("a mapped block");
        let start = (block * tokens + position % tokens) * width;
        &mut self.values[start..start + width]
    }
}

impl Kernel for Attention {
    fn compute(&mut self, context: &ComputeContext) -> ort::Result<()> {
        let missing = || ort::Error::new("no tensor");
        let (shape, query) = tensor::<f32>(context, QUERY)?;
        let (starts, past) = (lengths(context, STARTS)?, lengths(context, PAST)?);
        let (table_shape, table) = tensor::<i32>(context, TABLE)?;
        let ((angles, cos), (_, sin)) =
            (tensor::<f32>(context, COS)?, tensor::<f32>(context, SIN)?);
        let pairs = usize::try_from(angles[1]).map_err(ort::Error::wrap)?;
        let bounds = lengths(context, BOUNDS)?;
        let input = context.input(KEY_CACHE)?.ok_or_else(missing)?;
        let (cache, keys_before) = input.try_extract_tensor::<f32>()?;
        let cache = cache.to_vec();
        let sizes = [cache[1], cache[2], cache[3]].map(|size| usize::try_from(size).unwrap_or(0));
        let [block, _, head] = sizes;
        let (rows, width) = (past.len(), usize::try_from(table_shape[1]).unwrap_or(0));
        let mut keys = context.output(1, cache.clone())?.ok_or_else(missing)?;
        let mut values = context.output(2, cache)?.ok_or_else(missing)?;
        let (_, keys) = keys.try_extract_tensor_mut::<f32>()?;
        let (_, values) = values.try_extract_tensor_mut::<f32>()?;
        assert_eq!(keys.as_ptr(), keys_before.as_ptr(), "the cache is written in place");
        let position = self.kv_heads * head;
        let sizes = [block, position];
        let out = [shape[0], (self.heads * head) as i64];
        let mut output = context.output(0, out)?.ok_or_else(missing)?;
        let (_, output) = output.try_extract_tensor_mut::<f32>()?;
        for row in 0..rows {
            let mut cached = Cached {
                table: &table[row * width..][..width],
                keys: Blocks { values: &mut *keys, sizes },
                values: Blocks { values: &mut *values, sizes },
            };
            let count = starts[row + 1] - starts[row];
            assert!(count <= bounds[0] && past[row] + count <= bounds[1], "{bounds:?}");
            for index in 0..count {
                let (token, place) = (starts[row] + index, past[row] + index);
                let packed = &query[token * (self.heads * head + 2 * position)..];
                let angles = place * pairs..(place + 1) * pairs;
                let (cos, sin) = (&cos[angles.clone()], &sin[angles]);
                let turn = |values: &[f32]| turned(values, head, cos, sin);
                let turned_query = turn(&packed[..self.heads * head]);
                let new = &packed[self.heads * head..];
                cached.key(place).copy_from_slice(&turn(&new[..position]));
                cached.value(place).copy_from_slice(&new[position..2 * position]);
                let result = &mut output[token * self.heads * head..][..self.heads * head];
                self.attend(&turned_query, result, place + 1, &mut cached);
            }
        }
        Ok(())
    }
}

/// Heads of `head` values, rotated by a position's angles; values past the pairs stay.
fn turned(values: &[f32], head: usize, cos: &[f32], sin: &[f32]) -> Vec<f32> {
    let mut turned = values.to_vec();
    let pairs = cos.len();
    for start in (0..values.len()).step_by(head) {
        for pair in 0..pairs {
            let (a, b) = (values[start + pair], values[start + pairs + pair]);
            turned[start + pair] = a * cos[pair] - b * sin[pair];
            turned[start + pairs + pair] = a * sin[pair] + b * cos[pair];
        }
    }
    turned
}

impl Attention {
    /// Attends from one token to the first `count` positions.
    fn attend(&self, query: &[f32], result: &mut [f32], count: usize, cached: &mut Cached<'_>) {
        let head = query.len() / self.heads;
        for index in 0..self.heads {
            let own = index * head..(index + 1) * head;
            let shared = index / (self.heads / self.kv_heads) * head;
            let weights: Vec<f32> = (0..count)
                .map(|place| {
                    let key = &cached.key(place)[shared..shared + head];
                    let product: f32 = query[own.clone()].iter().zip(key).map(|(a, b)| a * b).sum();
                    product * self.scale
                })
                .collect();
            let most = weights.iter().copied().fold(f32::MIN, f32::max);
            let weights: Vec<f32> = weights.iter().map(|weight| (weight - most).exp()).collect();
            let sum: f32 = weights.iter().sum();
            let result = &mut result[own];
            result.fill(0.0);
            for (place, weight) in weights.iter().enumerate() {
                let value = &cached.value(place)[shared..shared + head];
                result.iter_mut().zip(value).for_each(|(result, value)| {
                    *result += weight / sum * value;
                });
            }
        }
    }
}
