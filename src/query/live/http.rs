//! The stream of events that arrive, as server-sent events.
//!
//! | event | data |
//! |---|---|
//! | `open` | `{}`: what arrives from here on will be told |
//! | `event` | an event, as in the list of events |
//! | `dropped` | `{"dropped": n}`: so many more arrived and are not told |
//! | `heartbeat` | `{"complete_to": …}`: nothing arrived; what was accepted before this moment was told |
//! | `fault` | `{"code", "message"}`: the store does not answer; the stream goes on |
//! | `end` | `{"reason": "drain" or "time"}`: ask again |

use std::convert::Infallible;
use std::time::{Duration, Instant};

use actix_web::http::header;
use actix_web::web::{Data, ServiceConfig, resource};
use actix_web::{HttpRequest, HttpResponse};
use bytes::Bytes;
use futures::Stream;
use futures::stream::unfold;
use serde::Serialize;
use serde_json::json;

use super::super::Query;
use super::super::http::{allowed, timed};
use super::{Feed, parse};
use crate::http::Problem;
use crate::lifecycle::Stop;
use crate::telemetry::names as metric;

/// Longest silence of a stream.
const HEARTBEAT: Duration = Duration::from_secs(5);

/// The route. It needs what those of the questions do, and `web::Data<Stop>`.
pub fn routes(config: &mut ServiceConfig) {
    config.service(resource("/api/query/events/live").get(live));
}

async fn live(request: HttpRequest, query: Data<Query>, stop: Data<Stop>) -> Result<HttpResponse, Problem> {
    let feed = timed("live", &metric::QUERY_LIVE_DURATION, async {
        let access = allowed(&request, &query).await?;
        Feed::open(&query, &access.scope, parse(request.query_string())?).await
    });
    let now = Instant::now();
    let telling = Telling { feed: feed.await?, stop: (**stop).clone(), began: now, told: now, at: At::Open };
    Ok(HttpResponse::Ok()
        .content_type("text/event-stream")
        .insert_header((header::CACHE_CONTROL, "no-store"))
        // A proxy that gathers the answer would hold it for ever.
        .insert_header(("X-Accel-Buffering", "no"))
        .streaming(telling.stream()))
}

/// Where a stream stands.
#[derive(Clone, Copy, PartialEq, Eq)]
enum At {
    Open,
    Well,
    /// The store did not answer the last look.
    Faulty,
    Ended,
}

struct Telling {
    feed: Feed,
    stop: Stop,
    began: Instant,
    /// When something was told last.
    told: Instant,
    at: At,
}

impl Telling {
    fn stream(self) -> impl Stream<Item = Result<Bytes, Infallible>> {
        unfold(self, |mut telling| async move {
            let next = telling.next().await?;
            telling.told = Instant::now();
            Some((Ok(Bytes::from(next)), telling))
        })
    }

    /// What is told next; `None`: nothing any more.
    async fn next(&mut self) -> Option<String> {
        let limits = self.feed.query.limits.clone();
        loop {
            match self.at {
                At::Ended => return None,
                At::Open => {
                    self.at = At::Well;
                    return Some(message("open", &json!({})));
                }
                At::Well | At::Faulty => {}
            }
            tokio::select! {
                () = self.stop.soft_token().cancelled() => return Some(self.end("drain")),
                () = tokio::time::sleep(limits.live_interval) => {}
            }
            if self.began.elapsed() >= limits.live_time_max {
                return Some(self.end("time"));
            }
            let began = Instant::now();
            let looked = self.feed.look().await;
            metric::QUERY_LIVE_DURATION.histogram(&[]).record(began.elapsed());
            match looked {
                Err(problem) => {
                    let again = self.at == At::Faulty && self.told.elapsed() < HEARTBEAT;
                    self.at = At::Faulty;
                    if !again {
                        let said = json!({ "code": problem.code.as_str(), "message": problem.message });
                        return Some(message("fault", &said));
                    }
                }
                Ok(look) => {
                    let healed = std::mem::replace(&mut self.at, At::Well) == At::Faulty;
                    let mut said = String::new();
                    if look.dropped > 0 {
                        said.push_str(&message("dropped", &json!({ "dropped": look.dropped })));
                    }
                    look.events.iter().for_each(|event| said.push_str(&message("event", event)));
                    if said.is_empty() && (healed || self.told.elapsed() >= HEARTBEAT) {
                        said = message("heartbeat", &json!({ "complete_to": look.complete_to }));
                    }
                    if !said.is_empty() {
                        return Some(said);
                    }
                }
            }
        }
    }

    fn end(&mut self, reason: &str) -> String {
        self.at = At::Ended;
        message("end", &json!({ "reason": reason }))
    }
}

/// One message. JSON holds line breaks only between its words, where a space does as well.
fn message(kind: &str, data: &impl Serialize) -> String {
    let data = serde_json::to_string(data).unwrap_or_default().replace(['\n', '\r'], " ");
    format!("event: {kind}\ndata: {data}\n\n")
}

#[cfg(test)]
mod tests {
    use serde_json::value::RawValue;

    use super::*;

    #[test]
    fn a_message_is_one_line_of_data_whatever_stands_in_it() {
        let sent = RawValue::from_string("{\r\n  \"a\": \"x\\ny\"\n}".to_owned()).unwrap();
        assert_eq!(message("event", &sent), "event: event\ndata: {    \"a\": \"x\\ny\" }\n\n");
    }
}
