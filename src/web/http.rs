//! The addresses of the page.

use actix_web::http::header;
use actix_web::web::{Data, Path, ServiceConfig, resource};
use actix_web::{HttpRequest, HttpResponse};

use super::{File, POLICY, Pages, SCREENS};
use crate::http::{ErrorCode, Problem};

/// The content of such a path never changes.
const FOR_EVER: &str = "public, max-age=31536000, immutable";

/// The routes. They need `web::Data<Pages>`.
pub fn routes(config: &mut ServiceConfig) {
    config.service(resource("/").get(index)).service(resource("/web/{version}/{file:.*}").get(file));
    for screen in SCREENS {
        config
            .service(resource(format!("/{screen}")).get(index))
            .service(resource(format!("/{screen}/{{rest:.*}}")).get(index));
    }
}

async fn index(request: HttpRequest, pages: Data<Pages>) -> HttpResponse {
    let site = pages.newest();
    let tag = format!("\"{}\"", site.version);
    let known = request.headers().get(header::IF_NONE_MATCH).and_then(|value| value.to_str().ok());
    if known.is_some_and(|known| known.split(',').any(|one| one.trim().trim_start_matches("W/") == tag)) {
        return HttpResponse::NotModified().insert_header((header::ETAG, tag)).finish();
    }
    let mut answer = HttpResponse::Ok();
    answer
        .insert_header((header::ETAG, tag))
        .insert_header((header::CACHE_CONTROL, "no-cache"))
        .insert_header(("Content-Security-Policy", POLICY))
        .insert_header(("Cross-Origin-Opener-Policy", "same-origin"));
    send(&request, &site.index, answer)
}

async fn file(
    request: HttpRequest,
    path: Path<(String, String)>,
    pages: Data<Pages>,
) -> Result<HttpResponse, Problem> {
    let (version, name) = path.into_inner();
    let site = pages.site();
    let found = site.files.get(&name).filter(|_| version == site.version);
    let Some(found) = found else {
        let message = "the page has no such file; FlexFlow may have been updated: reload the page";
        return Err(Problem::new(ErrorCode::NotFound, message));
    };
    let mut answer = HttpResponse::Ok();
    answer.insert_header((header::CACHE_CONTROL, FOR_EVER));
    Ok(send(&request, found, answer))
}

fn send(request: &HttpRequest, file: &File, mut answer: actix_web::HttpResponseBuilder) -> HttpResponse {
    answer
        .content_type(file.kind)
        .insert_header((header::X_CONTENT_TYPE_OPTIONS, "nosniff"))
        .insert_header((header::REFERRER_POLICY, "no-referrer"))
        .insert_header((header::VARY, "Accept-Encoding"));
    for (name, packed) in [("br", File::brotli as fn(&File) -> bytes::Bytes), ("gzip", File::gzip)] {
        if takes(request, name) {
            return answer.insert_header((header::CONTENT_ENCODING, name)).body(packed(file));
        }
    }
    answer.body(file.plain.clone())
}

/// Does the client take this encoding?
fn takes(request: &HttpRequest, encoding: &str) -> bool {
    let accepted = request.headers().get(header::ACCEPT_ENCODING).and_then(|value| value.to_str().ok());
    accepted.is_some_and(|accepted| {
        accepted.split(',').any(|one| {
            let (name, quality) = one.split_once(';').unwrap_or((one, ""));
            name.trim().eq_ignore_ascii_case(encoding) && quality.replace(' ', "") != "q=0"
        })
    })
}
