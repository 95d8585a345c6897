//! Records of the ring buffer: one header, then the record of its kind.
//!
//! All numbers are in the machine's byte order: writer and reader are the same machine.

use core::net::{IpAddr, SocketAddr};

use crate::{kernel_key::Completed, offload::OffloadedConnection};

/// Most bytes of one record that are captured.
pub const HEAD_MAX: u32 = 4096;

/// Most bytes of one system call that are captured, in records of [`HEAD_MAX`] at most.
pub const CALL_MAX: u64 = 1 << 20;

/// Most records of one system call. What remains is one more, without captured bytes.
pub const PIECES_MAX: u32 = 1024;

/// Most buffers of one vectored call that are read: as many as the kernel takes (`UIO_MAXIOV`, `include/uapi/linux/uio.h`).
pub const VECTOR_MAX: u32 = 1024;

/// Most messages of one sendmmsg(2) or recvmmsg(2): the kernel takes no more (`UIO_MAXIOV`).
pub const MESSAGES_MAX: u32 = 1024;

/// Most components of a control group's path that are sent.
pub const CGROUP_DEPTH_MAX: usize = 4;

/// Longest component of a control group's path, with its terminating zero.
pub const CGROUP_NAME_MAX: usize = 128;

/// Length of a `struct sockaddr_in6` (`include/uapi/linux/in6.h`), in which the peers of datagrams are. Of a
/// `struct sockaddr_in`, which is shorter, nothing behind its end counts.
pub const SOCKADDR_LEN: usize = 28;

/// Length of `sun_path` (unix(7)).
pub const UNIX_PATH_MAX: usize = 108;

/// Kinds of records.
pub mod kind {
    /// [`super::Chunk`], then the captured head, then the peer if it has one.
    pub const CHUNK: u32 = 1;
    /// [`super::Open`].
    pub const OPEN: u32 = 2;
    /// [`super::Close`].
    pub const CLOSE: u32 = 3;
    /// [`super::Cgroup`].
    pub const CGROUP: u32 = 4;
    /// [`super::Exit`].
    pub const EXIT: u32 = 5;
    /// [`crate::offload::OffloadedConnection`]: user space parses the connection from here.
    pub const FALLBACK: u32 = 6;
    /// [`crate::kernel_key::Completed`].
    pub const COMPLETED: u32 = 7;
    /// [`super::UnnamedRequest`], then the window with its bytes.
    pub const UNNAMED_REQUEST: u32 = 8;
    /// [`crate::kernel_key::Completed`] of an exchange that is sampled as a span.
    pub const SAMPLED: u32 = 10;
    /// [`super::ClientSocket`].
    pub const CLIENT_SOCKET: u32 = 11;
    /// [`super::Close`]: the connection is offloaded from here, as user space offered.
    pub const OFFER_ACCEPTED: u32 = 9;
    /// [`super::Listen`].
    pub const LISTEN: u32 = 12;
}

/// Bytes moved on a connection.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[repr(C)]
pub struct Chunk {
    /// [`kind::CHUNK`].
    pub kind: u32,
    /// Captured bytes that follow.
    pub head: u32,
    /// The connection.
    pub connection: u64,
    /// Counts the connection's records.
    pub sequence: u64,
    /// Position of the first byte in its direction's stream.
    pub offset: u64,
    /// Bytes that moved in all.
    pub total: u64,
    /// End of the call, nanoseconds of `CLOCK_MONOTONIC`.
    pub timestamp: u64,
    /// Process in the outermost namespace.
    pub tgid: u32,
    /// Thread in the outermost namespace; where [`Self::serving`] is a goroutine's, the lower half of [`crate::thread::goroutine::key`].
    /// [`Completed::goroutine`] is a field of its own. Here is no room for one: this record is one line of the cache, and as long as
    /// [`UnnamedRequest`], which the programs write in its place.
    pub tid: u32,
    /// One of [`crate::connection::direction`].
    pub direction: u8,
    /// Set when memory of the process could not be read, so that the head is shorter than it could be.
    pub unreadable: u8,
    /// Set when the next record of the connection's direction has the bytes that follow, of the same call.
    pub continues: u8,
    /// Of a datagram on a socket with several peers: bytes of the peer's address behind the head, [`SOCKADDR_LEN`] or 0.
    pub peer: u8,
    /// Of what a client sends: one of [`crate::thread::serving`]. Of what a server reads that may be HTTP: whether a
    /// goroutine does.
    pub serving: u8,
    /// Zero.
    pub reserved: [u8; 3],
}

