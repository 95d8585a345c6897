//! Containers: which one a process belongs to, by the name of its control group.
//!
//! The programs send the last components of a control group's path once, so this works for processes that are
//! gone when it is looked up.

use foldhash::{HashMap, HashSet};
use porthole_bpf_types::record::{CGROUP_DEPTH_MAX, CGROUP_NAME_MAX};
use porthole_registry::ContainerId;

/// A container, as a small integer. 0 stands for processes outside any.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct ContainerIndex(pub u32);

/// Most containers that are distinguished at a time; those whose processes made no connection for longest go first.
pub const CONTAINERS_MAX: usize = 256;

/// Most control groups that are remembered at a time; the same.
const CGROUPS_MAX: usize = 4096;

/// Control groups and the containers that they stand for.
#[derive(Debug, Default)]
pub struct Containers {
    by_cgroup: HashMap<u64, Cgroup>,
    ids: HashMap<ContainerIndex, String>,
    /// The index that was given last: none is given twice.
    last: u32,
    /// Counts uses of control groups.
    uses: u64,
    /// Containers that made room for others.
    displaced: u64,
}

#[derive(Debug)]
struct Cgroup {
    container: ContainerIndex,
    /// [`Containers::uses`] when it was last used.
    used: u64,
}

impl Containers {
    /// Learns a control group's path: the last component first.
    pub fn learn(&mut self, cgroup: u64, path: &[[u8; CGROUP_NAME_MAX]; CGROUP_DEPTH_MAX]) {
        if self.by_cgroup.len() >= CGROUPS_MAX {
            self.forget_cgroups();
        }
        let id = path.iter().find_map(|name| container_of(component(name)));
        let container = id.map(|id| self.index_of(&id)).unwrap_or_default();
        self.uses += 1;
        self.by_cgroup.insert(cgroup, Cgroup { container, used: self.uses });
    }

    /// Whether a control group's path is known.
    pub fn knows(&self, cgroup: u64) -> bool {
        self.by_cgroup.contains_key(&cgroup)
    }

    /// The container of a control group.
    pub fn of_cgroup(&mut self, cgroup: u64) -> ContainerIndex {
        self.uses += 1;
        let Some(known) = self.by_cgroup.get_mut(&cgroup) else { return ContainerIndex::default() };
        known.used = self.uses;
        known.container
    }

    /// The id of a container; empty outside any.
    pub fn id(&self, container: ContainerIndex) -> &str {
        self.ids.get(&container).map_or("", |id| id)
    }

    /// Containers that made room for others: what their connections carry from then on has no container.
    pub fn displaced(&self) -> u64 {
        self.displaced
    }

    fn index_of(&mut self, id: &str) -> ContainerIndex {
        if let Some((&known, _)) = self.ids.iter().find(|(_, known)| *known == id) {
            return known;
        }
        if self.ids.len() >= CONTAINERS_MAX {
            self.forget_container();
        }
        self.last = self.last.saturating_add(1);
        let index = ContainerIndex(self.last);
        self.ids.insert(index, id.to_owned());
        index
    }

    /// Forgets the eighth of the control groups that was not used for longest.
    fn forget_cgroups(&mut self) {
        let mut uses: Vec<u64> = self.by_cgroup.values().map(|cgroup| cgroup.used).collect();
        let count = uses.len() / 8;
        let (_, &mut oldest, _) = uses.select_nth_unstable(count);
        self.by_cgroup.retain(|_, cgroup| cgroup.used > oldest);
        let in_use: HashSet<ContainerIndex> =
            self.by_cgroup.values().map(|cgroup| cgroup.container).collect();
        let before = self.ids.len();
        self.ids.retain(|container, _| in_use.contains(container));
        self.displaced += (before - self.ids.len()) as u64;
    }

    /// Forgets the container that was not used for longest.
    fn forget_container(&mut self) {
        let mut newest: HashMap<ContainerIndex, u64> =
            self.ids.keys().map(|&container| (container, 0)).collect();
        for cgroup in self.by_cgroup.values() {
            newest.entry(cgroup.container).and_modify(|used| *used = cgroup.used.max(*used));
        }
        let oldest = newest.into_iter().min_by_key(|(_, used)| *used).map(|(container, _)| container);
        if let Some(oldest) = oldest {
            self.ids.remove(&oldest);
            self.displaced += 1;
            self.by_cgroup.retain(|_, cgroup| cgroup.container != oldest);
        }
    }
}

fn component(name: &[u8]) -> &str {
    let len = name.iter().position(|&byte| byte == 0).unwrap_or(name.len());
    std::str::from_utf8(&name[..len]).unwrap_or_default()
}

/// Whether the last component of a control group's path names a container.
pub fn is_container(component: &str) -> bool {
    container_of(component).is_some()
}

/// The container that a component of a path names, if it can be one.
///
/// containerd and Kata name the directory after the container's id; with systemd's driver it is
/// `cri-containerd-<id>.scope`. Units of a systemd inside the container are below that, slices and pods above.
pub fn container_of(component: &str) -> Option<String> {
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
        let container = containers.of_cgroup(7);
        containers.id(container).to_owned()
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
    fn equal_ids_are_one_container() {
        let mut containers = Containers::default();
        containers.learn(1, &path(&["a", "x"]));
        containers.learn(2, &path(&["b", "x"]));
        assert_eq!(containers.of_cgroup(1), containers.of_cgroup(2));
    }

    #[test]
    fn containers_are_bounded_and_those_that_are_not_used_are_forgotten() {
        let mut containers = Containers::default();
        for cgroup in 0..3 * CGROUPS_MAX as u64 {
            let id = format!("c{cgroup}");
            containers.learn(cgroup, &path(&[&id]));
            let of = |containers: &mut Containers, cgroup| {
                let container = containers.of_cgroup(cgroup);
                containers.id(container).to_owned()
            };
            assert_eq!(of(&mut containers, cgroup), id);
            assert_eq!(of(&mut containers, 0), "c0", "in use all the time");
            assert!(containers.ids.len() <= CONTAINERS_MAX && containers.by_cgroup.len() <= CGROUPS_MAX);
        }
        assert!(!containers.knows(1));
        for cgroup in 0..2 * CGROUPS_MAX as u64 {
            containers.learn(1 << 32 | cgroup, &path(&[]));
        }
        assert!(containers.by_cgroup.len() <= CGROUPS_MAX, "outside any container");
    }
}
