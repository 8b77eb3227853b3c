use std::path::Path;

use super::*;
use crate::{Export, LoadOptions, inspect};

fn demo() -> Export {
    inspect(&Path::new(env!("CARGO_MANIFEST_DIR")).join("../../models/demo")).unwrap()
}

fn plan(options: LoadOptions, settings: MemorySettings, on_device: bool) -> MemoryPlan {
    let export = demo();
    let options = LoadOptions { kv_cache_bytes: settings.kv_cache_bytes, ..options };
    let limits = export.limits(&options, on_device);
    MemoryPlan::new(&limits, export.weight_bytes(), &settings)
}

fn options(slots: usize, context_tokens: usize) -> LoadOptions {
    LoadOptions { context_tokens, ..crate::tests::options(slots) }
}

#[test]
fn the_cache_is_planned_for_the_context_that_is_set() {
    let settings =
        MemorySettings { slots: 3, kv_cache_bytes: 307_200, ..MemorySettings::default() };
    let set = plan(options(3, 1000), settings, false);
    assert_eq!(set.kv_bytes_per_token, 2048);
    assert_eq!((set.kv_bytes_per_context, set.kv_bytes_full), (2_048_000, 6_144_000));
    // 150 tokens fit, of which 128 are whole blocks of 64.
    assert_eq!((set.kv_budget_bytes, set.kv_budget_tokens), (128 * 2048, 128));
    assert_eq!((set.context_tokens, set.slot_tokens, set.too_small), (1000, 128, None));
}

#[test]
fn a_setting_of_zero_shares_out_what_is_left_beside_the_weights() {
    let spare = |spare_bytes| MemorySettings { spare_bytes, ..MemorySettings::default() };
    let plain = plan(options(24, 0), spare(300 << 20), false);
    assert_eq!(plain.context_tokens, 4096);
    let left = (300 << 20) - usize::try_from(plain.weight_bytes).unwrap() - PROGRAM_BYTES;
    assert_eq!(plain.kv_budget_tokens, left / 2 / 2048 / 64 * 64);
    assert_eq!(plain.request_memory_bytes, 64 << 20);
    // More than all slots can fill is of no use.
    let rich = plan(options(24, 0), spare(3 << 30), false);
    assert_eq!((rich.kv_budget_tokens, rich.slot_tokens), (24 * 4096, 4096));
    assert!(rich.request_memory_bytes > 700 << 20 && rich.request_memory_bytes < 1 << 30);
    let poor = plan(options(24, 0), spare(0), false);
    assert_eq!(poor.kv_budget_bytes, 0);
    assert_eq!(poor.too_small, Some(KvTooSmall { bytes: 0, tokens: 0, least: 128 }));
}

#[test]
fn an_export_is_planned_as_its_loaded_runner_is() {
    let paged = crate::tests::with_graph("paged.onnx", "paged.json");
    let models = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../models");
    for folder in [models.join("demo"), models.join("longrope"), paged.path().into()] {
        let options = LoadOptions { folder, ..options(3, 500) };
        let loaded = crate::load(&options).unwrap();
        let export = inspect(&options.folder).unwrap();
        let crate::ModelLimits { many_rows, width_invariant, mixed_steps, .. } =
            *loaded.runner.limits();
        let planned = crate::ModelLimits {
            many_rows,
            width_invariant,
            mixed_steps,
            ..export.limits(&options, false)
        };
        assert_eq!(&planned, loaded.runner.limits());
        assert_eq!(export.weight_bytes(), loaded.weight_bytes);
    }
}

#[test]
fn a_device_s_cache_has_a_default_of_its_own() {
    let settings = MemorySettings { spare_bytes: 1 << 30, ..MemorySettings::default() };
    let device = plan(options(24, 0), settings, true);
    // 4 GiB hold more than 24 slots and the spare one.
    assert_eq!(device.kv_budget_tokens, 25 * 4096);
    assert!(device.kv_on_device);
    let memory = KvMemory::Device { two_contexts: 5 << 30 };
    assert_eq!(kv_budget(0, memory), 5 << 30);
    assert_eq!(kv_budget(7, KvMemory::Device { two_contexts: 5 << 30 }), 7);
}