/// A request of a hash that user space has not given a name yet.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[repr(C)]
pub struct UnnamedRequest {
    /// [`kind::UNNAMED_REQUEST`].
    pub kind: u32,
    /// Bytes of the window, which follow.
    pub window: u32,
    /// The connection.
    pub connection: u64,
    /// Number of a [`porthole_protocol::Offload`].
    pub protocol: u64,
    /// Hash of the request.
    pub hash: u64,
    /// Position of the request's first byte in the window.
    pub position: u64,
    /// Anything.
    pub reserved: [u64; 3],
}

/// A connection was seen for the first time.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(C)]
pub struct Open {
    /// [`kind::OPEN`].
    pub kind: u32,
    /// Process in the outermost namespace.
    pub tgid: u32,
    /// The connection.
    pub connection: u64,
    /// Counts the connection's records.
    pub sequence: u64,
    /// Address of the socket: the key in the kernel's table.
    pub socket: u64,
    /// Control group of the process.
    pub cgroup: u64,
    /// Nanoseconds of `CLOCK_MONOTONIC`.
    pub timestamp: u64,
    /// Address family: 2 IPv4, 10 IPv6, 1 unix.
    pub family: u16,
    /// Local port, host byte order.
    pub local_port: u16,
    /// Remote port, host byte order.
    pub remote_port: u16,
    /// One of [`crate::connection::transport`].
    pub transport: u8,
    /// One of [`crate::connection::role`], perhaps with [`crate::connection::role::OFFLOADED`].
    pub role: u8,
    /// Local address; IPv4 in the first four bytes.
    pub local: [u8; 16],
    /// Remote address.
    pub remote: [u8; 16],
    /// Bytes of [`Open::path`].
    pub path_len: u32,
    /// Name of the unix socket: the listener's, whichever end this is.
    pub path: [u8; UNIX_PATH_MAX],
}

/// A connection's socket was closed for good.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[repr(C)]
pub struct Close {
    /// [`kind::CLOSE`].
    pub kind: u32,
    /// Zero.
    pub reserved: u32,
    /// The connection.
    pub connection: u64,
    /// Counts the connection's records.
    pub sequence: u64,
    /// Nanoseconds of `CLOCK_MONOTONIC`.
    pub timestamp: u64,
    /// Bytes that moved, by direction; zero of a connection that the programs followed.
    pub moved: [u64; 2],
}

/// A control group was seen for the first time.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(C)]
pub struct Cgroup {
    /// [`kind::CGROUP`].
    pub kind: u32,
    /// Zero.
    pub reserved: u32,
    /// Its id.
    pub cgroup: u64,
    /// The last components of its path, the last one first, each ended by a zero; empty ones are above the root.
    pub names: [[u8; CGROUP_NAME_MAX]; CGROUP_DEPTH_MAX],
}

/// The last thread of a process exited.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[repr(C)]
pub struct Exit {
    /// [`kind::EXIT`].
    pub kind: u32,
    /// Process in the outermost namespace.
    pub tgid: u32,
    /// Its control group.
    pub cgroup: u64,
    /// Nanoseconds of `CLOCK_MONOTONIC`.
    pub timestamp: u64,
    /// When the process was made, nanoseconds of `CLOCK_BOOTTIME`; zero if that is not known.
    pub made: u64,
    /// Set when it was the first process of a pid namespace: the others in it are killed.
    pub init: u8,
    /// Set when it was the last task of its control group.
    pub last: u8,
    /// Zero.
    pub reserved: [u8; 6],
}

