//! Where a request comes from, also through proxies that are known.

use std::net::IpAddr;

use actix_web::HttpRequest;
use actix_web::web::Data;

/// The proxies whose `X-Forwarded-For` is believed (`server.trusted_proxies`).
#[derive(Clone, Debug, Default)]
pub struct TrustedProxies(pub Vec<IpAddr>);

/// The client's address: of the connection, unless that is a known proxy's; then the last of `X-Forwarded-For` that is
/// none of them. `None` outside of a listener.
pub fn client_address(request: &HttpRequest) -> Option<IpAddr> {
    let peer = request.peer_addr()?.ip().to_canonical();
    let trusted = request.app_data::<Data<TrustedProxies>>().map(|proxies| proxies.0.as_slice());
    let trusted = trusted.unwrap_or_default();
    let headers = request.headers().get_all("X-Forwarded-For");
    let named: Vec<&str> =
        headers.filter_map(|value| value.to_str().ok()).flat_map(|text| text.split(',')).collect();
    Some(behind(peer, &named, trusted))
}

fn behind(peer: IpAddr, named: &[&str], trusted: &[IpAddr]) -> IpAddr {
    let mut client = peer;
    for hop in named.iter().rev() {
        if !trusted.contains(&client) {
            break;
        }
        let Ok(next) = hop.trim().parse::<IpAddr>() else { break };
        client = next.to_canonical();
    }
    client
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_known_proxies_are_believed() {
        let ip = |text: &str| text.parse::<IpAddr>().unwrap();
        let proxies = [ip("10.0.0.1"), ip("10.0.0.2")];
        assert_eq!(behind(ip("9.9.9.9"), &["1.2.3.4"], &proxies), ip("9.9.9.9"));
        assert_eq!(behind(ip("10.0.0.1"), &[], &proxies), ip("10.0.0.1"));
        assert_eq!(behind(ip("10.0.0.1"), &["6.6.6.6", " 1.2.3.4"], &proxies), ip("1.2.3.4"));
        assert_eq!(behind(ip("10.0.0.1"), &["1.2.3.4", "10.0.0.2"], &proxies), ip("1.2.3.4"));
        assert_eq!(behind(ip("10.0.0.1"), &["1.2.3.4", "nonsense"], &proxies), ip("10.0.0.1"));
    }
}
