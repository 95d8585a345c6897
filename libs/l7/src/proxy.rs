//! The PROXY protocol's header, which a load balancer puts before the first byte of a connection
//! (haproxy: `doc/proxy-protocol.txt`, versions 1 and 2).

/// What stands at the start of a connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum ProxyHeader {
    /// No such header.
    None,
    /// Perhaps the beginning of one.
    More,
    /// One of this length, bytes.
    Header(usize),
}

const V2_SIGNATURE: &[u8; 12] = b"\r\n\r\n\0\r\nQUIT\n";

/// Longest header of version 1, bytes, with its line end.
const V1_BYTES_MAX: usize = 107;

/// Longest header of version 2 that is accepted, bytes: addresses of unix sockets and some TLVs.
const V2_BYTES_MAX: usize = 488;

/// Looks for a header.
pub(crate) fn prefix(bytes: &[u8]) -> ProxyHeader {
    const V1: &[u8] = b"PROXY ";
    if bytes.starts_with(V1) || V1.starts_with(bytes) {
        let line = bytes.get(..V1_BYTES_MAX).unwrap_or(bytes);
        return match line.windows(2).position(|pair| pair == b"\r\n") {
            Some(end) => ProxyHeader::Header(end + 2),
            None if bytes.len() >= V1_BYTES_MAX => ProxyHeader::None,
            None => ProxyHeader::More,
        };
    }
    if bytes.starts_with(V2_SIGNATURE) {
        let Some(&[version_command, _, high, low]) = bytes.get(12..16) else { return ProxyHeader::More };
        let length = 16 + usize::from(u16::from_be_bytes([high, low]));
        return match version_command {
            0x20 | 0x21 if length <= V2_BYTES_MAX => {
                if bytes.len() >= length {
                    ProxyHeader::Header(length)
                } else {
                    ProxyHeader::More
                }
            }
            _ => ProxyHeader::None,
        };
    }
    // Blank lines may also come before a request of HTTP/1: they are none of ours until a NUL follows them.
    if bytes.len() > 4 && V2_SIGNATURE.starts_with(bytes) { ProxyHeader::More } else { ProxyHeader::None }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn headers_are_found_from_every_prefix() {
        let v1 = b"PROXY TCP4 10.0.0.1 10.0.0.2 5 80\r\n";
        let mut v2 = V2_SIGNATURE.to_vec();
        v2.extend([0x21, 0x11, 0, 12, 10, 0, 0, 1, 10, 0, 0, 2, 0, 5, 0, 80]);
        for header in [&v1[..], &v2] {
            let mut all = header.to_vec();
            all.extend(b"GET / HTTP/1.1\r\n");
            assert_eq!(prefix(&all), ProxyHeader::Header(header.len()));
            for cut in 5..header.len() {
                assert_eq!(prefix(&all[..cut]), ProxyHeader::More, "cut at {cut}");
            }
        }
    }

    #[test]
    fn others_are_left_alone() {
        for bytes in [&b"POST /"[..], b"PROXIMITY ", b"\r\n\r\n", b"\r\n\r\n\0\r\nQUIT\n\x31\x11\0\x0c"] {
            assert_eq!(prefix(bytes), ProxyHeader::None, "{bytes:?}");
        }
        assert_eq!(prefix(&[b"PROXY ".as_slice(), &[b'x'; 200]].concat()), ProxyHeader::None);
    }
}
