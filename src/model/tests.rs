//! The real runner on the demo model.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use super::*;

fn demo() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../../models/demo")
}

pub(crate) fn options(slots: usize) -> LoadOptions {
    LoadOptions {
        folder: demo(),
        provider: Provider::Cpu.into(),
        threads: 1,
        slots,
        context_tokens: 0,
        max_prefill_tokens: 64,
        kv_cache_bytes: 0,
        own_kernels: true,
        int8_activations: crate::Int8Activations::Export,
        kv_cache_type: KvType::F32,
        weights_memory: WeightsMemory::Auto,
        runtime_library: None,
    }
}

/// The demo model. Fails, and does not skip, where ONNX Runtime is missing.
fn loaded(slots: usize) -> Loaded {
    load(&options(slots)).unwrap_or_else(|error| panic!("{error}"))
}

pub(super) fn prompt(seed: u32, length: usize) -> Vec<u32> {
    (0..).map(|i| (seed * 31 + i * 7) % 900).take(length).collect()
}

pub(super) fn close(left: &[f32], right: &[f32], tolerance: f32) -> bool {
    left.len() == right.len() && left.iter().zip(right).all(|(a, b)| (a - b).abs() <= tolerance)
}

#[test]
fn limits_are_the_model_s_own() {
    let Loaded { runner, config, .. } = loaded(3);
    let limits = runner.limits();
    assert_eq!((limits.slots, limits.max_prefill_tokens), (3, 64));
    assert_eq!(limits.vocab_size, config.model.vocab_size);
    assert_eq!(limits.context_tokens, config.model.context_length);
    let decoder = &config.model.decoder;
    let values = 2 * decoder.num_hidden_layers * decoder.num_key_value_heads * decoder.head_size;
    assert_eq!(limits.kv_bytes_per_token, 4 * values);
}

#[test]
fn a_prompt_in_chunks_gives_what_it_gives_at_once() {
    let mut runner = loaded(2).runner;
    let tokens = prompt(1, 60);
    let whole = runner.prefill(0, 0, &tokens, 1).unwrap().row(0).to_vec();
    let mut past = 0;
    let mut last = Vec::new();
    for chunk in [1, 7, 20, 32] {
        last = runner.prefill(1, past, &tokens[past..past + chunk], 1).unwrap().row(0).to_vec();
        past += chunk;
    }
    // The rest is int8 rounding of activations, which the matmul's shape can move.
    assert!(close(&whole, &last, 0.02));
}

#[test]
fn the_last_positions_of_a_prefill_give_what_each_gives_alone() {
    let mut runner = loaded(2).runner;
    assert!(runner.limits().many_rows);
    let tokens = prompt(4, 30);
    let mut alone = Vec::new();
    for end in 27..=30 {
        alone.push(runner.prefill(0, 0, &tokens[..end], 1).unwrap().row(0).to_vec());
    }
    runner.prefill(1, 0, &tokens[..25], 1).unwrap();
    let rows = runner.prefill(1, 25, &tokens[25..], 4).unwrap();
    assert_eq!(rows.rows(), 4);
    for (row, alone) in alone.iter().enumerate() {
        assert!(close(rows.row(row), alone, 0.02), "row {row}");
    }
}

