//! Is the engine there? A greeting of the native protocol, without a runtime.

use std::io::{self, Read, Write};
use std::net::{Shutdown, SocketAddr, TcpStream};
use std::time::Duration;

/// What the port said.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Greeting {
    /// It knows this user and is ready for queries.
    Welcome,
    /// Nobody listens.
    Closed,
    /// Somebody listens, but did not answer in time.
    Silent,
    /// It answers something else: another program, or a user it does not know.
    Refused,
}

/// The first revision of the protocol whose greeting has the fields below.
const REVISION: u64 = 54448;

/// Greets the engine as `user`, waiting at most `limit` for each step.
pub(super) fn greet(address: SocketAddr, user: &str, password: &str, limit: Duration) -> Greeting {
    let mut stream = match TcpStream::connect_timeout(&address, limit) {
        Ok(stream) => stream,
        Err(error) if error.kind() == io::ErrorKind::TimedOut => return Greeting::Silent,
        Err(_) => return Greeting::Closed,
    };
    let answer = (|| {
        stream.set_read_timeout(Some(limit))?;
        stream.set_write_timeout(Some(limit))?;
        stream.write_all(&hello(user, password))?;
        let mut first = [0u8; 1];
        stream.read_exact(&mut first)?;
        part(&mut stream);
        Ok::<u8, io::Error>(first[0])
    })();
    match answer {
        // ServerPacketId: Hello.
        Ok(0) => Greeting::Welcome,
        Ok(_) => Greeting::Refused,
        Err(error) if matches!(error.kind(), io::ErrorKind::WouldBlock | io::ErrorKind::TimedOut) => {
            Greeting::Silent
        }
        Err(_) => Greeting::Closed,
    }
}

/// Ends the conversation as the engine likes it: a connection that is closed with bytes unread is reset, and the
/// embedded engine dies of a reset (seen: `std::terminate` in its connection thread).
fn part(stream: &mut TcpStream) {
    let _ = stream.shutdown(Shutdown::Write);
    let _ = io::copy(&mut stream.take(1 << 16), &mut io::sink());
}

fn hello(user: &str, password: &str) -> Vec<u8> {
    let mut out = Vec::new();
    // ClientPacketId: Hello.
    number(&mut out, 0);
    text(&mut out, "flexflow probe");
    number(&mut out, 1);
    number(&mut out, 0);
    number(&mut out, REVISION);
    text(&mut out, "");
    text(&mut out, user);
    text(&mut out, password);
    out
}

fn number(out: &mut Vec<u8>, mut value: u64) {
    while value > 0x7f {
        out.push(u8::try_from(value & 0x7f).unwrap_or(0) | 0x80);
        value >>= 7;
    }
    out.push(u8::try_from(value).unwrap_or(0));
}

fn text(out: &mut Vec<u8>, value: &str) {
    number(out, value.len() as u64);
    out.extend_from_slice(value.as_bytes());
}

#[cfg(test)]
mod tests {
    use std::net::TcpListener;

    use super::*;

    const SHORT: Duration = Duration::from_millis(200);

    #[test]
    fn a_port_is_closed_silent_or_somebody_elses() {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = listener.local_addr().unwrap();
        assert_eq!(greet(address, "u", "p", SHORT), Greeting::Silent);
        let other = std::thread::spawn(move || {
            // The first connection is the silent one above.
            let _silent = listener.accept().unwrap();
            let (mut stream, _) = listener.accept().unwrap();
            stream.write_all(b"HTTP/1.1 400").unwrap();
        });
        assert_eq!(greet(address, "u", "p", SHORT), Greeting::Refused);
        other.join().unwrap();
        assert_eq!(greet(address, "u", "p", SHORT), Greeting::Closed);
    }
}
