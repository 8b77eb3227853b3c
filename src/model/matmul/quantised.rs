//! What a graph says of matmuls with quantised weights, and which of them the own kernel does.

use super::tensors::Tensors;
use crate::protobuf::{Damaged, FLOAT, Node, UINT8, attribute};
use phi4d_matmul::Form;
use phi4d_settings::Int8Activations;

/// The operator's domain and name. Both are in the edited graph, and so in the stamps of folders that
/// `phi4d prepare` made: other names would make all of them unusable.
pub(crate) const DOMAIN: &str = "phi4d";
pub(crate) const OPERATOR: &str = "PackedMatMul";

/// What a matmul says of its quantised weights.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Quantised {
    /// Rows of the weights.
    pub(crate) k: u64,
    /// Columns of the weights.
    pub(crate) n: u64,
    /// Bits of a weight.
    pub(crate) bits: u64,
    /// Weights that share a scale.
    pub(crate) block: u64,
    /// How activations may be rounded: 4 is to int8, 1 and 0 (not given) not at all.
    pub(crate) accuracy_level: u64,
    /// Whether blocks have zero points beside scales.
    pub(crate) zero_points: bool,
    /// Whether it is `DequantizeLinear` and `MatMul` instead of `MatMulNBits`.
    pub(crate) qdq: bool,
    /// What else keeps the own kernel from it.
    pub(super) other: Option<&'static str>,
}

impl Quantised {
    /// Reads a `MatMulNBits` node of a graph with these tensors.
    pub(crate) fn of(node: &Node<'_>, tensors: &Tensors<'_>) -> Result<Self, Damaged> {
        let mut numbers =
            [("K", 0), ("N", 0), ("bits", 4), ("block_size", 0), ("accuracy_level", 0)];
        let mut other = None;
        for bytes in &node.attributes {
            let (name, value) = attribute(bytes)?;
            match numbers.iter_mut().find(|(known, _)| known.as_bytes() == name) {
                Some(number) => number.1 = value.unwrap_or(0),
                // An attribute that is not known here might change the result.
                None => other = Some("it has an attribute that phi4d does not know"),
            }
        }
        let [k, n, bits, block, accuracy_level] = numbers.map(|(_, value)| value);
        let input = |index: usize| node.inputs.get(index).filter(|name| !name.is_empty());
        // The kernel wants scales and zero points laid out before the first step.
        let is = |index, element| {
            input(index).is_some_and(|name| {
                tensors.constant(name).is_some_and(|constant| constant.element == element)
            })
        };
        let zero_points = input(3).is_some();
        // One reason is shown, though several may apply: any of them suffices.
        if !is(2, FLOAT) {
            other = Some("its scales are not constants in single precision");
        } else if zero_points && !is(3, UINT8) {
            other = Some("its zero points are not constant whole numbers");
        } else if node.inputs.iter().skip(4).any(|name| !name.is_empty()) {
            other = Some("it has a group index or a bias");
        }
        Ok(Self { k, n, bits, block, accuracy_level, zero_points, qdq: false, other })
    }

    /// The form that the weights have for the own kernel, if it does this matmul by `rule`.
    ///
    /// # Errors
    /// Why it does not.
    pub(crate) fn form(&self, rule: Int8Activations) -> Result<Form, &'static str> {
        // A size that does not fit fails `fits` below, as one that is too large does.
        let size = |size: u64| usize::try_from(size).unwrap_or(usize::MAX);
        let form = Form {
            k: size(self.k),
            n: size(self.n),
            bits: size(self.bits),
            block: size(self.packed_block()),
            zero_points: self.zero_points,
        };
        match self.other {
            Some(reason) => Err(reason),
            None if self.accuracy_level != 4 && rule == Int8Activations::Export => {
                Err("its accuracy level is not 4, which allows activations in int8")
            }
            None if !form.fits() => {
                Err("its bits, blocks or columns are not of the sizes it takes")
            }
            None => Ok(form),
        }
    }

    /// Weights along K that share a scale where they are laid out for the kernel. `DequantizeLinear`'s
    /// blocks may be longer than the kernel's, up to a whole column; then several have the same scale.
    pub(crate) fn packed_block(&self) -> u64 {
        if !self.qdq || matches!(self.block, 16 | 32 | 64 | 128 | 256) {
            return self.block;
        }
        // Of a whole column any part will do.
        let whole = self.block >= self.k;
        let fits = |block: &u64| whole || self.block.is_multiple_of(*block);
        // The largest that divides it: each part repeats the scale, and fewer parts repeat it less
        // often.
        [128, 64, 32, 16].into_iter().find(fits).unwrap_or(self.block)
    }
}
