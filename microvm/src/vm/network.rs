//! The pod's network, brought into the guest.
//!
//! The pod's network namespace has an interface with the pod's addresses, put there by a network plugin before the
//! sandbox or between its creation and its start. A tap beside it belongs to the guest; the kernel's traffic control
//! redirects every frame that arrives on the one out of the other. The guest's interface takes over hardware
//! address, addresses, routes and neighbours, so that the network sees no difference.

use std::path::{Path, PathBuf};

use super::{
    VmError,
    system::network::{Link, NetworkSystem},
};
use crate::wire::guest::SetNetworkRequest;

/// Name of the tap in the pod's network namespace.
pub const TAP: &str = "tap0_porthole";

/// Makes the guest's tap in the namespace; it goes when it is closed for the last time.
pub fn make_tap<S: NetworkSystem>(system: &S, namespace: &Path) -> Result<S::Tap, VmError> {
    let tap = system.open_tap(namespace, TAP)?;
    if let Some(link) = find(system, namespace, TAP)? {
        system.set_up(namespace, &link, None)?;
    }
    Ok(tap)
}

fn find(system: &impl NetworkSystem, namespace: &Path, name: &str) -> Result<Option<Link>, VmError> {
    Ok(system.links(namespace)?.into_iter().find(|link| link.name == name))
}

/// The pod's interface and the guest's tap, which are to be joined.
#[derive(Debug)]
pub struct Junction {
    namespace: PathBuf,
    pod: Link,
    tap: Link,
    /// What the guest is to make of its interface.
    pub request: SetNetworkRequest,
}

/// What the namespace has for the guest; nothing if there is no interface, or no tap.
pub fn survey(system: &impl NetworkSystem, namespace: &Path) -> Result<Option<Junction>, VmError> {
    let links = system.links(namespace)?;
    let Some(pod) = pod_interface(&links).cloned() else { return Ok(None) };
    let Some(tap) = links.into_iter().find(|link| link.name == TAP) else { return Ok(None) };
    let request = system.describe(namespace, &pod)?;
    Ok(Some(Junction { namespace: namespace.to_owned(), pod, tap, request }))
}

/// The interface that carries the pod's addresses: `eth0` if there is one, else the first Ethernet.
fn pod_interface(links: &[Link]) -> Option<&Link> {
    let candidates = links.iter().filter(|link| link.ethernet && link.name != TAP);
    candidates.min_by_key(|link| (link.name != "eth0", link.index))
}

impl Junction {
    /// The interface that is not the sandbox's own, of which [`unmirror`] takes the redirection away.
    pub fn interface(&self) -> &str {
        &self.pod.name
    }

    /// Joins the two. When it fails, neither redirects anything.
    pub fn connect(&self, system: &impl NetworkSystem) -> Result<(), VmError> {
        let namespace = &self.namespace;
        system.set_up(namespace, &self.tap, Some(self.pod.mtu))?;
        system.set_up(namespace, &self.pod, None)?;
        let mut queues = Vec::new();
        let joined = self.redirect_both(system, &mut queues);
        if joined.is_err() {
            for link in queues {
                if let Err(error) = system.remove_ingress(namespace, link) {
                    tracing::warn!(%error, interface = link.name, "a redirection remains");
                }
            }
        }
        joined
    }

    /// Redirects in both directions; `queues` gets the interfaces that have a queue for it. One that was there before is
    /// another's, and the call for it fails.
    fn redirect_both<'a>(
        &'a self,
        system: &impl NetworkSystem,
        queues: &mut Vec<&'a Link>,
    ) -> Result<(), VmError> {
        for (from, to) in [(&self.pod, &self.tap), (&self.tap, &self.pod)] {
            system.add_ingress(&self.namespace, from)?;
            queues.push(from);
            system.redirect(&self.namespace, from, to)?;
        }
        Ok(())
    }
}

/// Takes the redirections of interfaces away again. The namespace may be gone, and its interfaces with it.
pub fn unmirror(system: &impl NetworkSystem, namespace: &Path, interfaces: &[String]) {
    if interfaces.is_empty() || !namespace.exists() {
        return;
    }
    match system.links(namespace) {
        Ok(links) => {
            for link in links.iter().filter(|link| interfaces.contains(&link.name)) {
                // It may have been taken away with the interface's last user, or never made.
                if let Err(error) = system.remove_ingress(namespace, link) {
                    tracing::debug!(%error, interface = link.name, "no redirection to take away");
                }
            }
        }
        Err(error) => {
            tracing::warn!(%error, namespace = %namespace.display(), "redirections remain");
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::vm::system::recorded::Recorded;

    fn ethernet(index: u32, name: &str) -> Link {
        Link { index, name: name.to_owned(), ethernet: true, mtu: 1400, ..Link::default() }
    }

    fn pod() -> Recorded {
        let loopback = Link { ethernet: false, ..ethernet(1, "lo") };
        Recorded::default().with_links(vec![
            loopback,
            ethernet(2, "net1"),
            ethernet(3, "eth0"),
            ethernet(4, TAP),
        ])
    }

    fn join(system: &Recorded) -> Result<(), VmError> {
        survey(system, Path::new("/netns"))?.expect("both interfaces").connect(system)
    }

    #[test]
    fn the_two_interfaces_are_up_before_one_redirects_to_the_other() {
        let system = pod();
        join(&system).expect("joined");
        assert_eq!(
            system.lines(),
            [
                "links",
                "describe eth0",
                "set_up tap0_porthole 1400",
                "set_up eth0",
                "add_ingress eth0",
                "redirect eth0 tap0_porthole",
                "add_ingress tap0_porthole",
                "redirect tap0_porthole eth0",
            ]
        );
        assert_eq!(system.redirecting(), ["eth0", TAP]);
        unmirror(&system, Path::new("/"), &["eth0".to_owned()]);
        assert_eq!(system.redirecting(), [TAP], "the tap goes with its descriptor");
    }

    #[test]
    fn whichever_call_fails_nothing_redirects() {
        let calls = {
            let system = pod();
            join(&system).expect("joined");
            system.lines().len()
        };
        for call in 0..calls {
            let system = pod().failing_at_call(call);
            join(&system).expect_err(&system.lines()[call]);
            assert_eq!(system.redirecting(), Vec::<String>::new(), "after `{}`", system.lines()[call]);
        }
    }

    #[test]
    fn a_queue_that_another_has_made_is_not_taken_away() {
        let system = pod().with_redirecting("eth0");
        join(&system).expect_err("the queue is another's");
        assert_eq!(system.redirecting(), ["eth0"]);
    }

    #[test]
    fn a_namespace_without_an_interface_or_a_tap_has_nothing_for_the_guest() {
        for links in [vec![ethernet(4, TAP)], vec![ethernet(3, "eth0")], Vec::new()] {
            let system = Recorded::default().with_links(links);
            assert!(survey(&system, Path::new("/netns")).expect("looked").is_none());
        }
    }

    #[test]
    fn the_tap_is_up_when_it_is_handed_on_and_gone_when_it_cannot_be() {
        let system = pod();
        make_tap(&system, Path::new("/netns")).expect("made");
        assert_eq!(system.lines(), ["open_tap tap0_porthole", "links", "set_up tap0_porthole"]);
        for call in 0..3 {
            let system = pod().failing_at_call(call);
            make_tap(&system, Path::new("/netns")).expect_err("refused");
        }
    }
}
