//! A question whose client has gone is ended in the store, not answered to nobody.

use std::io::Write as _;
use std::net::TcpStream;

use flexflow::store::Sql;
use serde_json::{Value, json};

use crate::support::{Sandbox, eventually};

/// Questions of this test that the store works on.
async fn under_way(app: &Sandbox) -> u64 {
    let sql = Sql::new(
        "SELECT count() AS n FROM system.processes WHERE query LIKE '%CROSS JOIN%' AND query NOT LIKE \
         '%system.processes%'",
    );
    app.running.store().unwrap().select::<(u64,)>(sql).await.unwrap()[0].0
}

#[tokio::test(flavor = "multi_thread")]
async fn a_question_that_its_client_leaves_ends_in_the_store() {
    // Longer than the test waits: nothing but the client's leaving ends it.
    let app = Sandbox::with(&[("query.timeout", "30m")]).await;
    let client = &app.client;
    let events: Value = (0..300).map(|at| json!({"event": "e", "distinct_id": format!("p{at}")})).collect();
    client.accept(&events).await;
    client.settled(300).await;

    let endless = "SELECT count() FROM events a CROSS JOIN events b CROSS JOIN events c CROSS JOIN events d \
                   CROSS JOIN events e WHERE a.event_id < e.event_id";
    let body = json!({ "query": endless }).to_string();
    let mut socket = TcpStream::connect(client.url.trim_start_matches("http://")).unwrap();
    write!(
        socket,
        "POST /api/query/sql HTTP/1.1\r\nHost: localhost\r\nX-API-Key: {}\r\nContent-Type: application/json\r\n\
         Content-Length: {}\r\n\r\n{body}",
        client.key,
        body.len()
    )
    .unwrap();
    eventually("the store works on the question", || async {
        if under_way(&app).await == 1 { Ok(()) } else { Err("it does not".to_owned()) }
    })
    .await;
    drop(socket);
    eventually("the store has left the question", || async {
        if under_way(&app).await == 0 { Ok(()) } else { Err("it works on".to_owned()) }
    })
    .await;
    app.stop().await;
}
