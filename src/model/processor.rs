//! What this processor can do, as far as kernels are chosen by it.

/// The instructions by which ONNX Runtime and our own kernel are chosen, and so the layout of
/// weights.
#[must_use]
pub fn processor_features() -> Vec<&'static str> {
    let mut features = Vec::new();
    #[cfg(target_arch = "x86_64")]
    for (name, there) in [
        ("avx2", is_x86_feature_detected!("avx2")),
        ("avx512f", is_x86_feature_detected!("avx512f")),
        ("avx512bw", is_x86_feature_detected!("avx512bw")),
        ("avx512vnni", is_x86_feature_detected!("avx512vnni")),
        ("avx512bf16", is_x86_feature_detected!("avx512bf16")),
        ("avxvnni", is_x86_feature_detected!("avxvnni")),
    ] {
        features.extend(there.then_some(name));
    }
    #[cfg(target_arch = "aarch64")]
    for (name, there) in [
        ("dotprod", std::arch::is_aarch64_feature_detected!("dotprod")),
        ("i8mm", std::arch::is_aarch64_feature_detected!("i8mm")),
        ("bf16", std::arch::is_aarch64_feature_detected!("bf16")),
        ("sve", std::arch::is_aarch64_feature_detected!("sve")),
    ] {
        features.extend(there.then_some(name));
    }
    features
}

/// The kind of processor, as one text that differs where kernels may.
pub(super) fn name() -> String {
    let mut parts = vec![std::env::consts::ARCH];
    parts.extend(processor_features());
    parts.join(" ")
}
