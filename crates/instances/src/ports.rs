//! Free TCP ports of 127.0.0.1.
//!
//! Not those that the kernel gives to outgoing connections: a port from that range is free now, and somebody's source port
//! when the server that it was meant for starts, or starts again.

use crate::{InstanceError, error::os};
use rand::RngExt as _;
use std::{fs, net::TcpListener, ops::RangeInclusive};

/// Below it live well-known services.
const LOWEST: u16 = 10_000;
/// A range smaller than this is not worth drawing from.
const ENOUGH: u16 = 2_000;
const DRAWS: usize = 200;

/// A listener on a free port: nobody else gets the port while it lives.
///
/// # Errors
/// When no port is free.
pub fn free_listener() -> Result<TcpListener, InstanceError> {
    if let Some(range) = stable_range(&fs::read_to_string("/proc/sys/net/ipv4/ip_local_port_range").unwrap_or_default())
    {
        let mut random = rand::rng();
        let drawn = (0..DRAWS).find_map(|_| bind(random.random_range(range.clone())).ok());
        if let Some(listener) = drawn {
            return Ok(listener);
        }
    }
    bind(0).map_err(os("find a free port"))
}

pub(crate) fn free_port() -> Result<u16, InstanceError> {
    let address = free_listener()?.local_addr();
    Ok(address.map_err(os("find a free port"))?.port())
}

pub(crate) fn is_free(port: u16) -> bool {
    bind(port).is_ok()
}

fn bind(port: u16) -> std::io::Result<TcpListener> {
    TcpListener::bind(("127.0.0.1", port))
}

/// What lies outside of the kernel's range, given as `32768 60999`.
fn stable_range(kernels: &str) -> Option<RangeInclusive<u16>> {
    let mut ends = kernels.split_whitespace().map_while(|end| end.parse::<u16>().ok());
    let (low, high) = (ends.next()?, ends.next()?);
    if low.saturating_sub(LOWEST) >= ENOUGH {
        return Some(LOWEST..=low - 1);
    }
    (u16::MAX - high >= ENOUGH).then(|| high + 1..=u16::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ports_are_taken_from_outside_of_the_kernels_range() {
        assert_eq!(stable_range("32768\t60999\n"), Some(10_000..=32_767));
        assert_eq!(stable_range("10500 60999"), Some(61_000..=65_535));
        assert_eq!(stable_range("1024 65535"), None);
        assert_eq!(stable_range(""), None);
    }

    #[test]
    fn a_listener_holds_its_port() {
        let held = free_listener().unwrap();
        let port = held.local_addr().unwrap().port();

        assert!(!is_free(port));
        drop(held);
        assert!(is_free(port));
    }
}
