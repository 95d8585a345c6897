//! The pod's network, brought into the guest.
//!
//! The pod's network namespace has an interface with the pod's addresses, put there by a network plugin before the
//! sandbox or between its creation and its start. A tap beside it belongs to the guest; the kernel's traffic control
//! redirects every frame that arrives on the one out of the other. The guest's interface takes over hardware
//! address, addresses, routes and neighbours, so that the network sees no difference.

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

use super::VmError;
use crate::wire::guest::{Address, Neighbour, Route, SetNetworkRequest};

/// Name of the tap in the pod's network namespace.
pub const TAP: &str = "tap0_porthole";

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

/// Runs something on a thread of its own in a network namespace, with a runtime of its own: a netlink socket belongs to
/// the namespace in which it was opened.
fn inside<T, F, Fut>(namespace: &Path, work: F) -> Result<T, VmError>
where
    T: Send + 'static,
    F: FnOnce(Handle) -> Fut + Send + 'static,
    Fut: Future<Output = Result<T, rtnetlink::Error>>,
{
    let file = File::open(namespace).map_err(VmError::io("open", namespace))?;
    let failed = |source: io::Error| VmError::Network { what: "enter the network namespace", source };
    let thread = std::thread::Builder::new().name("network".to_owned()).spawn(move || {
        setns(&file, CloneFlags::CLONE_NEWNET).map_err(|errno| failed(errno.into()))?;
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().map_err(failed)?;
        runtime.block_on(async {
            let (connection, handle, _) = rtnetlink::new_connection().map_err(failed)?;
            tokio::spawn(connection);
            work(handle).await.map_err(VmError::from)
        })
    });
    let joined = thread.map_err(failed)?.join();
    joined.unwrap_or_else(|_| Err(failed(io::Error::other("the thread panicked"))))
}

/// Makes a network namespace of the sandbox's own, held by a mount at `path`.
pub fn make_namespace(path: &Path) -> Result<(), VmError> {
    File::create(path).map_err(VmError::io("create", path))?;
    let target = path.to_owned();
    let failed = |source: io::Error| VmError::Network { what: "make a network namespace", source };
    let thread = std::thread::Builder::new().name("namespace".to_owned()).spawn(move || {
        unshare(CloneFlags::CLONE_NEWNET)?;
        let none: Option<&str> = None;
        mount(Some("/proc/thread-self/ns/net"), &target, none, MsFlags::MS_BIND, none)
    });
    match thread.map_err(failed)?.join() {
        Ok(result) => result.map_err(|errno| failed(errno.into())),
        Err(_) => Err(failed(io::Error::other("the thread panicked"))),
    }
}

