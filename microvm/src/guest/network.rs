//! The guest's network: the loopback interface, and one interface that takes over what the pod's has.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use futures_util::TryStreamExt as _;
use rtnetlink::{
    Handle, LinkUnspec, RouteMessageBuilder,
    packet_route::{
        address::{AddressFlags, AddressHeaderFlags},
        link::{LinkAttribute, LinkLayerType, LinkMessage},
        route::RouteScope,
    },
};

use super::GuestError;
use crate::wire::guest::{Route, SetNetworkRequest};

fn connect() -> Result<Handle, GuestError> {
    let (connection, handle, _) = rtnetlink::new_connection().map_err(GuestError::io("open netlink"))?;
    tokio::spawn(connection);
    Ok(handle)
}

/// Switches the loopback interface on.
pub async fn loopback_up() -> Result<(), GuestError> {
    /// The kernel gives the first interface of a network namespace this number.
    const LOOPBACK: u32 = 1;
    connect()?.link().change(LinkUnspec::new_with_index(LOOPBACK).up().build()).execute().await?;
    Ok(())
}

/// Gives the guest's interface the pod's identity: name, addresses, routes, neighbours.
pub async fn set(request: &SetNetworkRequest) -> Result<(), GuestError> {
    let handle = connect()?;
    let link =
        ethernet(&handle).await?.ok_or_else(|| GuestError::NotFound("network interface".to_owned()))?;
    let index = link.header.index;
    let name = link.attributes.iter().find_map(|attribute| match attribute {
        LinkAttribute::IfName(name) => Some(name.as_str()),
        _ => None,
    });
    let mut change = LinkUnspec::new_with_index(index).down();
    if !request.mac.is_empty() {
        change = change.address(request.mac.clone());
    }
    if request.mtu > 0 {
        change = change.mtu(request.mtu);
    }
    if !request.name.is_empty() && name != Some(request.name.as_str()) {
        change = change.name(request.name.clone());
    }
    handle.link().change(change.build()).execute().await?;
    handle.link().change(LinkUnspec::new_with_index(index).up().build()).execute().await?;
    for address in &request.addresses {
        let Some(ip) = ip(&address.ip) else { continue };
        let prefix = u8::try_from(address.prefix).unwrap_or(u8::MAX);
        let mut add = handle.address().add(index, ip, prefix).replace();
        // The host has made sure of the address already.
        add.message_mut().header.flags |= AddressHeaderFlags::Nodad;
        let _ = AddressFlags::Nodad;
        add.execute().await?;
    }
    // Gateways must be reachable before routes go by them.
    let (direct, by_gateway): (Vec<&Route>, Vec<&Route>) =
        request.routes.iter().partition(|route| route.gateway.is_empty());
    for route in direct.into_iter().chain(by_gateway) {
        add_route(&handle, index, route).await?;
    }
    for neighbour in &request.neighbours {
        let Some(ip) = ip(&neighbour.ip) else { continue };
        handle.neighbours().add(index, ip).link_layer_address(&neighbour.mac).replace().execute().await?;
    }
    Ok(())
}

async fn ethernet(handle: &Handle) -> Result<Option<LinkMessage>, GuestError> {
    let mut links = handle.link().get().execute();
    while let Some(link) = links.try_next().await? {
        if link.header.link_layer_type == LinkLayerType::Ether {
            return Ok(Some(link));
        }
    }
    Ok(None)
}

fn ip(bytes: &[u8]) -> Option<IpAddr> {
    if let Ok(four) = <[u8; 4]>::try_from(bytes) {
        return Some(Ipv4Addr::from(four).into());
    }
    <[u8; 16]>::try_from(bytes).ok().map(|sixteen| Ipv6Addr::from(sixteen).into())
}

async fn add_route(handle: &Handle, index: u32, route: &Route) -> Result<(), GuestError> {
    let prefix = u8::try_from(route.prefix).unwrap_or(u8::MAX);
    let scope = RouteScope::from(u8::try_from(route.scope).unwrap_or(0));
    let (destination, gateway, source) = (ip(&route.destination), ip(&route.gateway), ip(&route.source));
    let v6 = route.v6 || [destination, gateway, source].iter().flatten().any(IpAddr::is_ipv6);
    let message = if v6 {
        let mut builder = RouteMessageBuilder::<Ipv6Addr>::new().output_interface(index).scope(scope);
        if let Some(IpAddr::V6(destination)) = destination {
            builder = builder.destination_prefix(destination, prefix);
        }
        if let Some(IpAddr::V6(gateway)) = gateway {
            builder = builder.gateway(gateway);
        }
        if route.metric > 0 {
            builder = builder.priority(route.metric);
        }
        builder.build()
    } else {
        let mut builder = RouteMessageBuilder::<Ipv4Addr>::new().output_interface(index).scope(scope);
        if let Some(IpAddr::V4(destination)) = destination {
            builder = builder.destination_prefix(destination, prefix);
        }
        if let Some(IpAddr::V4(gateway)) = gateway {
            builder = builder.gateway(gateway);
        }
        if let Some(IpAddr::V4(source)) = source {
            builder = builder.pref_source(source);
        }
        if route.metric > 0 {
            builder = builder.priority(route.metric);
        }
        builder.build()
    };
    handle.route().add(message).replace().execute().await?;
    Ok(())
}
