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
mod load;
mod machine;
mod pipeline;
mod query;

#[tokio::main]
async fn main() {
    rustls::crypto::ring::default_provider().install_default().ok();
    let args: Vec<String> = std::env::args().skip(1).filter(|arg| arg != "--bench").collect();
    let name = args.first().map_or("all", String::as_str);
    let amount = |default: u64| args.get(1).map_or(default, |text| text.parse().expect("a number"));
    println!("{}", machine::describe());
    match name {
        "all" => {
            capture::single(15).await;
            capture::bulk(60).await;
            pipeline::visible(30).await;
            pipeline::steady(60).await;
            pipeline::catch_up(10).await;
            query::query(50).await;
        }
        "single" => capture::single(amount(15)).await,
        "bulk" => capture::bulk(amount(60)).await,
        "auth" => {
            auth::checks().await;
            auth::flood(amount(15)).await;
        }
        "visible" => pipeline::visible(amount(30)).await,
        "steady" => pipeline::steady(amount(60)).await,
        "query" => query::query(amount(5)).await,
        "catch-up" => pipeline::catch_up(amount(10)).await,
        other => {
            println!("no bench {other:?}; there are: all, single, bulk, visible, steady, catch-up, query");
            std::process::exit(2);
        }
    }
}