#[test]
fn rows_of_different_lengths_decode_as_they_do_alone() {
    let mut runner = loaded(4).runner;
    let lengths = [5, 130, 1, 64];
    let prompts: Vec<Vec<u32>> =
        lengths.iter().zip(1..).map(|(&length, seed)| prompt(seed, length)).collect();
    let fill = |runner: &mut Box<dyn Runner>, slot: usize, tokens: &[u32]| {
        for (index, chunk) in tokens.chunks(64).enumerate() {
            runner.prefill(slot, index * 64, chunk, 1).unwrap();
        }
    };
    let mut alone = Vec::new();
    for tokens in &prompts {
        fill(&mut runner, 2, tokens);
        alone.push(runner.decode(2, &[11], &[tokens.len()]).unwrap().row(0).to_vec());
    }
    for (slot, tokens) in prompts.iter().enumerate() {
        fill(&mut runner, slot, tokens);
    }
    let together = runner.decode(0, &[11; 4], &lengths).unwrap();
    for (row, alone) in alone.iter().enumerate() {
        assert!(close(together.row(row), alone, 0.02), "row {row}");
    }
    // A part of the rows, not from the first.
    let part = runner.decode(1, &[11; 2], &lengths[1..3]).unwrap();
    assert!(close(part.row(0), &alone[1], 0.02));
    assert!(close(part.row(1), &alone[2], 0.02));
}

#[test]
fn a_slot_ignores_what_it_held_before_and_can_be_released() {
    let mut runner = loaded(1).runner;
    let tokens = prompt(3, 40);
    let fresh = runner.prefill(0, 0, &tokens, 1).unwrap().row(0).to_vec();
    runner.prefill(0, 0, &prompt(9, 64), 1).unwrap();
    assert_eq!(runner.prefill(0, 0, &tokens, 1).unwrap().row(0), fresh);
    // What is kept stays.
    runner.release(0, 39);
    let again = runner.prefill(0, 39, &tokens[39..], 1).unwrap().row(0).to_vec();
    // Wide and narrow steps round differently: 0.08 apart with ONNX Runtime's AVX2 kernels. A cache
    // that lost a token is off by whole units.
    let worst = fresh.iter().zip(&again).map(|(a, b)| (a - b).abs()).fold(0.0, f32::max);
    assert!(worst <= 0.2, "{worst}");
    runner.release(0, 0);
    assert_eq!(runner.prefill(0, 0, &tokens, 1).unwrap().row(0), fresh);
}

/// The folder of the model with `graph` and `config`, whose weights are `longrope`'s.
pub(crate) fn with_graph(graph: &str, config: &str) -> tempfile::TempDir {
    folder_of("longrope", graph, config)
}

/// A folder with `graph` and `config` of `models/MODEL`, and its weights.
pub(super) fn folder_of(model: &str, graph: &str, config: &str) -> tempfile::TempDir {
    let folder = tempfile::tempdir().unwrap();
    let models = demo().parent().unwrap().join(model);
    for (from, to) in [
        (graph, "model.onnx"),
        ("model.onnx.data", "model.onnx.data"),
        (config, "genai_config.json"),
    ] {
        std::fs::copy(models.join(from), folder.path().join(to)).unwrap();
    }
    folder
}

#[test]
fn quantised_caches_are_known_by_their_tensors_and_take_so_much_less() {
    for (graph, share) in [("model.onnx", 1), ("int8.onnx", 4), ("int4.onnx", 8)] {
        let folder = with_graph(graph, "genai_config.json");
        let options = LoadOptions { folder: folder.path().into(), ..options(3) };
        let mut runner = load(&options).unwrap().runner;
        let limits = runner.limits().clone();
        // 2 layers, keys and values, 2 heads of 32 values, 4 bytes each.
        assert_eq!(limits.kv_bytes_per_token, 2 * 2 * 2 * 32 * 4 / share, "{graph}");
        // The plain export has own attention, whose blocks have 64 positions.
        assert_eq!(limits.kv_block_tokens, if share == 1 { 64 } else { 32 * share });
        check_moves(&mut runner);
    }
}

#[test]
fn slots_are_exchanged_copied_written_out_and_read_back() {
    check_moves(&mut loaded(3).runner);
}

