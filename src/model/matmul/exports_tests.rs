//! The demo model in every form that exports have, by phi4d's kernel and by ONNX Runtime's.
//!
//! `tests/exports/setup` makes the folders; without it these tests are skipped, unless `REAL_MODEL` is
//! `required`.
#![allow(clippy::print_stderr, reason = "tests say why they are skipped")]

use std::path::{Path, PathBuf};

use super::edit;
use crate::Int8Activations::{Always, Export};
use crate::protobuf::{GRAPH_NODE, MODEL_GRAPH, Node, contents};
use crate::tests::{options, prompt};
use crate::{LoadCancel, LoadOptions, LoadProgress, load, load_cancellable, prepare};

/// A folder that `models/make_forms.py` made; `None` where it could not be made and need not be there.
fn folder(form: &str) -> Option<PathBuf> {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("../..");
    let target =
        std::env::var_os("CARGO_TARGET_DIR").map_or_else(|| root.join("target"), PathBuf::from);
    let exports = target.join("exports");
    if exports.join(".made").exists() {
        return Some(exports.join(form));
    }
    let required = std::env::var("REAL_MODEL").is_ok_and(|value| value == "required");
    assert!(!required, "{} is missing; run tests/exports/setup", exports.display());
    eprintln!("skipped: there is no {}", exports.display());
    None
}

/// The logits of a prompt's last token and of the token after it.
fn logits(options: &LoadOptions) -> Vec<f32> {
    let mut runner = load(options).unwrap().runner;
    let mut logits = runner.prefill(0, 0, &prompt(5, 37), 1).unwrap().row(0).to_vec();
    logits.extend(runner.decode(0, &[7], &[37]).unwrap().row(0));
    logits
}

/// All 21 matmuls run on the own kernel, prepared or not, with logits that differ from those of ONNX Runtime's
/// kernels by less than a twentieth of the largest.
///
/// Either is as far from single precision as they are from each other, where activations are int8.
fn agrees(form: &str) {
    let Some(folder) = folder(form) else { return };
    let level = if form.starts_with("level") { Always } else { Export };
    let graph = std::fs::read(folder.join("model.onnx")).unwrap();
    assert_eq!(edit::count(&graph, level).unwrap(), 21, "{form}");
    if form.starts_with("level") {
        assert_eq!(edit::count(&graph, Export).unwrap(), 0, "{form} does not allow int8");
    }
    if crate::own_kernel().is_none() {
        return;
    }
    let exported = LoadOptions { folder: folder.clone(), int8_activations: level, ..options(1) };
    let progress = LoadProgress::default();
    let cancel = LoadCancel::default().reporting_to(&progress);
    assert!(load_cancellable(&exported, &cancel).unwrap().batch_invariant, "{form}");
    assert_eq!(progress.weights(), Some(1.0), "{form}");
    let own = logits(&exported);
    let runtimes = logits(&LoadOptions { own_kernels: false, ..exported.clone() });
    let most = runtimes.iter().fold(0.0_f32, |most, logit| most.max(logit.abs()));
    let off = own.iter().zip(&runtimes).map(|(own, other)| (own - other).abs()).fold(0.0, f32::max);
    assert!(off < 0.05 * most, "{form}: off by {off} of {most}");
    let copy = tempfile::tempdir().unwrap();
    for entry in std::fs::read_dir(&folder).unwrap() {
        let entry = entry.unwrap();
        std::fs::copy(entry.path(), copy.path().join(entry.file_name())).unwrap();
    }
    let prepared = LoadOptions { folder: copy.path().into(), ..exported };
    prepare(&prepared).unwrap();
    assert_eq!(logits(&prepared), own, "{form} prepared");
}

/// ONNX Runtime would keep a copy of levels that a `Reshape` makes of the head's.
#[test]
fn tied_embeddings_are_the_heads_own_levels() {
    for form in ["tied", "tied-asymmetric", "tied-int8"] {
        let Some(folder) = folder(form) else { return };
        let graph = std::fs::read(folder.join("model.onnx")).unwrap();
        let reshapes = |model: &[u8]| {
            let graph = contents(model, MODEL_GRAPH).next().unwrap().unwrap();
            let nodes = contents(graph, GRAPH_NODE).map(|node| Node::read(node.unwrap()).unwrap());
            nodes.filter(|node| node.operator == b"Reshape").count()
        };
        let edited = edit::edit(&graph, Export).unwrap().unwrap();
        assert_eq!((reshapes(&graph), reshapes(&edited)), (1, 0), "{form}");
    }
}

macro_rules! forms {
    ($($test:ident: $($form:literal)*;)*) => {
        $(
            #[test]
            fn $test() {
                for form in [$($form),*] {
                    agrees(form);
                }
            }
        )*

        #[test]
        fn every_form_is_tested() {
            let tested = [$($($form),*),*];
            let Some(exports) = folder("") else { return };
            for entry in std::fs::read_dir(exports).unwrap() {
                let name = entry.unwrap().file_name().into_string().unwrap();
                assert!(name == ".made" || tested.contains(&name.as_str()), "{name} has no test");
            }
        }
    };
}

forms! {
    symmetric_exports_run_on_the_own_kernel: "default" "rtn" "rtn-last" "int8";
    exports_with_zero_points_run_on_the_own_kernel:
        "k-quant" "k-quant-last" "k-quant-mixed" "asymmetric" "int8-asymmetric";
    exports_of_all_blocks_run_on_the_own_kernel: "block-16" "block-64" "block-128" "block-256";
    exports_of_other_levels_run_on_the_own_kernel_if_asked: "level-0" "level-1";
    exports_with_quantised_embeddings_run_on_the_own_kernel:
        "tied" "tied-asymmetric" "tied-int8" "embedding" "embedding-asymmetric";
    qdq_exports_run_on_the_own_kernel:
        "qdq" "qdq-asymmetric" "qdq-channel" "qdq-channel-asymmetric";
    int8_qdq_exports_run_on_the_own_kernel:
        "qdq-int8" "qdq-int8-asymmetric" "qdq-int8-channel" "qdq-int8-channel-asymmetric";
}

/// These have the weights that the demo model has, in another form.
#[test]
fn other_forms_of_the_same_weights_give_the_same_bits() {
    let Some(demo) = folder("default") else { return };
    if crate::own_kernel().is_none() {
        return;
    }
    let of = |folder: PathBuf| logits(&LoadOptions { folder, ..options(1) });
    let expected = of(demo);
    for form in ["int8", "qdq"] {
        assert_eq!(of(folder(form).unwrap()), expected, "{form}");
    }
}
