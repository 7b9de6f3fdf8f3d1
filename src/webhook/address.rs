//! Which addresses may be connected to: those of the public network, unless private ones are allowed. Names are resolved
//! here and the connection goes to one of the addresses that were checked, so a name that answers otherwise a moment
//! later (DNS rebinding) gains nothing.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};

use reqwest::dns::{Addrs, Name, Resolve, Resolving};

/// A name resolves to addresses that may not be connected to.
#[derive(Clone, PartialEq, Eq, Debug, thiserror::Error)]
#[error("{name} is at {address}, which is no public address (webhook.allow_private)")]
pub(super) struct PrivateAddress {
    pub name: String,
    pub address: IpAddr,
}

/// Resolves names as the system does, and leaves out what may not be connected to.
#[derive(Clone, Copy, Debug)]
pub(super) struct Resolver {
    pub allow_private: bool,
}

impl Resolve for Resolver {
    fn resolve(&self, name: Name) -> Resolving {
        let allow_private = self.allow_private;
        Box::pin(async move {
            let name = name.as_str().to_owned();
            // The port is the connection's business.
            let found: Vec<SocketAddr> = tokio::net::lookup_host((name.as_str(), 0)).await?.collect();
            let (good, bad): (Vec<SocketAddr>, Vec<SocketAddr>) =
                found.into_iter().partition(|address| allow_private || is_public(address.ip()));
            match (good.is_empty(), bad.first()) {
                (true, Some(address)) => Err(PrivateAddress { name, address: address.ip() }.into()),
                _ => Ok(Box::new(good.into_iter()) as Addrs),
            }
        })
    }
}

/// Is this an address that anybody on the public network has?
pub(super) fn is_public(address: IpAddr) -> bool {
    match address {
        IpAddr::V4(address) => is_public_v4(address),
        IpAddr::V6(address) => is_public_v6(address),
    }
}

fn is_public_v4(address: Ipv4Addr) -> bool {
    let [a, b, c, _] = address.octets();
    let special = address.is_private()
        || address.is_loopback()
        || address.is_link_local()
        || address.is_multicast()
        || address.is_broadcast()
        || address.is_documentation()
        || a == 0
        // Shared by customers of a provider.
        || (a == 100 && (64..128).contains(&b))
        // Of protocols; 6to4 relays; benchmarks; reserved.
        || (a == 192 && b == 0 && c == 0)
        || (a == 192 && b == 88 && c == 99)
        || (a == 198 && (18..20).contains(&b))
        || a >= 240;
    !special
}

fn is_public_v6(address: Ipv6Addr) -> bool {
    // Forms in which an IPv4 address travels.
    if let Some(inner) = address.to_ipv4_mapped() {
        return is_public_v4(inner);
    }
    let [a, b, c, d, e, f, g, h] = address.segments();
    let inner = |high: u16, low: u16| {
        let ([one, two], [three, four]) = (high.to_be_bytes(), low.to_be_bytes());
        Ipv4Addr::new(one, two, three, four)
    };
    match (a, b) {
        // NAT64.
        (0x64, 0xff9b) => (c, d, e, f) == (0, 0, 0, 0) && is_public_v4(inner(g, h)),
        // 6to4.
        (0x2002, _) => is_public_v4(inner(b, c)),
        // Teredo and others of protocols; documentation.
        (0x2001, 0x0db8) => false,
        (0x2001, second) if second < 0x0200 => false,
        (0x3fff, second) if second < 0x1000 => false,
        // Only this part of the addresses is given out as global.
        _ => (0x2000..0x4000).contains(&a),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_public_addresses_are_public_in_every_form_they_travel_in() {
        for public in
            ["93.184.216.34", "1.1.1.1", "2606:4700:4700::1111", "::ffff:8.8.8.8", "64:ff9b::808:808"]
        {
            assert!(is_public(public.parse().unwrap()), "{public}");
        }
        for private in [
            "127.0.0.1",
            "127.8.9.1",
            "10.1.2.3",
            "172.16.0.1",
            "172.31.255.255",
            "192.168.1.1",
            "169.254.169.254",
            "100.64.0.1",
            "0.0.0.0",
            "0.1.2.3",
            "192.0.0.8",
            "192.0.2.1",
            "198.18.0.1",
            "198.51.100.1",
            "203.0.113.9",
            "224.0.0.1",
            "240.0.0.1",
            "255.255.255.255",
            "::1",
            "::",
            "fe80::1",
            "fc00::1",
            "fd12::1",
            "ff02::1",
            "::ffff:10.0.0.1",
            "::ffff:127.0.0.1",
            "64:ff9b::a00:1",
            "2002:a00:1::",
            "2002:7f00:1::1",
            "2001:db8::1",
            "2001::1",
            "::10.0.0.1",
            "fec0::1",
        ] {
            assert!(!is_public(private.parse().unwrap()), "{private}");
        }
    }
}