/// A process begins to accept TCP connections.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[repr(C)]
pub struct Listen {
    /// [`kind::LISTEN`].
    pub kind: u32,
    /// Zero.
    pub reserved: u32,
    /// Control group of the process.
    pub cgroup: u64,
    /// Nanoseconds of `CLOCK_MONOTONIC`.
    pub timestamp: u64,
}

/// What becomes of a connection that a process makes.
pub mod client_event {
    /// It was made.
    pub const MADE: u32 = 1;
    /// It could not be made.
    pub const FAILED: u32 = 2;
    /// It was made before, bytes moved, and it has ended.
    pub const ENDED: u32 = 3;
}

/// A TCP socket of a process that makes a connection changed its state.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[repr(C)]
pub struct ClientSocket {
    /// [`kind::CLIENT_SOCKET`].
    pub kind: u32,
    /// One of [`client_event`].
    pub event: u32,
    /// Control group of the process.
    pub cgroup: u64,
    /// From the beginning of the attempt, nanoseconds.
    pub elapsed_ns: u64,
    /// Remote address; IPv4 in the first four bytes.
    pub remote: [u8; 16],
    /// Of one that has ended: smoothed time of a round trip, microseconds.
    pub round_trip_us: u32,
    /// The same: segments that this end has sent again.
    pub retransmitted: u32,
    /// Why it failed or ended, an `errno`; 0 when a process has closed it.
    pub error: u32,
    /// Address family: 2 IPv4, 10 IPv6.
    pub family: u16,
    /// Remote port, host byte order.
    pub remote_port: u16,
}

/// Counts that each CPU keeps.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[repr(C)]
pub struct Counters {
    /// Records for which the ring buffer had no room.
    pub lost: u64,
    /// Calls on connections whose detection budget was used up before user space decided.
    pub exhausted: u64,
    /// Calls whose memory could not be read.
    pub unreadable: u64,
    /// Connections that the table had no room for.
    pub table_full: u64,
    /// Socket calls of 32-bit programs, which are not captured.
    pub compat: u64,
    /// Connections that were offloaded.
    pub offloaded: u64,
    /// Of those, the ones that closed or fell back to user space.
    pub offloaded_ended: u64,
    /// Runs of a program that were left out because the CPU was in the middle of another.
    pub skipped: u64,
    /// Bytes of calls beyond [`CALL_MAX`] or [`PIECES_MAX`], or beyond what is captured before the protocol is detected.
    pub beyond_limit: u64,
}

/// The address in a `struct sockaddr_in` or `struct sockaddr_in6`; none in any other, and none without a port.
pub fn socket_address(bytes: &[u8; SOCKADDR_LEN]) -> Option<SocketAddr> {
    const AF_INET: u16 = 2;
    const AF_INET6: u16 = 10;
    let (&family, rest) = bytes.split_first_chunk()?;
    let (&port, rest) = rest.split_first_chunk()?;
    let ip = match u16::from_ne_bytes(family) {
        AF_INET => IpAddr::from(*rest.first_chunk::<4>()?),
        // Behind the flow label; a mapped address is the IPv4 one that the other end sees.
        AF_INET6 => IpAddr::from(*rest.get(4..)?.first_chunk::<16>()?).to_canonical(),
        _ => return None,
    };
    let port = u16::from_be_bytes(port);
    (port != 0).then(|| SocketAddr::new(ip, port))
}

/// What user space can change while the programs run.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(C)]
pub struct Settings {
    /// Zero.
    pub reserved: u32,
    /// Not zero: nothing is captured.
    pub paused: u32,
    /// Not zero: the programs offload connections where they can.
    pub offload: u32,
    /// Not zero: user space has offered connections to the programs.
    pub offers: u32,
}

