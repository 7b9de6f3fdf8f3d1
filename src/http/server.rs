//! The one way a listener is made: bounds against slow and endless clients, [`Edge`] outermost, stopped by [`Stop`].

use std::future::Future;
use std::io;
use std::net::SocketAddr;
use std::sync::Arc;

use actix_web::web::ServiceConfig;
use actix_web::{App, HttpRequest, HttpResponse, HttpServer, web};

use super::{BodyLimits, Edge, Problem, TrustedProxies, edge};
use crate::config;
use crate::event::{Clock, IdSource};
use crate::lifecycle::Stop;

/// How long a connection that is being closed may still send, so that the client gets to read the answer.
const LINGER: std::time::Duration = std::time::Duration::from_secs(2);

/// Binds `listen` and answers its address (port 0 takes a free one) with the future that serves until `stop`: softly,
/// requests in hand are finished within `server.shutdown_timeout`; hard, at once.
///
/// `routes` is called once a worker, on the worker's thread.
///
/// # Errors
/// The address cannot be bound.
pub fn serve<F>(
    listen: SocketAddr,
    config: &config::Server,
    stop: &Stop,
    clock: Arc<dyn Clock>,
    ids: Arc<dyn IdSource>,
    routes: F,
) -> io::Result<(SocketAddr, impl Future<Output = io::Result<()>> + Send + use<F>)>
where
    F: Fn(&mut ServiceConfig) + Clone + Send + 'static,
{
    let edge = Edge::new(ids, clock, &config.cors_origins);
    let limits = BodyLimits {
        sent_max: bytes(config.body_bytes_max),
        inflated_max: bytes(config.body_bytes_max),
        time_max: config.body_timeout,
    };
    let proxies = web::Data::new(TrustedProxies(config.trusted_proxies.clone()));
    // Answers that would not end by themselves watch it.
    let stopping = web::Data::new(stop.clone());
    let mut server = HttpServer::new(move || {
        App::new()
            .app_data(stopping.clone())
            .app_data(web::Data::new(limits))
            .app_data(proxies.clone())
            .configure(routes.clone())
            .default_service(web::to(nothing_here))
            .wrap(edge.clone())
    })
    .keep_alive(config.keep_alive)
    .client_request_timeout(config.head_timeout)
    .client_disconnect_timeout(LINGER)
    // A client that has gone asks nothing any more: its question is dropped, see [`Edge`].
    .h1_allow_half_closed(false)
    .max_connections(config.connections_max)
    .tcp_nodelay(true)
    .disable_signals()
    .shutdown_signal(stop.soft_token().clone().cancelled_owned())
    .shutdown_timeout(config.shutdown_timeout.as_secs().max(1));
    if config.workers > 0 {
        server = server.workers(config.workers);
    }
    let server = server.bind(listen)?;
    let address = server.addrs().first().copied().unwrap_or(listen);
    let mut running = server.run();
    let (handle, hard) = (running.handle(), stop.hard_token().clone());
    let serving = async move {
        tokio::select! {
            ended = &mut running => ended,
            () = hard.cancelled() => {
                handle.stop(false).await;
                running.await
            }
        }
    };
    Ok((address, serving))
}

async fn nothing_here(request: HttpRequest) -> Result<HttpResponse, Problem> {
    Err(edge::no_route(request.method(), request.path()))
}

fn bytes(size: bytesize::ByteSize) -> usize {
    usize::try_from(size.as_u64()).unwrap_or(usize::MAX)
}

#[cfg(test)]
mod tests;