/// Exchanges, copies, writes out and reads back the first of three slots.
pub(super) fn check_moves(runner: &mut Box<dyn Runner>) {
    let (short, long) = (prompt(3, 20), prompt(5, 60));
    let next = |runner: &mut Box<dyn Runner>, slot: usize, past: usize| {
        runner.decode(slot, &[11], &[past]).unwrap().row(0).to_vec()
    };
    runner.prefill(0, 0, &short, 1).unwrap();
    runner.prefill(1, 0, &long, 1).unwrap();
    let expected = [next(runner, 0, 20), next(runner, 1, 60)];
    runner.swap([0, 1], [20, 60]);
    assert_eq!([next(runner, 1, 20), next(runner, 0, 60)], expected);
    runner.copy(0, 2, 60);
    assert_eq!(next(runner, 2, 60), expected[1]);
    assert_eq!(next(runner, 0, 60), expected[1]);
    let mut bytes = Vec::new();
    runner.export(1, 20, &mut bytes).unwrap();
    assert_eq!(bytes.len(), 20 * runner.limits().kv_bytes_per_token);
    runner.release(1, 0);
    runner.import(0, 20, &mut bytes.as_slice()).unwrap();
    assert_eq!(next(runner, 0, 20), expected[0]);
    assert!(runner.import(0, 21, &mut bytes.as_slice()).is_err());
}

#[test]
fn slots_that_are_not_whole_pages_are_exchanged_as_well() {
    // A head of one position more than a page holds.
    let small = LoadOptions { context_tokens: 65, max_prefill_tokens: 64, ..options(2) };
    let mut runner = load(&small).unwrap().runner;
    runner.prefill(0, 0, &prompt(3, 20), 1).unwrap();
    let before = runner.decode(0, &[11], &[20]).unwrap().row(0).to_vec();
    runner.swap([0, 1], [21, 0]);
    assert_eq!(runner.decode(1, &[11], &[20]).unwrap().row(0), before);
}

#[test]
fn a_slot_takes_tokens_up_to_its_context() {
    let small = LoadOptions { context_tokens: 100, ..options(2) };
    let mut runner = load(&small).unwrap().runner;
    assert_eq!(runner.limits().context_tokens, 100);
    runner.prefill(1, 0, &prompt(1, 64), 1).unwrap();
    runner.prefill(1, 64, &prompt(2, 35), 1).unwrap();
    let last = runner.decode(1, &[5], &[99]).unwrap().row(0).to_vec();
    assert!(last.iter().all(|logit| logit.is_finite()));
}

#[test]
fn an_interrupted_runner_refuses_further_steps() {
    let Loaded { mut runner, interrupt, .. } = loaded(1);
    Arc::clone(&interrupt).interrupt();
    assert_eq!(runner.prefill(0, 0, &[1, 2], 1).unwrap_err(), RunError::Interrupted);
}

/// A copy of the demo folder.
pub(crate) fn copy_of_demo() -> tempfile::TempDir {
    let folder = tempfile::tempdir().unwrap();
    for entry in std::fs::read_dir(demo()).unwrap() {
        let entry = entry.unwrap();
        std::fs::copy(entry.path(), folder.path().join(entry.file_name())).unwrap();
    }
    folder
}

/// Prepares a copy of the demo model, whose large part is then the file `weights`, and damages it.
fn prepared_gives_the_same(
    own_kernels: bool,
    weights_memory: WeightsMemory,
    weights: &str,
    damaged: &str,
) {
    let folder = copy_of_demo();
    let folder_path = folder.path().into();
    let options = LoadOptions { folder: folder_path, own_kernels, weights_memory, ..options(1) };
    let tokens = prompt(3, 40);
    let logits = || {
        let mut runner = load(&options).unwrap().runner;
        runner.prefill(0, 0, &tokens, 1).unwrap().row(0).to_vec()
    };
    let plain = logits();
    let made = prepare(&options).unwrap();
    assert!(made.join(weights).is_file());
    assert_eq!(logits(), plain);
    // Made again over itself; nothing else is left in the folder.
    prepare(&options).unwrap();
    assert!(!folder.path().join("prepared.new").exists());
    // What is prepared for other kernels is not used.
    let others = LoadOptions { own_kernels: !own_kernels, ..options.clone() };
    assert!(load(&others).is_ok());
    // With weights that can't be read, and with another's stamp, the export is loaded.
    std::fs::write(made.join(damaged), b"nonsense").unwrap();
    assert_eq!(logits(), plain);
    std::fs::write(made.join("stamp"), "another").unwrap();
    assert_eq!(logits(), plain);
}

