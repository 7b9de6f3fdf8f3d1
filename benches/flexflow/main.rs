//! `just bench [NAME] [seconds or millions]`: what FlexFlow does on this machine, each figure beside its ceiling from
//! the same run. Results belong into `benches/RESULTS.md`. The load generator shares the cores with what it measures.

#![allow(
    unreachable_pub,
    clippy::cast_precision_loss,
    clippy::cast_possible_truncation,
    clippy::cast_sign_loss,
    clippy::expect_used,
    clippy::print_stdout,
    clippy::disallowed_methods,
    clippy::allow_attributes,
    reason = "a program that measures and prints, outside of the product"
)]

mod auth;
mod capture;
mod catch_up;
mod kafka;
mod kafka_engine;
mod load;
mod machine;
mod parse;
mod pipeline;
mod query;
mod report;
mod reprocess;
mod stages;
mod transform;
mod usage;
mod web;

/// As in the product.
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

#[tokio::main]
async fn main() {
    rustls::crypto::ring::default_provider().install_default().ok();
    flexflow::telemetry::recorder().expect("the recorder");
    let args: Vec<String> = std::env::args().skip(1).filter(|arg| arg != "--bench").collect();
    let name = args.first().map_or("all", String::as_str);
    let amount = |default: u64| args.get(1).map_or(default, |text| text.parse().expect("a number"));
    match name {
        "all" => {
            parse::run(2.0).await;
            transform::run(2.0);
            capture::single(15).await;
            capture::bulk(60).await;
            pipeline::visible(30).await;
            pipeline::steady(60).await;
            catch_up::run(amount(10)).await;
        }
        // Everything for a moment: does it work?
        "short" => {
            parse::run(0.2).await;
            transform::run(0.2);
            capture::single(1).await;
            capture::bulk(2).await;
            pipeline::visible(3).await;
            pipeline::steady(5).await;
            catch_up::run(1).await;
        }
        "transform" => transform::run(amount(3) as f64),
        "parse" => parse::run(amount(3) as f64).await,
        "single" => capture::single(amount(15)).await,
        "bulk" => capture::bulk(amount(60)).await,
        "auth" => {
            auth::checks().await;
            auth::flood(amount(15)).await;
        }
        "visible" => pipeline::visible(amount(30)).await,
        "steady" => pipeline::steady(amount(60)).await,
        "kafka" => kafka::run(amount(15)).await,
        "reprocess" => reprocess::run(amount(1)).await,
        "stages" => stages::run(amount(1)).await,
        "query" => query::query(amount(5)).await,
        "usage" => usage::run(amount(5)).await,
        "web" => web::run(amount(10)).await,
        "catch-up" => catch_up::run(amount(10)).await,
        other => {
            println!(
                "no bench {other:?}; there are: all, short, parse, transform, single, bulk, auth, visible, steady, catch-up, query, stages, reprocess, usage, kafka, web"
            );
            std::process::exit(2);
        }
    }
    report::print(&machine::describe());
}
