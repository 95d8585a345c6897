//! The privileged operations on network namespaces: a tap for the guest, links, and redirection between them.

use std::{
    ffi::CString,
    fs::{File, OpenOptions},
    future::Future,
    io,
    net::IpAddr,
    os::fd::{AsRawFd as _, OwnedFd},
    path::Path,
};

use futures_util::TryStreamExt as _;
use nix::{
    mount::{MsFlags, mount},
    sched::{CloneFlags, setns, unshare},
};
use rtnetlink::{
    Handle, LinkUnspec, RouteMessageBuilder,
    packet_route::{
        AddressFamily,
        address::AddressAttribute,
        link::{LinkAttribute, LinkFlags, LinkLayerType, LinkMessage},
        neighbour::{NeighbourAddress, NeighbourAttribute, NeighbourState},
        route::{RouteAddress, RouteAttribute, RouteHeader, RouteMessage, RouteProtocol, RouteType},
        tc::TcHandle,
    },
};

use super::Linux;
use crate::{
    vm::VmError,
    wire::guest::{Address, Neighbour, Route, SetNetworkRequest},
};

/// The kernel's TUN driver.
const TUN: &str = "/dev/net/tun";

/// Scope of an address that is of no use beyond its link: the guest makes its own.
const LINK_SCOPE: u8 = 253;

/// Handle of an interface's ingress queue, `ffff:` in tc(8).
const INGRESS: u32 = 0xffff_0000;

/// Every protocol, `linux/if_ether.h`.
const ETH_P_ALL: u16 = 0x0003;

nix::ioctl_write_ptr_bad!(
    /// `TUNSETIFF` of `linux/if_tun.h`.
    tun_set_interface,
    libc::TUNSETIFF,
    libc::ifreq
);

/// An interface.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Link {
    /// Its number in the namespace.
    pub index: u32,
    /// Its name.
    pub name: String,
    /// Whether it carries Ethernet frames and is not the loopback.
    pub ethernet: bool,
    /// Hardware address.
    pub mac: Vec<u8>,
    /// Largest packet.
    pub mtu: u32,
}

/// Operations on network namespaces, which are named by a path.
pub trait NetworkSystem {
    /// An open tap; it goes when it is closed for the last time.
    type Tap;

    /// Makes a namespace, held by a mount at `path`.
    fn make_namespace(&self, path: &Path) -> Result<(), VmError>;

    /// Makes a tap of that name.
    fn open_tap(&self, namespace: &Path, name: &str) -> Result<Self::Tap, VmError>;

    /// The interfaces.
    fn links(&self, namespace: &Path) -> Result<Vec<Link>, VmError>;

    /// What another interface has to have in the place of this one.
    fn describe(&self, namespace: &Path, link: &Link) -> Result<SetNetworkRequest, VmError>;

    /// Brings an interface up, and sets its largest packet if there is one.
    fn set_up(&self, namespace: &Path, link: &Link, mtu: Option<u32>) -> Result<(), VmError>;

    /// Gives an interface the queue of arriving frames that a redirection needs.
    fn add_ingress(&self, namespace: &Path, link: &Link) -> Result<(), VmError>;

    /// Sends every frame that arrives on `from` out of `to`.
    fn redirect(&self, namespace: &Path, from: &Link, to: &Link) -> Result<(), VmError>;

    /// Removes the queue with its redirections.
    fn remove_ingress(&self, namespace: &Path, link: &Link) -> Result<(), VmError>;
}

impl NetworkSystem for Linux {
    type Tap = OwnedFd;

    fn make_namespace(&self, path: &Path) -> Result<(), VmError> {
        File::create(path).map_err(VmError::io("create", path))?;
        let target = path.to_owned();
        on_thread("make a network namespace", move || {
            unshare(CloneFlags::CLONE_NEWNET)?;
            let none: Option<&str> = None;
            Ok(mount(Some("/proc/thread-self/ns/net"), &target, none, MsFlags::MS_BIND, none)?)
        })
    }

    fn open_tap(&self, namespace: &Path, name: &str) -> Result<OwnedFd, VmError> {
        let file = File::open(namespace).map_err(VmError::io("open", namespace))?;
        let name = name.to_owned();
        on_thread("make the guest's tap", move || {
            setns(&file, CloneFlags::CLONE_NEWNET)?;
            open_tap(&name)
        })
    }

    fn links(&self, namespace: &Path) -> Result<Vec<Link>, VmError> {
        inside(namespace, |handle| async move {
            let messages: Vec<LinkMessage> = handle.link().get().execute().try_collect().await?;
            Ok(messages.iter().map(link).collect())
        })
    }

    fn describe(&self, namespace: &Path, link: &Link) -> Result<SetNetworkRequest, VmError> {
        let link = link.clone();
        inside(namespace, |handle| async move { describe(&handle, &link).await })
    }

