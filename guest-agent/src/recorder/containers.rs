//! Containers: which one a process belongs to, by the name of its control group.
//!
//! The kernel side sends the last components of a control group's path once, so this works for processes that are
//! gone by the time anybody looks.

use std::collections::HashMap;

use porthole_bpf_types::record::{CGROUP_DEPTH_MAX, CGROUP_NAME_MAX};
use porthole_registry::ContainerId;

/// A container, as a small integer. 0 stands for processes outside any.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct ContainerIndex(pub u32);

/// Most containers that are distinguished; the processes of further ones count as outside any.
pub const CONTAINERS_MAX: usize = 256;

/// Most control groups that are remembered.
const CGROUPS_MAX: usize = 4096;

/// Control groups and the containers that they stand for.
#[derive(Debug)]
pub struct Containers {
    by_cgroup: HashMap<u64, ContainerIndex>,
    ids: Vec<String>,
}

impl Default for Containers {
    fn default() -> Self {
        Self { by_cgroup: HashMap::new(), ids: vec![String::new()] }
    }
}

impl Containers {
    /// Learns a control group's path: the last component first.
    pub fn learn(&mut self, cgroup: u64, path: &[[u8; CGROUP_NAME_MAX]; CGROUP_DEPTH_MAX]) {
        if self.by_cgroup.len() >= CGROUPS_MAX {
            return;
        }
        let id = path.iter().find_map(|name| container_of(component(name)));
        let index = match id {
            None => ContainerIndex::default(),
            Some(id) => self.index_of(&id),
        };
        self.by_cgroup.insert(cgroup, index);
    }

    /// Whether a control group's path is known.
    pub fn knows(&self, cgroup: u64) -> bool {
        self.by_cgroup.contains_key(&cgroup)
    }

    /// The container of a control group.
    pub fn of_cgroup(&self, cgroup: u64) -> ContainerIndex {
        self.by_cgroup.get(&cgroup).copied().unwrap_or_default()
    }

    /// The id of a container; empty outside any.
    pub fn id(&self, container: ContainerIndex) -> &str {
        self.ids.get(container.0 as usize).map_or("", |id| id)
    }

    fn index_of(&mut self, id: &str) -> ContainerIndex {
        let known = self.ids.iter().position(|known| known == id);
        let at = known.unwrap_or_else(|| {
            if self.ids.len() > CONTAINERS_MAX {
                return 0;
            }
            self.ids.push(id.to_owned());
            self.ids.len() - 1
        });
        ContainerIndex(u32::try_from(at).unwrap_or_default())
    }
}

fn component(name: &[u8]) -> &str {
    let len = name.iter().position(|&byte| byte == 0).unwrap_or(name.len());
    std::str::from_utf8(&name[..len]).unwrap_or_default()
}

/// The container that a component of a path names, if it can be one.
///
/// containerd and Kata name the directory after the container's id; with systemd's driver it is
/// `cri-containerd-<id>.scope`. Units of a systemd inside the container lie below that, slices and pods above.
fn container_of(component: &str) -> Option<String> {
    let id = match component.strip_suffix(".scope") {
        Some(scope) => {
            let (prefix, id) = scope.rsplit_once('-')?;
            ["cri-containerd", "docker", "crio", "libpod"].contains(&prefix).then_some(id)?
        }
        None => component,
    };
    let is_unit = [".service", ".slice", ".socket", ".mount", ".swap"].iter().any(|end| id.ends_with(end));
    if is_unit || id.starts_with("kubepods") || (id.starts_with("pod") && id.len() >= 39) {
        return None;
    }
    id.parse::<ContainerId>().ok().map(|id| id.to_string())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn path(components: &[&str]) -> [[u8; CGROUP_NAME_MAX]; CGROUP_DEPTH_MAX] {
        let mut path = [[0; CGROUP_NAME_MAX]; CGROUP_DEPTH_MAX];
        for (to, from) in path.iter_mut().zip(components.iter().rev()) {
            to[..from.len()].copy_from_slice(from.as_bytes());
        }
        path
    }

    fn id_of(components: &[&str]) -> String {
        let mut containers = Containers::default();
        containers.learn(7, &path(components));
        containers.id(containers.of_cgroup(7)).to_owned()
    }

    #[test]
    fn the_last_component_is_the_container() {
        assert_eq!(id_of(&["default", "shop-1"]), "shop-1");
        assert_eq!(id_of(&["shop-1"]), "shop-1");
        assert_eq!(id_of(&["kubepods", "besteffort", "pod0f3c", "4e2a"]), "4e2a");
        assert_eq!(id_of(&["kubepods.slice", "kubepods-pod1.slice", "cri-containerd-4e2a.scope"]), "4e2a");
    }

    #[test]
    fn units_inside_a_container_belong_to_it() {
        assert_eq!(id_of(&["default", "shop-1", "system.slice", "nginx.service"]), "shop-1");
    }

    #[test]
    fn processes_outside_containers_have_none() {
        for components in
            [&[][..], &["system.slice", "ssh.service"], &["user.slice", "user-0.slice", "session-3.scope"]]
        {
            assert_eq!(id_of(components), "", "{components:?}");
        }
    }

    #[test]
    fn equal_ids_are_one_container_and_their_number_is_bounded() {
        let mut containers = Containers::default();
        containers.learn(1, &path(&["a", "x"]));
        containers.learn(2, &path(&["b", "x"]));
        assert_eq!(containers.of_cgroup(1), containers.of_cgroup(2));
        for cgroup in 10..10 + 2 * CONTAINERS_MAX as u64 {
            containers.learn(cgroup, &path(&[&format!("c{cgroup}")]));
        }
        assert_eq!(containers.ids.len(), CONTAINERS_MAX + 1);
        assert_eq!(containers.id(containers.of_cgroup(10 + 2 * CONTAINERS_MAX as u64 - 1)), "");
    }
}