#[test]
fn a_prepared_model_gives_the_same_and_is_used_only_where_it_fits() {
    prepared_gives_the_same(false, WeightsMemory::Auto, "model.onnx.data", "model.onnx");
}

#[test]
fn weights_laid_out_ahead_give_the_same_and_are_used_only_where_they_fit() {
    if crate::own_kernel().is_some() {
        for memory in [WeightsMemory::Mapped, WeightsMemory::Copied, WeightsMemory::Auto] {
            prepared_gives_the_same(true, memory, "weights", "weights");
        }
    }
}

#[test]
fn own_kernels_give_what_the_runtimes_give_but_for_rounding() {
    let run = |own_kernels| {
        let mut runner = load(&LoadOptions { own_kernels, ..options(1) }).unwrap().runner;
        let mut logits = runner.prefill(0, 0, &prompt(5, 37), 1).unwrap().row(0).to_vec();
        logits.extend(runner.decode(0, &[7], &[37]).unwrap().row(0));
        logits
    };
    let (own, runtimes) = (run(true), run(false));
    let most = runtimes.iter().fold(0.0_f32, |most, logit| most.max(logit.abs()));
    let off = own.iter().zip(&runtimes).map(|(own, other)| (own - other).abs()).fold(0.0, f32::max);
    // Either is as far from single precision as they are from each other: activations are int8.
    assert!(off < 0.04 * most, "off by {off} of {most}");
}

/// Loads a damaged copy of the demo folder.
fn damaged(damage: impl FnOnce(&Path)) -> Result<Loaded, LoadError> {
    let folder = copy_of_demo();
    damage(folder.path());
    load(&LoadOptions { folder: folder.path().into(), ..options(1) })
}

fn edit_config(folder: &Path, edit: impl FnOnce(&mut serde_json::Value)) {
    let path = folder.join("genai_config.json");
    let mut json = serde_json::from_slice(&std::fs::read(&path).unwrap()).unwrap();
    edit(&mut json);
    std::fs::write(&path, json.to_string()).unwrap();
}

/// As Hugging Face's cache has it: links to files elsewhere, which are called by their hashes.
#[cfg(unix)]
#[test]
fn a_folder_of_links_gives_the_same_prepared_or_not() {
    let cache = tempfile::tempdir().unwrap();
    let (blobs, snapshot) = (cache.path().join("blobs"), cache.path().join("snapshot"));
    for folder in [&blobs, &snapshot] {
        std::fs::create_dir(folder).unwrap();
    }
    for (count, entry) in std::fs::read_dir(demo()).unwrap().enumerate() {
        let entry = entry.unwrap();
        let blob = format!("{count:064x}");
        std::fs::copy(entry.path(), blobs.join(&blob)).unwrap();
        let target = Path::new("../blobs").join(blob);
        std::os::unix::fs::symlink(target, snapshot.join(entry.file_name())).unwrap();
    }
    let tokens = prompt(5, 30);
    for own_kernels in [false, true] {
        let logits = |folder: &Path| {
            let options = LoadOptions { folder: folder.into(), own_kernels, ..options(1) };
            let mut runner = load(&options).unwrap().runner;
            runner.prefill(0, 0, &tokens, 1).unwrap().row(0).to_vec()
        };
        let plain = logits(&demo());
        assert_eq!(logits(&snapshot), plain);
        prepare(&LoadOptions { folder: snapshot.clone(), own_kernels, ..options(1) }).unwrap();
        assert_eq!(logits(&snapshot), plain);
    }
}