    fn set_up(&self, namespace: &Path, link: &Link, mtu: Option<u32>) -> Result<(), VmError> {
        let mut change = LinkUnspec::new_with_index(link.index).up();
        if let Some(mtu) = mtu {
            change = change.mtu(mtu);
        }
        inside(namespace, |handle| async move { handle.link().change(change.build()).execute().await })
    }

    fn add_ingress(&self, namespace: &Path, link: &Link) -> Result<(), VmError> {
        let index = signed(link.index);
        inside(namespace, move |handle| async move { handle.qdisc().add(index).ingress().execute().await })
    }

    fn redirect(&self, namespace: &Path, from: &Link, to: &Link) -> Result<(), VmError> {
        let (from, to) = (signed(from.index), to.index);
        inside(namespace, move |handle| async move {
            let mut filter = handle.traffic_filter(from);
            filter.add().parent(INGRESS).protocol(ETH_P_ALL.to_be()).redirect(to)?.execute().await
        })
    }

    fn remove_ingress(&self, namespace: &Path, link: &Link) -> Result<(), VmError> {
        let index = signed(link.index);
        inside(namespace, move |handle| async move {
            let mut removal = handle.qdisc().del(index);
            removal.message_mut().header.parent = TcHandle::INGRESS;
            removal.message_mut().header.handle = TcHandle::from(INGRESS);
            removal.execute().await
        })
    }
}

/// Runs something on a thread of its own: a namespace is a thread's.
fn on_thread<T: Send + 'static>(
    what: &'static str,
    work: impl FnOnce() -> io::Result<T> + Send + 'static,
) -> Result<T, VmError> {
    let failed = |source: io::Error| VmError::Network { what, source };
    let thread = std::thread::Builder::new().name("network".to_owned()).spawn(work).map_err(failed)?;
    match thread.join() {
        Ok(result) => result.map_err(failed),
        Err(_) => Err(failed(io::Error::other("the thread panicked"))),
    }
}

/// Runs something in a network namespace, with a runtime of its own: a netlink socket belongs to the namespace in which it
/// was opened.
fn inside<T, F, Fut>(namespace: &Path, work: F) -> Result<T, VmError>
where
    T: Send + 'static,
    F: FnOnce(Handle) -> Fut + Send + 'static,
    Fut: Future<Output = Result<T, rtnetlink::Error>>,
{
    let file = File::open(namespace).map_err(VmError::io("open", namespace))?;
    let done = on_thread("enter the network namespace", move || {
        setns(&file, CloneFlags::CLONE_NEWNET)?;
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
        runtime.block_on(async {
            let (connection, handle, _) = rtnetlink::new_connection()?;
            tokio::spawn(connection);
            Ok(work(handle).await)
        })
    });
    Ok(done??)
}

fn open_tap(name: &str) -> io::Result<OwnedFd> {
    let device = OpenOptions::new().read(true).write(true).open(TUN)?;
    // SAFETY: the structure is plain numbers, for which zero is a value.
    let mut request: libc::ifreq = unsafe { std::mem::zeroed() };
    let name = CString::new(name)?;
    for (target, byte) in request.ifr_name.iter_mut().zip(name.as_bytes()) {
        *target = libc::c_char::from_ne_bytes([*byte]);
    }
    let flags = libc::IFF_TAP | libc::IFF_NO_PI | libc::IFF_VNET_HDR;
    request.ifr_ifru.ifru_flags = libc::c_short::try_from(flags).map_err(io::Error::other)?;
    // SAFETY: the descriptor is open and the structure lives across the call.
    unsafe { tun_set_interface(device.as_raw_fd(), &raw const request) }?;
    Ok(device.into())
}

fn signed(index: u32) -> i32 {
    i32::try_from(index).unwrap_or(i32::MAX)
}

fn link(message: &LinkMessage) -> Link {
    let header = &message.header;
    let ethernet =
        header.link_layer_type == LinkLayerType::Ether && !header.flags.contains(LinkFlags::Loopback);
    let mut link = Link { index: header.index, ethernet, ..Link::default() };
    for attribute in &message.attributes {
        match attribute {
            LinkAttribute::IfName(name) => link.name.clone_from(name),
            LinkAttribute::Address(mac) => link.mac.clone_from(mac),
            LinkAttribute::Mtu(mtu) => link.mtu = *mtu,
            _ => {}
        }
    }
    link
}

