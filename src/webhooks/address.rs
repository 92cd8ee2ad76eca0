//! Which addresses are the public's, and what the others are.
//!
//! An IPv4 address inside an IPv6 one (mapped, NAT64, 6to4) is judged as what it leads to.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use ipnet::{Ipv4Net, Ipv6Net};

/// Of IPv4, what nobody outside may be led to.
const V4: [(Ipv4Net, &str); 18] = [
    (v4(0, 0, 0, 0, 8), "unspecified"),
    (v4(10, 0, 0, 0, 8), "private"),
    (v4(100, 64, 0, 0, 10), "shared by a carrier (CGNAT)"),
    (v4(127, 0, 0, 0, 8), "loopback"),
    (v4(168, 63, 129, 16, 32), "a cloud's metadata service"),
    (v4(169, 254, 0, 0, 16), "link-local (metadata services are there)"),
    (v4(172, 16, 0, 0, 12), "private"),
    (v4(192, 0, 0, 0, 24), "reserved"),
    (v4(192, 0, 2, 0, 24), "for documentation"),
    (v4(192, 31, 196, 0, 24), "reserved"),
    (v4(192, 52, 193, 0, 24), "reserved"),
    (v4(192, 88, 99, 0, 24), "a relay of 6to4"),
    (v4(192, 168, 0, 0, 16), "private"),
    (v4(198, 18, 0, 0, 15), "for benchmarks"),
    (v4(198, 51, 100, 0, 24), "for documentation"),
    (v4(203, 0, 113, 0, 24), "for documentation"),
    (v4(224, 0, 0, 0, 4), "multicast"),
    (v4(240, 0, 0, 0, 4), "reserved"),
];

/// Of IPv6's global addresses, what is not the public's.
const V6: [(Ipv6Net, &str); 3] = [
    (v6(0x2001, 0, 23), "reserved (Teredo and others)"),
    (v6(0x2001, 0xdb8, 32), "for documentation"),
    (v6(0x3fff, 0, 20), "for documentation"),
];

/// Of the rest, what has a name; whatever else is not global is reserved.
const V6_SPECIAL: [(Ipv6Net, &str); 5] = [
    (v6(0xfc00, 0, 7), "unique-local"),
    (v6(0xfe80, 0, 10), "link-local"),
    (v6(0xfec0, 0, 10), "site-local"),
    (v6(0xff00, 0, 8), "multicast"),
    (v6(0x0064, 0xff9b, 32), "a local NAT64 prefix"),
];

const fn v4(a: u8, b: u8, c: u8, d: u8, prefix: u8) -> Ipv4Net {
    Ipv4Net::new_assert(Ipv4Addr::new(a, b, c, d), prefix)
}

const fn v6(first: u16, second: u16, prefix: u8) -> Ipv6Net {
    Ipv6Net::new_assert(Ipv6Addr::new(first, second, 0, 0, 0, 0, 0, 0), prefix)
}

/// What the address is, if it is not the public's.
pub(super) fn not_public(address: IpAddr) -> Option<&'static str> {
    match address.to_canonical() {
        IpAddr::V4(address) => kind(&V4, |net| net.contains(&address)),
        IpAddr::V6(address) => match embedded(address) {
            Some(inner) => kind(&V4, |net| net.contains(&inner)),
            None if address.is_unspecified() => Some("unspecified"),
            None if address.is_loopback() => Some("loopback"),
            None if address.segments()[0] >> 13 == 1 => kind(&V6, |net| net.contains(&address)),
            None => Some(kind(&V6_SPECIAL, |net| net.contains(&address)).unwrap_or("reserved")),
        },
    }
}

