//! Does the model fit the memory, with its cache?

use serde_json::json;

use super::Case;
use super::findings::Findings;
use crate::plan::{Plan, bytes};
use phi4d_os as os;

const CHECK: &str = "memory";

pub(super) fn check(case: &Case, findings: &mut Findings) {
    let Some(export) = &case.export else { return };
    let spare = os::spare_memory() as u64;
    let plan = Plan::new(export, &case.settings, spare);
    judge(&plan, spare, findings);
    for (name, text) in plan.lines() {
        findings.good(CHECK, format!("{name}: {text}"));
    }
    findings.figure("memory", json!(plan));
}

fn judge(plan: &Plan, spare: u64, findings: &mut Findings) {
    if plan.weight_bytes > spare {
        findings.fault(
            CHECK,
            format!(
                "the weights take {} and {} can be had",
                bytes(plan.weight_bytes),
                bytes(spare)
            ),
            "stop other programs, raise the cgroup's limit (MemoryMax=), or take a smaller model",
        );
        return;
    }
    let wanted = plan.weight_bytes.saturating_add(plan.kv_budget_bytes);
    if wanted > spare {
        findings.fault(
            CHECK,
            format!(
                "weights and kv_cache_bytes take {} and {} can be had",
                bytes(wanted),
                bytes(spare)
            ),
            "lower kv_cache_bytes, or set it to 0 for half of what is left",
        );
    } else if plan.kv_budget_bytes < plan.kv_bytes_per_context {
        findings.note(
            CHECK,
            format!(
                "the cache holds {} tokens, less than one context of {}",
                plan.kv_budget_tokens, plan.context_tokens
            ),
            "lower context_tokens, so that requests that can't fit are refused at once",
        );
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn judged(weights: u64, budget: u64, spare: u64) -> String {
        let plan = Plan {
            weight_bytes: weights,
            kv_bytes_per_token: 10,
            context_tokens: 100,
            slots: 2,
            kv_bytes_per_context: 1000,
            kv_bytes_full: 2000,
            kv_budget_bytes: budget,
            kv_budget_tokens: budget / 10,
        };
        let mut findings = Findings::default();
        judge(&plan, spare, &mut findings);
        findings.text()
    }

    #[test]
    fn what_does_not_fit_is_a_fault_and_a_small_cache_is_told() {
        assert_eq!(judged(5000, 1000, 6000), "");
        assert!(judged(5000, 1000, 4999).contains("FAULT memory    the weights take"));
        assert!(judged(5000, 1001, 6000).contains("FAULT memory    weights and kv_cache_bytes"));
        assert!(judged(5000, 990, 6000).contains("note  memory    the cache holds 99 tokens"));
    }
}
