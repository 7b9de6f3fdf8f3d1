//! How the page is served.

use flexflow::app::{Options, Role};
use serde_json::Value;

use crate::support::Sandbox;

#[tokio::test(flavor = "multi_thread")]
async fn the_page_is_served_compressed_locked_down_and_for_ever() {
    let app = Sandbox::start().await;
    let (http, url) = (&app.client.http, &app.client.url);
    let get = |path: &str| http.get(format!("{url}{path}"));
    let index = get("/").send().await.unwrap();
    assert_eq!(index.status(), 200);
    let header = |answer: &reqwest::Response, name: &str| {
        answer.headers().get(name).map(|value| value.to_str().unwrap().to_owned()).unwrap_or_default()
    };
    let policy = header(&index, "content-security-policy");
    for rule in [
        "default-src 'none'",
        "script-src 'self';",
        "style-src 'self';",
        "connect-src 'self'",
        "frame-ancestors 'none'",
    ] {
        assert!(policy.contains(rule), "{policy}");
    }
    assert!(!policy.contains("unsafe") && !policy.contains('*'), "{policy}");
    assert_eq!(header(&index, "cache-control"), "no-cache");
    assert_eq!(header(&index, "x-content-type-options"), "nosniff");
    assert_eq!(header(&index, "referrer-policy"), "no-referrer");
    let tag = header(&index, "etag");
    let text = index.text().await.unwrap();
    let known = get("/").header("If-None-Match", &tag).send().await.unwrap();
    assert_eq!(known.status(), 304);

    let script = text.split("src=\"").nth(1).unwrap().split('"').next().unwrap().to_owned();
    let plain = get(&script).send().await.unwrap();
    assert_eq!(header(&plain, "cache-control"), "public, max-age=31536000, immutable");
    assert_eq!(header(&plain, "content-type"), "text/javascript; charset=utf-8");
    let plain = plain.bytes().await.unwrap();
    let packed = get(&script).header("Accept-Encoding", "gzip, deflate").send().await.unwrap();
    assert_eq!(header(&packed, "content-encoding"), "gzip");
    let packed = packed.bytes().await.unwrap();
    let mut unpacked = Vec::new();
    std::io::Read::read_to_end(&mut flate2::read::GzDecoder::new(&*packed), &mut unpacked).unwrap();
    assert_eq!(unpacked, plain);
    let smallest = get(&script).header("Accept-Encoding", "gzip, br").send().await.unwrap();
    assert_eq!(header(&smallest, "content-encoding"), "br");
    assert!(smallest.bytes().await.unwrap().len() < packed.len());
    let old = get("/web/0000000000000000/app.js").send().await.unwrap();
    assert_eq!(old.status(), 404, "another version's file");

    // The address of a screen is the page; an address that is nobody's stays an error of the API.
    for screen in ["/insights/trends", "/events/a%2Fb", "/settings"] {
        let answer = get(screen).send().await.unwrap();
        assert_eq!(answer.status(), 200, "{screen}");
        assert_eq!(answer.text().await.unwrap(), text, "{screen}");
    }
    for nowhere in ["/api/nothing", "/api/query/nothing", "/nothing", "/v1/nothing"] {
        let answer = get(nowhere).header("Accept", "text/html").send().await.unwrap();
        assert_eq!(answer.status(), 404, "{nowhere}");
        let body: Value = answer.json().await.unwrap();
        assert_eq!(body["code"], "not_found", "{nowhere}");
    }
    app.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_process_without_a_page_serves_none() {
    let off = Sandbox::with(&[("server.web", "false")]).await;
    assert_eq!(off.client.get("/").await.0, 404);
    off.stop().await;
    let capture =
        Sandbox::build(tempfile::tempdir().unwrap(), &[Role::Capture], &[], Options::default()).await;
    assert_eq!(capture.client.get("/insights").await.0, 404);
    capture.stop().await;
}
