use super::*;

fn demo() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../../models/demo")
}

#[test]
fn the_demo_model_is_reported_as_it_was_exported() {
    let export = inspect(&demo()).unwrap();
    assert_eq!((export.model.layers, export.model.kv_heads, export.model.head_size), (4, 2, 32));
    // Single precision: 2 (keys, values) x 4 layers x 2 heads x 32 x 4 bytes.
    assert_eq!(export.kv_bytes_per_token, 2048);
    assert_eq!(export.cache.as_ref().unwrap().element, "float32");
    assert_eq!(export.attention.as_ref().unwrap().operator, "GroupQueryAttention");
    let matmuls: usize = export.quantised.iter().map(|kind| kind.nodes).sum();
    assert_eq!(matmuls, export.operators["MatMulNBits"]);
    assert!(export.quantised.iter().all(|kind| (kind.bits, kind.block) == (4, 32)));
    assert!(export.own_matmuls > 0 && export.own_matmuls <= matmuls);
    assert!(export.inputs.iter().any(|input| input.name == "input_ids"));
    assert_eq!(export.outputs.len(), 1);
    assert_eq!(export.damage(), Vec::<String>::new());
    let on_disk = std::fs::metadata(demo().join("model.onnx.data")).unwrap().len();
    assert_eq!(export.weights[0].bytes, Some(on_disk));
    assert!(export.weight_bytes() > on_disk / 2);
    // The table of embeddings: 1024 rows of 256 in single precision.
    assert_eq!(export.table_bytes, 1024 * 256 * 4);
}

#[test]
fn two_rotary_tables_are_reported_with_what_each_is_for() {
    assert_eq!(inspect(&demo()).unwrap().rotary, None);
    let folder = demo().parent().unwrap().join("longrope");
    let export = inspect(&folder).unwrap();
    assert_eq!(export.blocks, None);
    let rotary = export.rotary.unwrap();
    assert_eq!(rotary.short_tokens, 64);
    let tables = rotary.tables.unwrap();
    assert_eq!((tables.short.positions, tables.long.positions), (64, 512));
    // By models/make_longrope.py: 1.6^i over 1 + 0.02 i, and the scale of 512 over 64 tokens.
    let scale = (1.0_f64 + 8.0_f64.ln() / 64.0_f64.ln()).sqrt();
    for table in [&tables.short, &tables.long] {
        assert!((table.scale - scale).abs() < 1e-6, "{} {scale}", table.scale);
    }
    for (index, factor) in (0..8).zip(&tables.factors) {
        let expected = 1.6_f64.powi(index) / (1.0 + 0.02 * f64::from(index));
        assert!((factor - expected).abs() < 1e-3 * expected, "{index}: {factor} {expected}");
    }
    assert_eq!(tables.factors.len(), 8);
}

#[test]
fn a_paged_cache_is_recognised_by_its_blocks() {
    let folder = crate::tests::with_graph("paged.onnx", "paged.json");
    let export = inspect(folder.path()).unwrap();
    // 2 layers, keys and values, 2 heads of 32 values, 4 bytes each.
    let bytes = 16 * 2 * 2 * 2 * 32 * 4;
    assert_eq!(export.blocks, Some(Blocks { tokens: 16, bytes, of_a_context: 32 }));
    assert_eq!(export.rotary.unwrap().short_tokens, 64);
}

#[test]
fn matmuls_that_fall_back_say_why() {
    let folder = crate::tests::copy_of_demo();
    let path = folder.path().join("model.onnx");
    let mut graph = std::fs::read(&path).unwrap();
    let level = b"accuracy_level\x18\x04";
    while let Some(at) = graph.windows(level.len()).position(|part| part == level) {
        graph[at + level.len() - 1] = 1;
    }
    std::fs::write(&path, graph).unwrap();
    let export = inspect(folder.path()).unwrap();
    assert_eq!(export.own_matmuls, 0);
    for kind in &export.quantised {
        assert!(kind.fallback.unwrap().contains("accuracy level"), "{kind:?}");
    }
}

#[test]
fn missing_and_truncated_weights_are_reported() {
    let folder = tempfile::tempdir().unwrap();
    for name in ["genai_config.json", "model.onnx"] {
        std::fs::copy(demo().join(name), folder.path().join(name)).unwrap();
    }
    let damage = || inspect(folder.path()).unwrap().damage();
    assert!(damage()[0].contains("model.onnx.data is missing"), "{:?}", damage());
    #[cfg(unix)]
    {
        let link = folder.path().join("model.onnx.data");
        std::os::unix::fs::symlink("/nowhere/at/all", &link).unwrap();
        assert!(damage()[0].contains("is a link to a file that is missing"), "{:?}", damage());
        std::fs::remove_file(&link).unwrap();
        std::os::unix::fs::symlink(&link, &link).unwrap();
        assert!(damage()[0].contains("can't be read"), "{:?}", damage());
        std::fs::remove_file(&link).unwrap();
    }
    std::fs::write(folder.path().join("model.onnx.data"), [0; 1000]).unwrap();
    assert!(damage()[0].contains("is truncated: it has 1000 bytes"), "{:?}", damage());
}

/// As Microsoft publishes Phi-4-mini for GPUs now.
#[test]
fn an_export_for_gpus_shows_by_its_half_precision_when_it_names_no_provider() {
    let demo_gpu = demo().parent().unwrap().join("demo-gpu");
    assert_eq!(inspect(&demo_gpu).unwrap().made_for, ["webgpu"]);
    assert!(inspect(&demo()).unwrap().made_for.is_empty());
    let folder = tempfile::tempdir().unwrap();
    std::fs::copy(demo_gpu.join("model.onnx"), folder.path().join("model.onnx")).unwrap();
    let text = std::fs::read(demo_gpu.join("genai_config.json")).unwrap();
    let mut config: serde_json::Value = serde_json::from_slice(&text).unwrap();
    for options in [serde_json::json!([]), serde_json::Value::Null] {
        let session = config.pointer_mut("/model/decoder/session_options").unwrap();
        match options {
            serde_json::Value::Null => session.as_object_mut().unwrap().clear(),
            list => session["provider_options"] = list,
        }
        let text = config.to_string();
        std::fs::write(folder.path().join("genai_config.json"), &text).unwrap();
        assert_eq!(inspect(folder.path()).unwrap().made_for, ["gpu"], "{text}");
    }
    // Quantised caches are of integers; the logits show it then. A CPU export's are not half.
    let longrope = demo().parent().unwrap().join("longrope");
    assert!(inspect(&longrope).unwrap().made_for.is_empty());
}

#[test]
fn sizes_beyond_all_numbers_are_no_panic() {
    let cache = TensorInfo { shape: vec![u64::MAX.to_string()], ..TensorInfo::default() };
    assert_eq!(bytes_per_token(&cache, 2, 32), u64::MAX);
    assert_eq!(total(1, [u64::MAX, 2].into_iter()), u64::MAX);
    let mut export = inspect(&demo()).unwrap();
    export.kv_bytes_per_token = u64::MAX;
    let limits = export.limits(&crate::tests::options(3), false);
    let plan = crate::MemoryPlan::new(&limits, u64::MAX, &crate::MemorySettings::default());
    assert!(plan.too_small.is_some());
}

#[test]
fn names_of_layers_are_known_by_their_pattern() {
    assert!(is_layer_of("past.12.key", "past.%d.key"));
    assert!(!is_layer_of("past..key", "past.%d.key"));
    assert!(!is_layer_of("past.x.key", "past.%d.key"));
}
