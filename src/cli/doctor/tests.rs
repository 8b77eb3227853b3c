use super::*;
use phi4d_model::MemoryPlan;

fn judged(weights: u64, budget: usize, spare: usize) -> String {
    let plan = MemoryPlan {
        weight_bytes: weights,
        kv_bytes_per_token: 10,
        context_tokens: 100,
        slot_tokens: (budget / 10).min(100),
        slots: 2,
        kv_bytes_per_context: 1000,
        kv_bytes_full: 2000,
        kv_budget_bytes: budget,
        kv_budget_tokens: budget / 10,
        spare_bytes: spare,
        ..MemoryPlan::default()
    };
    let mut findings = Findings::default();
    machine::judge_plan(&plan, &mut findings.of("memory"));
    findings.text()
}

#[test]
fn what_does_not_fit_is_a_fault_and_a_small_cache_is_reported() {
    assert_eq!(judged(5000, 1000, 6000), "");
    assert!(judged(5000, 1000, 4999).contains("FAULT memory    the weights take"));
    assert!(judged(5000, 1001, 6000).contains("FAULT memory    weights and kv_cache_bytes"));
    assert!(judged(5000, 990, 6000).contains("note  memory    the cache holds 99 tokens"));
}

fn notes(listen: &str, need_key: bool, certificate: bool) -> Vec<String> {
    let address = ListenAddress::parse(listen);
    let mut findings = Findings::default();
    judge_access(address.as_ref(), need_key, certificate, &mut findings.of("access"));
    let text = findings.text();
    text.lines().filter(|line| line.starts_with("note")).map(ToOwned::to_owned).collect()
}

#[test]
fn what_other_machines_reach_is_noted_where_it_has_no_key_or_no_tls() {
    for address in ["127.0.0.1:8484", "localhost:1", "[::1]:2"] {
        assert_eq!(notes(address, false, false), Vec::<String>::new(), "{address}");
    }
    for (address, need_key, certificate, words) in [
        ("0.0.0.0:8484", false, false, &["without a key", "no TLS"][..]),
        ("[::]:8484", false, true, &["without a key"]),
        ("192.0.2.1:8484", true, false, &["no TLS"]),
        ("phi.example:443", true, true, &[]),
    ] {
        let notes = notes(address, need_key, certificate);
        assert_eq!(notes.len(), words.len(), "{notes:?}");
        for (note, word) in notes.iter().zip(words) {
            assert!(note.contains(word) && note.contains(address), "{note}");
        }
    }
}