async fn describe(handle: &Handle, link: &Link) -> Result<SetNetworkRequest, rtnetlink::Error> {
    let index = link.index;
    let mut request = SetNetworkRequest {
        name: link.name.clone(),
        mac: link.mac.clone(),
        mtu: link.mtu,
        ..Default::default()
    };
    let mut addresses = handle.address().get().set_link_index_filter(index).execute();
    while let Some(message) = addresses.try_next().await? {
        if u8::from(message.header.scope) == LINK_SCOPE {
            continue;
        }
        // With a peer, IFA_LOCAL is the own address and IFA_ADDRESS the peer's; IPv6 has the second only.
        let find = |local: bool| {
            message.attributes.iter().find_map(|attribute| match attribute {
                AddressAttribute::Local(ip) if local => Some(*ip),
                AddressAttribute::Address(ip) if !local => Some(*ip),
                _ => None,
            })
        };
        if let Some(ip) = find(true).or_else(|| find(false)) {
            let prefix = u32::from(message.header.prefix_len);
            request.addresses.push(Address { ip: octets(ip), prefix, ..Default::default() });
        }
    }
    let mut all = Vec::new();
    for message in [
        RouteMessageBuilder::<std::net::Ipv4Addr>::new().build(),
        RouteMessageBuilder::<std::net::Ipv6Addr>::new().build(),
    ] {
        all.extend(handle.route().get(message).execute().try_collect::<Vec<_>>().await?);
    }
    request.routes = all.iter().filter_map(|message| route(message, index)).collect();
    let mut neighbours = handle.neighbours().get().execute();
    while let Some(message) = neighbours.try_next().await? {
        if message.header.ifindex != index || message.header.state != NeighbourState::Permanent {
            continue;
        }
        let mut neighbour = Neighbour::new();
        for attribute in &message.attributes {
            match attribute {
                NeighbourAttribute::Destination(NeighbourAddress::Inet(ip)) => {
                    neighbour.ip = octets((*ip).into());
                }
                NeighbourAttribute::Destination(NeighbourAddress::Inet6(ip)) => {
                    neighbour.ip = octets((*ip).into());
                }
                NeighbourAttribute::LinkLayerAddress(mac) => neighbour.mac.clone_from(mac),
                _ => {}
            }
        }
        request.neighbours.push(neighbour);
    }
    Ok(request)
}

fn octets(ip: IpAddr) -> Vec<u8> {
    match ip {
        IpAddr::V4(ip) => ip.octets().to_vec(),
        IpAddr::V6(ip) => ip.octets().to_vec(),
    }
}

/// A route that the guest needs: of the main table, through the interface, and not one that the kernel makes by
/// itself for an address.
fn route(message: &RouteMessage, index: u32) -> Option<Route> {
    let header = &message.header;
    if header.table != RouteHeader::RT_TABLE_MAIN
        || header.kind != RouteType::Unicast
        || header.protocol == RouteProtocol::Kernel
    {
        return None;
    }
    let mut route = Route {
        prefix: u32::from(header.destination_prefix_length),
        scope: u32::from(u8::from(header.scope)),
        v6: header.address_family == AddressFamily::Inet6,
        ..Default::default()
    };
    let address = |address: &RouteAddress| match address {
        RouteAddress::Inet(ip) => octets((*ip).into()),
        RouteAddress::Inet6(ip) => octets((*ip).into()),
        _ => Vec::new(),
    };
    let mut through = None;
    for attribute in &message.attributes {
        match attribute {
            RouteAttribute::Oif(oif) => through = Some(*oif),
            RouteAttribute::Destination(ip) => route.destination = address(ip),
            RouteAttribute::Gateway(ip) => route.gateway = address(ip),
            RouteAttribute::PrefSource(ip) => route.source = address(ip),
            RouteAttribute::Priority(metric) => route.metric = *metric,
            _ => {}
        }
    }
    (through == Some(index)).then_some(route)
}

#[cfg(test)]
mod tests {
    use std::net::Ipv4Addr;

    use super::*;

    fn message() -> RouteMessage {
        let mut message = RouteMessageBuilder::<Ipv4Addr>::new()
            .destination_prefix(Ipv4Addr::new(10, 1, 0, 0), 16)
            .gateway(Ipv4Addr::new(10, 0, 0, 1))
            .output_interface(4)
            .build();
        message.header.protocol = RouteProtocol::Boot;
        message
    }

    #[test]
    fn routes_of_the_interface_are_sent_with_their_gateway() {
        let route = route(&message(), 4).expect("a route of the interface");
        assert_eq!(
            (route.destination, route.prefix, route.gateway),
            (vec![10, 1, 0, 0], 16, vec![10, 0, 0, 1])
        );
    }

    #[test]
    fn routes_that_are_not_the_pods_own_are_left_out() {
        assert_eq!(route(&message(), 5), None, "another interface");
        let mut own = message();
        own.header.protocol = RouteProtocol::Kernel;
        assert_eq!(route(&own, 4), None, "the kernel makes it by itself");
        let mut local = message();
        local.header.table = 255;
        assert_eq!(route(&local, 4), None, "another table");
    }
}
