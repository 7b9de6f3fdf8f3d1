//! What a transform spends on a raw event: the one that every environment has at first. No server, no load: one thread.

use std::hint::black_box;
use std::time::{Duration, Instant};

use flexflow::transform::{DEFAULT, Limits, Outcome, Spec};

use crate::report;

const PAYLOADS: usize = 1000;

fn payload(i: usize) -> String {
    format!(
        "{{\"id\":\"call-{i:012}\",\"orgId\":\"org-{:05}\",\"methodName\":\"Chat.Completion\",\"providerName\":\"OpenAI\",\
         \"serviceName\":\"llm\",\"createdAt\":\"2026-01-31T12:00:00.{:03}Z\",\"startedAt\":\"2026-01-31T11:59:59Z\",\
         \"targetItemId\":\"agent-{i}\",\"targetItemType\":\"agent\",\"referenceId\":\"ref-{i}\",\"referenceType\":\"call\",\
         \"referenceCost\":0.00123,\"byok\":false,\"dataInterface\":\"http\",\"data\":{{\"modelName\":\"gpt-4o-mini\",\
         \"promptTokens\":{},\"cachedPromptTokens\":{},\"completionTokens\":512,\"durationMS\":2431,\"channels\":1,\
         \"region\":\"eu\"}}}}",
        i % 1000,
        i % 1000,
        1000 + i,
        i % 500,
    )
}

/// Raw events a second of one core.
pub fn run(seconds: f64) {
    let mapping = Spec::read(DEFAULT).expect("a spec").compile().expect("a transform");
    let payloads: Vec<String> = (0..PAYLOADS).map(payload).collect();
    let limits = Limits { events_max: 100, work_max: 4_000_000 };
    let (begun, mut best) = (Instant::now(), Duration::MAX);
    while begun.elapsed().as_secs_f64() < seconds {
        let run = Instant::now();
        for payload in &payloads {
            let outcome = mapping.apply(black_box(payload), "raw", limits).expect("no error");
            assert!(matches!(black_box(outcome), Outcome::Events(_)));
        }
        best = best.min(run.elapsed());
    }
    let bytes: usize = payloads.iter().map(String::len).sum();
    report::note(
        format!("transform of a raw event, {} bytes, one core", bytes / PAYLOADS),
        format!(
            "{:.0}/s ({:.0} ns)",
            PAYLOADS as f64 / best.as_secs_f64(),
            best.as_secs_f64() * 1e9 / PAYLOADS as f64
        ),
    );
}
