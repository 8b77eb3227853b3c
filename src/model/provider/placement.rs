//! Which provider each node of the graph runs on.
#![expect(unsafe_code, reason = "calls the C API for what the ort crate does not wrap")]

use std::collections::BTreeMap;
use std::ffi::{CStr, c_char};
use std::ptr::null;

use ort::AsPointer as _;
use ort::session::Session;

use super::Chosen;
use super::chosen::CPU_NAME;
use crate::device::check;

/// Session option that makes a session record it (`kOrtSessionOptionsRecordEpGraphAssignmentInfo`).
pub(crate) const RECORD: &str = "session.record_ep_graph_assignment_info";

/// Operators that nearly all of a step's time goes into.
const HEAVY: [&str; 8] = [
    "MatMulNBits",
    "MatMul",
    "Gemm",
    "GroupQueryAttention",
    "MultiHeadAttention",
    "PagedAttention",
    "SparseAttention",
    "QMoE",
];

/// How many nodes of each operator each provider runs.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Placement {
    /// By the provider's name within ONNX Runtime, then by the operator.
    pub nodes: BTreeMap<String, BTreeMap<String, usize>>,
}

impl Placement {
    /// What the session recorded; empty if ONNX Runtime does not expose it.
    pub(crate) fn of(session: &Session) -> Self {
        let mut placement = Self::default();
        if let Err(error) = placement.read(session) {
            log::debug!("ONNX Runtime does not expose where nodes run: {error}");
        }
        placement
    }

    fn read(&mut self, session: &Session) -> ort::Result<()> {
        let api = ort::api();
        let (mut parts, mut count) = (null(), 0);
        // SAFETY: the session lives; what it gives is its own and lives as long.
        let status = unsafe {
            (api.Session_GetEpGraphAssignmentInfo)(session.ptr(), &raw mut parts, &raw mut count)
        };
        check(status)?;
        for part in listed(parts, count) {
            let (mut name, mut nodes, mut count) = (null(), null(), 0);
            // SAFETY: the part is one that the session gave.
            check(unsafe { (api.EpAssignedSubgraph_GetEpName)(part, &raw mut name) })?;
            let provider = self.nodes.entry(text(name)).or_default();
            // SAFETY: as above.
            let status =
                unsafe { (api.EpAssignedSubgraph_GetNodes)(part, &raw mut nodes, &raw mut count) };
            check(status)?;
            for node in listed(nodes, count) {
                // Counted by operator: an export has thousands of nodes and a few dozen kinds.
                let mut operator = null();
                // SAFETY: the node is one of the part's.
                let status =
                    unsafe { (api.EpAssignedNode_GetOperatorType)(node, &raw mut operator) };
                check(status)?;
                *provider.entry(text(operator)).or_default() += 1;
            }
        }
        Ok(())
    }

    /// The heavy operators that run on the CPU, with how many nodes each.
    #[must_use]
    pub fn heavy_on_cpu(&self) -> Vec<(&str, usize)> {
        let nodes = self.nodes.get(CPU_NAME).into_iter().flatten();
        nodes
            .filter(|(operator, _)| HEAVY.contains(&operator.as_str()))
            .map(|(operator, count)| (operator.as_str(), *count))
            .collect()
    }

    /// The nodes of a provider in all.
    fn total(&self, provider: &str) -> usize {
        self.nodes.get(provider).into_iter().flat_map(BTreeMap::values).sum()
    }

    /// Logs how the nodes are spread, and warns where heavy ones are on the CPU though another
    /// provider was chosen.
    pub(crate) fn log(&self, chosen: &Chosen) {
        // On the CPU there is nothing to spread.
        if chosen.is_cpu() || self.nodes.is_empty() {
            return;
        }
        let spread: Vec<String> =
            self.nodes.keys().map(|name| format!("{name} {}", self.total(name))).collect();
        log::info!(nodes = spread.join(", "); "where the graph's nodes run");
        // A matmul on the CPU moves its activations both ways over the bus in each step.
        let heavy = self.heavy_on_cpu();
        if !heavy.is_empty() {
            let heavy: Vec<String> =
                heavy.iter().map(|(operator, count)| format!("{count} {operator}")).collect();
            log::warn!(
                provider = chosen.provider().as_str();
                "heavy nodes run on the CPU, since {} does not take them: {}; an export for this \
                 provider would be faster",
                chosen.name(), heavy.join(", ")
            );
        }
    }
}

/// The pointers of a list that ONNX Runtime gave.
fn listed<T>(first: *const *const T, count: usize) -> Vec<*const T> {
    if first.is_null() {
        return Vec::new();
    }
    // SAFETY: ONNX Runtime says that this many follow.
    unsafe { std::slice::from_raw_parts(first, count) }.to_vec()
}

fn text(given: *const c_char) -> String {
    if given.is_null() {
        return String::new();
    }
    // SAFETY: ONNX Runtime's texts end with a null character.
    unsafe { CStr::from_ptr(given) }.to_string_lossy().into_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn heavy_nodes_on_the_cpu_are_reported_and_light_ones_not() {
        let on = |operators: &[(&str, usize)]| {
            operators.iter().map(|(name, count)| ((*name).to_owned(), *count)).collect()
        };
        let nodes = BTreeMap::from([
            (CPU_NAME.to_owned(), on(&[("MatMulNBits", 3), ("Shape", 2), ("Gather", 1)])),
            ("WebGpuExecutionProvider".to_owned(), on(&[("GroupQueryAttention", 4)])),
        ]);
        let placement = Placement { nodes };
        assert_eq!(placement.heavy_on_cpu(), [("MatMulNBits", 3)]);
        assert_eq!(placement.total(CPU_NAME), 6);
        assert_eq!(Placement::default().heavy_on_cpu(), []);
    }
}