#[test]
fn missing_files_are_named() {
    for name in ["genai_config.json", "model.onnx", "model.onnx.data"] {
        let error = damaged(|folder| std::fs::remove_file(folder.join(name)).unwrap()).unwrap_err();
        let LoadError::Read { path, .. } = error else { panic!("{error}") };
        assert_eq!(path.file_name().unwrap(), name);
    }
}

#[test]
fn truncated_weights_are_refused() {
    let error = damaged(|folder| {
        let data = std::fs::OpenOptions::new().write(true).open(folder.join("model.onnx.data"));
        data.unwrap().set_len(1000).unwrap();
    })
    .unwrap_err();
    assert!(matches!(error, LoadError::Invalid { .. }), "{error}");
}

#[test]
fn every_difference_from_the_contract_is_named() {
    let error = damaged(|folder| {
        edit_config(folder, |json| {
            json["model"]["decoder"]["num_key_value_heads"] = 3.into();
            json["model"]["decoder"]["outputs"]["logits"] = "scores".into();
        });
    })
    .unwrap_err();
    let LoadError::Contract { differences, .. } = error else { panic!("{error}") };
    let all = differences.join("\n");
    assert!(all.contains("is 2; expected 3 (num_key_value_heads of genai"), "{all}");
    assert!(all.contains("output scores is missing"), "{all}");

    // The builder leaves the head's size open in the graph, so only a step can show it.
    let head = damaged(|folder| {
        edit_config(folder, |json| json["model"]["decoder"]["head_size"] = 64.into());
    })
    .unwrap_err();
    assert!(head.to_string().contains("a trial step failed"), "{head}");

    let fewer = damaged(|folder| {
        edit_config(folder, |json| json["model"]["decoder"]["num_hidden_layers"] = 1.into());
    })
    .unwrap_err();
    assert!(fewer.to_string().contains("not one that this program knows"), "{fewer}");
}

#[test]
fn a_provider_that_cannot_be_used_is_an_error() {
    let error = load(&LoadOptions { provider: Provider::Cuda.into(), ..options(1) }).unwrap_err();
    assert!(matches!(error, LoadError::Provider { .. }), "{error}");
}

#[test]
fn a_load_that_was_cancelled_says_so() {
    let cancel = LoadCancel::default();
    cancel.cancel();
    let error = load_cancellable(&options(1), &cancel).unwrap_err();
    assert!(matches!(error, LoadError::Cancelled), "{error}");
}

#[test]
fn a_load_says_how_much_of_the_weights_it_has_laid_out() {
    let of = |options: &LoadOptions| {
        let progress = LoadProgress::default();
        assert_eq!((progress.stage(), progress.weights()), (LoadStage::Graph, None));
        load_cancellable(options, &LoadCancel::default().reporting_to(&progress)).unwrap();
        assert_eq!(progress.stage(), LoadStage::Trial);
        progress.weights()
    };
    let all = own_kernel().map(|_| 1.0);
    assert_eq!(of(&options(1)), all);
    // Only ONNX Runtime knows.
    assert_eq!(of(&LoadOptions { own_kernels: false, ..options(1) }), None);
    let folder = copy_of_demo();
    let options = LoadOptions { folder: folder.path().into(), ..options(1) };
    prepare(&options).unwrap();
    let prepared = |weights_memory| of(&LoadOptions { weights_memory, ..options.clone() });
    assert_eq!(prepared(WeightsMemory::Copied), all);
    assert_eq!(prepared(WeightsMemory::Mapped), None);
}

#[test]
fn a_session_tells_where_its_nodes_run() {
    let loaded = load(&LoadOptions { own_kernels: false, ..options(1) }).unwrap();
    assert_eq!(loaded.provider, Provider::Cpu);
    let layers = loaded.config.model.decoder.num_hidden_layers;
    let heavy = loaded.placement.heavy_on_cpu();
    assert!(heavy.contains(&("GroupQueryAttention", layers)), "{heavy:?}");
}