/// Marks the types that may be read from a record's bytes: `repr(C)`, no padding, every bit pattern valid.
///
/// # Safety
///
/// The type must be as described.
pub unsafe trait Plain: Copy {
    /// Reads one from the beginning of `bytes`; `None` when they are too few.
    fn read(bytes: &[u8]) -> Option<Self> {
        if bytes.len() < size_of::<Self>() {
            return None;
        }
        // SAFETY: there are enough bytes, and the trait guarantees that bytes of any value are valid.
        Some(unsafe { core::ptr::read_unaligned(bytes.as_ptr().cast::<Self>()) })
    }
}

macro_rules! plain {
    ($($name:ident: $size:literal;)*) => {$(
        const _: () = assert!(size_of::<$name>() == $size);
        // SAFETY: `repr(C)` of integers and arrays of them; the sum of the fields' sizes is the type's.
        unsafe impl Plain for $name {}
    )*};
}

plain! {
    Chunk: 64;
    UnnamedRequest: 64;
    Open: 200;
    Close: 48;
    Cgroup: 528;
    Exit: 40;
    ClientSocket: 56;
    Listen: 24;
    Counters: 72;
    Settings: 16;
    OffloadedConnection: 2368;
    Completed: 256;
}

/// A record, as it comes out of the ring buffer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[allow(clippy::large_enum_variant)]
pub enum Record<'a> {
    /// Bytes moved, with the captured head and the peer.
    Chunk(Chunk, &'a [u8], Option<SocketAddr>),
    /// A connection was seen for the first time.
    Open(Open),
    /// A connection ended.
    Close(Close),
    /// A control group was seen for the first time.
    Cgroup(Cgroup),
    /// A process exited.
    Exit(Exit),
    /// A connection that a process makes was made, failed, or ended.
    ClientSocket(ClientSocket),
    /// A process begins to accept TCP connections.
    Listen(Listen),
    /// A connection is offloaded from here, as user space offered.
    OfferAccepted(Close),
    /// User space parses a connection from here.
    Fallback(&'a [u8]),
    /// An exchange that has no slot, or that is sampled.
    Completed(Completed),
    /// A request without a name, and the bytes from its beginning.
    UnnamedRequest(UnnamedRequest, &'a [u8]),
}

impl<'a> Record<'a> {
    /// Reads a record; `None` when it is none, which means that programs and agent are of different builds.
    pub fn read(bytes: &'a [u8]) -> Option<Self> {
        let kind = u32::from_ne_bytes(*bytes.first_chunk()?);
        Some(match kind {
            kind::CHUNK => {
                let chunk = Chunk::read(bytes)?;
                let (head, rest) = bytes.get(size_of::<Chunk>()..)?.split_at_checked(chunk.head as usize)?;
                let peer = rest.get(..usize::from(chunk.peer))?;
                Self::Chunk(chunk, head, peer.first_chunk().and_then(socket_address))
            }
            kind::OPEN => Self::Open(Open::read(bytes)?),
            kind::CLOSE => Self::Close(Close::read(bytes)?),
            kind::OFFER_ACCEPTED => Self::OfferAccepted(Close::read(bytes)?),
            kind::CGROUP => Self::Cgroup(Cgroup::read(bytes)?),
            kind::EXIT => Self::Exit(Exit::read(bytes)?),
            kind::CLIENT_SOCKET => Self::ClientSocket(ClientSocket::read(bytes)?),
            kind::LISTEN => Self::Listen(Listen::read(bytes)?),
            kind::FALLBACK => Self::Fallback(bytes.get(..size_of::<OffloadedConnection>())?),
            kind::COMPLETED | kind::SAMPLED => Self::Completed(Completed::read(bytes)?),
            kind::UNNAMED_REQUEST => {
                let request = UnnamedRequest::read(bytes)?;
                let window = bytes.get(size_of::<UnnamedRequest>()..)?.get(..request.window as usize)?;
                Self::UnnamedRequest(request, window.get(usize::try_from(request.position).ok()?..)?)
            }
            _ => return None,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn bytes_of<T: Plain>(value: &T) -> Vec<u8> {
        let mut bytes = vec![0; size_of::<T>()];
        // SAFETY: the vector has the type's size, and the type has no padding.
        unsafe {
            core::ptr::copy_nonoverlapping((&raw const *value).cast(), bytes.as_mut_ptr(), bytes.len());
        }
        bytes
    }

    #[test]
    fn a_chunk_comes_out_with_its_head() {
        let chunk = Chunk { kind: kind::CHUNK, head: 3, total: 9, connection: 7, ..Chunk::default() };
        let mut bytes = bytes_of(&chunk);
        bytes.extend_from_slice(b"GET and what the ring buffer rounded up");
        assert_eq!(Record::read(&bytes), Some(Record::Chunk(chunk, b"GET", None)));
    }

    #[test]
    fn a_datagram_comes_out_with_its_peer() {
        let mut v4 = [0; SOCKADDR_LEN];
        v4[..8].copy_from_slice(&[2, 0, 0, 53, 10, 0, 0, 1]);
        let mut mapped = [0; SOCKADDR_LEN];
        mapped[..8].copy_from_slice(&[10, 0, 0, 53, 1, 2, 3, 4]);
        mapped[18..24].copy_from_slice(&[0xff, 0xff, 10, 0, 0, 1]);
        let mut v6 = mapped;
        v6[8] = 0xfe;
        let chunk = Chunk { kind: kind::CHUNK, head: 3, total: 3, peer: 28, ..Chunk::default() };
        let peer = |address: &[u8]| match Record::read(&[&bytes_of(&chunk)[..], b"ask", address].concat()) {
            Some(Record::Chunk(_, b"ask", peer)) => peer.map(|peer| peer.port() == 53 && peer.is_ipv4()),
            other => panic!("{other:?}"),
        };
        assert_eq!((peer(&v4), peer(&mapped), peer(&v6)), (Some(true), Some(true), Some(false)));
        v4[0] = 1;
        assert_eq!((peer(&v4), peer(&[0; SOCKADDR_LEN])), (None, None));
        let cut = [&bytes_of(&chunk)[..], b"ask", &v6[..27]].concat();
        assert_eq!(Record::read(&cut), None);
    }

    #[test]
    fn an_unnamed_request_comes_out_from_its_first_byte() {
        let request = UnnamedRequest {
            kind: kind::UNNAMED_REQUEST,
            window: 9,
            position: 4,
            hash: 7,
            ..UnnamedRequest::default()
        };
        let bytes = [&bytes_of(&request)[..], b"rest" as &[u8], b"GET /", b"rounded up"].concat();
        assert_eq!(Record::read(&bytes), Some(Record::UnnamedRequest(request, b"GET /")));
        for position in [10, u64::MAX] {
            let beyond = bytes_of(&UnnamedRequest { position, ..request });
            assert_eq!(Record::read(&[&beyond, b"rest" as &[u8], b"GET /"].concat()), None, "{position}");
        }
    }

    #[test]
    fn cut_and_unknown_records_are_none() {
        let close = Close { kind: kind::CLOSE, connection: 1, ..Close::default() };
        let bytes = bytes_of(&close);
        assert_eq!(Record::read(&bytes), Some(Record::Close(close)));
        for len in 0..bytes.len() {
            assert_eq!(Record::read(&bytes[..len]), None, "{len}");
        }
        let long = Chunk { kind: kind::CHUNK, head: 1, ..Chunk::default() };
        assert_eq!(Record::read(&bytes_of(&long)), None);
        assert_eq!(Record::read(&[9; 64]), None);
    }
}