/// Makes the guest's tap in the namespace; it goes when its descriptor is closed for the last time.
pub fn make_tap(namespace: &Path) -> Result<OwnedFd, VmError> {
    let file = File::open(namespace).map_err(VmError::io("open", namespace))?;
    let failed = |source: io::Error| VmError::Network { what: "make the guest's tap", source };
    let thread = std::thread::Builder::new().name("tap".to_owned()).spawn(move || {
        setns(&file, CloneFlags::CLONE_NEWNET)?;
        open_tap(TAP)
    });
    let tap = match thread.map_err(failed)?.join() {
        Ok(result) => result.map_err(failed)?,
        Err(_) => return Err(failed(io::Error::other("the thread panicked"))),
    };
    inside(namespace, |handle| async move {
        if let Some(tap) = link(&handle, TAP).await? {
            handle.link().change(LinkUnspec::new_with_index(tap.header.index).up().build()).execute().await?;
        }
        Ok(())
    })?;
    Ok(tap)
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

/// What the namespace has for the guest: an interface joined to the tap, and what the guest is to make of its own.
pub fn join(namespace: &Path) -> Result<Option<SetNetworkRequest>, VmError> {
    inside(namespace, |handle| async move {
        let Some(pod) = pod_interface(&handle).await? else { return Ok(None) };
        let Some(tap) = link(&handle, TAP).await? else { return Ok(None) };
        let (pod_index, tap_index) = (pod.header.index, tap.header.index);
        let request = describe(&handle, &pod).await?;
        let tap_change = LinkUnspec::new_with_index(tap_index).mtu(request.mtu).up().build();
        handle.link().change(tap_change).execute().await?;
        handle.link().change(LinkUnspec::new_with_index(pod_index).up().build()).execute().await?;
        mirror(&handle, pod_index, tap_index).await?;
        mirror(&handle, tap_index, pod_index).await?;
        Ok(Some(request))
    })
}

/// Takes the traffic mirrors away again. The namespace may be gone, and its interfaces with it.
pub fn unmirror(namespace: &Path, interfaces: &[String]) {
    if interfaces.is_empty() || !namespace.exists() {
        return;
    }
    let interfaces = interfaces.to_vec();
    let removed = inside(namespace, |handle| async move {
        for name in interfaces {
            if let Some(link) = link(&handle, &name).await? {
                // It may have been taken away with the interface's last user.
                let mut removal = handle.qdisc().del(signed(link.header.index));
                removal.message_mut().header.parent = TcHandle::INGRESS;
                removal.message_mut().header.handle = TcHandle::from(INGRESS);
                let _ = removal.execute().await;
            }
        }
        Ok(())
    });
    if let Err(error) = removed {
        tracing::warn!(%error, namespace = %namespace.display(), "traffic mirrors remain");
    }
}

fn signed(index: u32) -> i32 {
    i32::try_from(index).unwrap_or(i32::MAX)
}

/// Sends every frame that arrives on `from` out of `to`.
async fn mirror(handle: &Handle, from: u32, to: u32) -> Result<(), rtnetlink::Error> {
    handle.qdisc().add(signed(from)).ingress().execute().await?;
    let mut filter = handle.traffic_filter(signed(from));
    filter.add().parent(INGRESS).protocol(ETH_P_ALL.to_be()).redirect(to)?.execute().await
}

fn name_of(link: &LinkMessage) -> Option<&str> {
    link.attributes.iter().find_map(|attribute| match attribute {
        LinkAttribute::IfName(name) => Some(name.as_str()),
        _ => None,
    })
}

async fn links(handle: &Handle) -> Result<Vec<LinkMessage>, rtnetlink::Error> {
    handle.link().get().execute().try_collect().await
}

async fn link(handle: &Handle, name: &str) -> Result<Option<LinkMessage>, rtnetlink::Error> {
    Ok(links(handle).await?.into_iter().find(|link| name_of(link) == Some(name)))
}

/// The interface that carries the pod's addresses: `eth0` if there is one, else the first Ethernet.
async fn pod_interface(handle: &Handle) -> Result<Option<LinkMessage>, rtnetlink::Error> {
    let mut candidates: Vec<LinkMessage> = links(handle)
        .await?
        .into_iter()
        .filter(|link| link.header.link_layer_type == LinkLayerType::Ether)
        .filter(|link| !link.header.flags.contains(LinkFlags::Loopback) && name_of(link) != Some(TAP))
        .collect();
    candidates.sort_by_key(|link| (name_of(link) != Some("eth0"), link.header.index));
    Ok(candidates.into_iter().next())
}

async fn describe(handle: &Handle, pod: &LinkMessage) -> Result<SetNetworkRequest, rtnetlink::Error> {
    let index = pod.header.index;
    let mut request =
        SetNetworkRequest { name: name_of(pod).unwrap_or_default().to_owned(), ..Default::default() };
    for attribute in &pod.attributes {
        match attribute {
            LinkAttribute::Address(mac) => request.mac.clone_from(mac),
            LinkAttribute::Mtu(mtu) => request.mtu = *mtu,
            _ => {}
        }
    }
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