fn kind<N>(nets: &[(N, &'static str)], contains: impl Fn(&N) -> bool) -> Option<&'static str> {
    let (_, kind) = nets.iter().find(|(net, _)| contains(net))?;
    Some(kind)
}

/// The IPv4 address that a translator would make of it (NAT64, 6to4, and the old "compatible" form).
fn embedded(address: Ipv6Addr) -> Option<Ipv4Addr> {
    let v4 = |high: u16, low: u16| Ipv4Addr::from_bits(u32::from(high) << 16 | u32::from(low));
    match address.segments() {
        [0x64, 0xff9b, 0, 0, 0, 0, high, low] => Some(v4(high, low)),
        [0x2002, high, low, ..] => Some(v4(high, low)),
        [0, 0, 0, 0, 0, 0, high, low] if high != 0 => Some(v4(high, low)),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_the_publics_addresses_are_public() {
        for (text, kind) in [
            ("0.0.0.0", "unspecified"),
            ("0.1.2.3", "unspecified"),
            ("10.0.0.1", "private"),
            ("10.255.255.255", "private"),
            ("100.64.0.1", "shared by a carrier (CGNAT)"),
            ("100.100.100.200", "shared by a carrier (CGNAT)"),
            ("100.127.255.255", "shared by a carrier (CGNAT)"),
            ("127.0.0.1", "loopback"),
            ("127.255.255.254", "loopback"),
            ("168.63.129.16", "a cloud's metadata service"),
            ("169.254.169.254", "link-local (metadata services are there)"),
            ("172.16.0.1", "private"),
            ("172.31.255.255", "private"),
            ("192.0.0.192", "reserved"),
            ("192.0.2.1", "for documentation"),
            ("192.88.99.1", "a relay of 6to4"),
            ("192.168.0.1", "private"),
            ("198.18.0.1", "for benchmarks"),
            ("198.19.255.255", "for benchmarks"),
            ("198.51.100.7", "for documentation"),
            ("203.0.113.7", "for documentation"),
            ("224.0.0.1", "multicast"),
            ("240.0.0.1", "reserved"),
            ("255.255.255.255", "reserved"),
            ("::", "unspecified"),
            ("::1", "loopback"),
            ("::ffff:127.0.0.1", "loopback"),
            ("::ffff:10.1.2.3", "private"),
            (
                "::ffff:169.254.169.254",
                "link-local (metadata services are there)",
            ),
            ("::127.0.0.1", "loopback"),
            ("::ffff:0:10.0.0.1", "reserved"),
            ("64:ff9b::10.0.0.1", "private"),
            (
                "64:ff9b::169.254.169.254",
                "link-local (metadata services are there)",
            ),
            ("64:ff9b:1::1", "a local NAT64 prefix"),
            ("100::1", "reserved"),
            ("2001::1", "reserved (Teredo and others)"),
            ("2001:0:102:304::1", "reserved (Teredo and others)"),
            ("2001:20::1", "reserved (Teredo and others)"),
            ("2001:db8::1", "for documentation"),
            ("2002:7f00:1::1", "loopback"),
            ("2002:a9fe:a9fe::1", "link-local (metadata services are there)"),
            ("2002:c0a8:101::1", "private"),
            ("3fff::1", "for documentation"),
            ("4000::1", "reserved"),
            ("5f00::1", "reserved"),
            ("fc00::1", "unique-local"),
            ("fd00:ec2::254", "unique-local"),
            ("fe80::1", "link-local"),
            ("fec0::1", "site-local"),
            ("ff02::1", "multicast"),
        ] {
            assert_eq!(
                not_public(text.parse().expect("an address")),
                Some(kind),
                "{text}"
            );
        }
        for text in [
            "1.1.1.1",
            "8.8.8.8",
            "9.255.255.255",
            "11.0.0.0",
            "100.63.255.255",
            "100.128.0.0",
            "126.255.255.255",
            "128.0.0.1",
            "168.63.129.17",
            "169.253.255.255",
            "169.255.0.0",
            "172.15.255.255",
            "172.32.0.0",
            "192.167.255.255",
            "192.169.0.0",
            "198.17.255.255",
            "198.20.0.0",
            "223.255.255.255",
            "::ffff:8.8.8.8",
            "64:ff9b::8.8.8.8",
            "2002:808:808::1",
            "2001:200::1",
            "2001:4860:4860::8888",
            "2606:4700:4700::1111",
            "2a00:1450:4001::1",
        ] {
            assert_eq!(not_public(text.parse().expect("an address")), None, "{text}");
        }
    }
}
