//! The sandbox's control groups on the host.
//!
//! Everything that runs for a sandbox is in the group that the specification names (`linux.cgroupsPath`), below the pod's:
//! there its memory and its processor time are accounted and limited. The group is made in every hierarchy of the host,
//! of version 1 and 2 (cgroups(7)). Groups are planned before they are made, so that they can be on record before.

use std::{
    io,
    path::{Component, Path, PathBuf},
    time::Duration,
};

use super::system::groups::{GroupSystem, Removal};

/// How long a group may stay busy: a killed program's children end a moment after it, and are then reaped.
const REMOVE_ATTEMPTS: u32 = 100;
const REMOVE_PAUSE: Duration = Duration::from_millis(20);

/// How often the groups of a hierarchy are made while other sandboxes, whose last group it was, remove their parents.
const MAKE_ATTEMPTS: u32 = 10;

/// Groups that are to be made.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct Plan {
    /// The sandbox's group in each hierarchy, with the groups above it below the hierarchy's root.
    groups: Vec<Vec<PathBuf>>,
    /// Groups that are not there yet, parents first.
    pub missing: Vec<PathBuf>,
}

/// Plans the group in every hierarchy. `path` is the specification's; systemd's form is taken too.
pub fn plan(system: &impl GroupSystem, path: &str) -> io::Result<Plan> {
    let relative =
        relative_path(path).ok_or_else(|| io::Error::other(format!("`{path}` is no control group")))?;
    let mut plan = Plan::default();
    for hierarchy in system.hierarchies()? {
        let mut groups = vec![hierarchy];
        for part in &relative {
            let group = groups.last().expect("the hierarchy at least").join(part);
            if !system.group_exists(&group) {
                plan.missing.push(group.clone());
            }
            groups.push(group);
        }
        plan.groups.push(groups);
    }
    Ok(plan)
}

impl Plan {
    /// Makes the groups; answers their open lists of members. When it fails, nothing that it made remains.
    pub fn make<S: GroupSystem>(&self, system: &S) -> io::Result<Vec<S::Members>> {
        let mut made = Vec::new();
        let result = self.make_each(system, &mut made);
        if result.is_err() {
            remove(system, &made);
        }
        result
    }

    fn make_each<S: GroupSystem>(&self, system: &S, made: &mut Vec<PathBuf>) -> io::Result<Vec<S::Members>> {
        let mut members = Vec::new();
        for groups in &self.groups {
            let mut attempts = 1..MAKE_ATTEMPTS;
            let opened = loop {
                match make_hierarchy(system, groups, made) {
                    Err(error) if error.kind() == io::ErrorKind::NotFound && attempts.next().is_some() => {}
                    result => break result?,
                }
            };
            members.extend(opened);
        }
        Ok(members)
    }
}

/// Makes the groups of one hierarchy, parents first, and opens the list of members of the last.
fn make_hierarchy<S: GroupSystem>(
    system: &S,
    groups: &[PathBuf],
    made: &mut Vec<PathBuf>,
) -> io::Result<Option<S::Members>> {
    for pair in groups.windows(2) {
        let [parent, group] = pair else { continue };
        if system.create_group(group)? {
            made.push(group.clone());
        }
        system.inherit_cpuset(parent, group)?;
    }
    groups.last().map(|group| system.open_members(group)).transpose()
}

/// The calling process' stay in a sandbox's groups. What it does there is accounted and limited with the sandbox; a group
/// can be removed when it has left.
#[derive(Debug)]
pub struct Stay<S: GroupSystem> {
    /// Where it was before.
    before: Vec<S::Members>,
}

impl<S: GroupSystem> Stay<S> {
    /// Enters the groups of a plan, whose lists of members these are. When it fails, it is where it was.
    pub fn begin(system: &S, plan: &Plan, members: &[S::Members]) -> io::Result<Self> {
        let hierarchies = plan.groups.iter().filter_map(|groups| groups.first());
        let before = hierarchies
            .map(|hierarchy| system.open_members(&system.own_group(hierarchy)?))
            .collect::<io::Result<Vec<_>>>()?;
        let stay = Self { before };
        for group in members {
            if let Err(error) = system.join(group) {
                stay.end(system);
                return Err(error);
            }
        }
        Ok(stay)
    }

    /// Leaves them.
    pub fn end(&self, system: &S) {
        for group in &self.before {
            if let Err(error) = system.join(group) {
                tracing::warn!(%error, "the shim stays in a sandbox's control group");
            }
        }
    }
}

/// Removes groups, children first, and the groups above them that this runtime has made, for whichever sandbox. One in
/// which others have made groups stays until the last sandbox in it ends.
pub fn remove(system: &impl GroupSystem, groups: &[PathBuf]) {
    for group in groups.iter().rev() {
        let removed = remove_one(system, group).and_then(|()| remove_marked_above(system, group));
        if let Err(error) = removed {
            tracing::warn!(%error, group = %group.display(), "a control group remains");
        }
    }
}

fn remove_marked_above(system: &impl GroupSystem, group: &Path) -> io::Result<()> {
    for parent in group.ancestors().skip(1).take_while(|parent| system.is_marked(parent)) {
        if system.remove_group(parent)? != Removal::Gone {
            break;
        }
    }
    Ok(())
}

fn remove_one(system: &impl GroupSystem, group: &Path) -> io::Result<()> {
    for _ in 0..REMOVE_ATTEMPTS {
        match system.remove_group(group)? {
            Removal::Gone | Removal::Shared => return Ok(()),
            Removal::Busy => std::thread::sleep(REMOVE_PAUSE),
        }
    }
    Err(io::ErrorKind::ResourceBusy.into())
}

/// The specification's path below a hierarchy's mount point.
fn relative_path(path: &str) -> Option<PathBuf> {
    let path = if let [slice, prefix, name] = path.split(':').collect::<Vec<_>>()[..] {
        systemd_path(slice, prefix, name)?
    } else {
        PathBuf::from(path)
    };
    let mut relative = PathBuf::new();
    for part in path.components() {
        match part {
            Component::RootDir | Component::CurDir => {}
            Component::Normal(part) => relative.push(part),
            Component::ParentDir | Component::Prefix(_) => return None,
        }
    }
    (!relative.as_os_str().is_empty()).then_some(relative)
}

/// `a-b.slice`, `prefix`, `name` stand for `a.slice/a-b.slice/prefix-name.scope`, systemd.slice(5).
fn systemd_path(slice: &str, prefix: &str, name: &str) -> Option<PathBuf> {
    let mut path = PathBuf::new();
    let stem = slice.strip_suffix(".slice")?;
    for (end, _) in stem.match_indices('-').chain([(stem.len(), "")]) {
        path.push(format!("{}.slice", &stem[..end]));
    }
    let scope = if prefix.is_empty() { format!("{name}.scope") } else { format!("{prefix}-{name}.scope") };
    path.push(scope);
    Some(path)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::vm::system::recorded::Recorded;

    /// A host with two hierarchies, in which the pod's group is there.
    fn host() -> Recorded {
        Recorded::default().with_groups(&["/cg/memory/pods", "/cg/cpuset/pods"])
    }

    #[test]
    fn a_group_is_planned_and_made_in_every_hierarchy_parents_first() {
        let system = host();
        let plan = plan(&system, "/pods/p1/c1").expect("planned");
        let missing =
            ["/cg/memory/pods/p1", "/cg/memory/pods/p1/c1", "/cg/cpuset/pods/p1", "/cg/cpuset/pods/p1/c1"];
        assert_eq!(plan.missing, missing.map(PathBuf::from), "on record before it is made");
        assert_eq!(system.groups(), host().groups(), "planning makes nothing");
        plan.make(&system).expect("made");
        assert_eq!(
            system.lines(),
            [
                "create_group /cg/memory/pods",
                "inherit_cpuset /cg/memory /cg/memory/pods",
                "create_group /cg/memory/pods/p1",
                "inherit_cpuset /cg/memory/pods /cg/memory/pods/p1",
                "create_group /cg/memory/pods/p1/c1",
                "inherit_cpuset /cg/memory/pods/p1 /cg/memory/pods/p1/c1",
                "open_members /cg/memory/pods/p1/c1",
                "create_group /cg/cpuset/pods",
                "inherit_cpuset /cg/cpuset /cg/cpuset/pods",
                "create_group /cg/cpuset/pods/p1",
                "inherit_cpuset /cg/cpuset/pods /cg/cpuset/pods/p1",
                "create_group /cg/cpuset/pods/p1/c1",
                "inherit_cpuset /cg/cpuset/pods/p1 /cg/cpuset/pods/p1/c1",
                "open_members /cg/cpuset/pods/p1/c1",
            ]
        );
        remove(&system, &plan.missing);
        assert_eq!(system.groups(), host().groups());
    }

    #[test]
    fn whichever_call_fails_no_group_stays_that_was_not_there() {
        let calls = {
            let system = host();
            plan(&system, "/pods/p1/c1").and_then(|plan| plan.make(&system)).expect("made");
            system.lines().len()
        };
        for call in 0..calls {
            let system = host().failing_at_call(call);
            let made = plan(&system, "/pods/p1/c1").and_then(|plan| plan.make(&system));
            made.expect_err(&system.lines()[call]);
            assert_eq!(system.groups(), host().groups(), "after `{}`", system.lines()[call]);
        }
    }

    #[test]
    fn groups_above_go_with_the_last_sandbox_in_them_and_those_of_others_stay() {
        let system = host();
        let start = |path: &str| {
            let plan = plan(&system, path).expect("planned");
            plan.make(&system).expect("made");
            plan.missing
        };
        let (one, other) = (start("/pods/ns/one"), start("/pods/ns/other"));
        remove(&system, &one);
        assert!(system.groups().contains(Path::new("/cg/cpuset/pods/ns")), "the other one is in it");
        remove(&system, &other);
        assert_eq!(system.groups(), host().groups(), "nobody here made /pods");
    }

    #[test]
    fn groups_that_others_remove_meanwhile_are_made_again() {
        let above = ["/cg/memory/pods", "/cg/memory/pods/p1"];
        let wanted: Vec<_> = ["p1", "p1/c1"]
            .iter()
            .flat_map(|group| {
                ["memory", "cpuset"].map(|root| PathBuf::from(format!("/cg/{root}/pods/{group}")))
            })
            .collect();
        for group in above {
            for call in 0..14 {
                let system = host().losing_at_call(call, group);
                let plan = plan(&system, "/pods/p1/c1").expect("planned");
                plan.make(&system).expect("made");
                let groups = system.groups();
                assert!(wanted.iter().all(|group| groups.contains(group)), "{group} at {call}: {groups:?}");
                remove(&system, &plan.missing);
                let left = system.groups();
                assert!(!left.iter().any(|group| group.ends_with("p1")), "{group} at {call}: {left:?}");
            }
        }
    }

    #[test]
    fn whoever_stays_in_the_groups_leaves_them_and_stays_in_none_when_one_call_fails() {
        let stay = |system: &Recorded| {
            let plan = plan(system, "/pods/p1/c1")?;
            let members = plan.make(system)?;
            Stay::begin(system, &plan, &members)
        };
        let inside =
            |system: &Recorded| system.joined().into_iter().filter(|group| group.ends_with("p1/c1")).count();
        let system = host();
        let begun = stay(&system).expect("begun");
        assert_eq!(inside(&system), 2);
        let calls = system.lines().len();
        begun.end(&system);
        assert_eq!(inside(&system), 0);
        for call in 0..calls {
            let system = host().failing_at_call(call);
            stay(&system).expect_err(&system.lines()[call]);
            assert_eq!(inside(&system), 0, "after `{}`", system.lines()[call]);
        }
    }

    #[test]
    fn a_busy_group_is_waited_for_and_one_that_others_use_stays() {
        let system = host().with_groups(&["/cg/memory/pods/p1"]).busy_for(3);
        remove(&system, &["/cg/memory/pods".into(), "/cg/memory/pods/p1".into()]);
        assert!(!system.groups().contains(Path::new("/cg/memory/pods/p1")));
        let shared = host().with_groups(&["/cg/memory/pods/other"]);
        remove(&shared, &["/cg/memory/pods".into()]);
        assert!(shared.groups().contains(Path::new("/cg/memory/pods")));
    }

    #[test]
    fn paths_of_both_forms_are_understood_and_none_leads_away() {
        let path = |text: &str| relative_path(text).map(|path| path.to_string_lossy().into_owned());
        assert_eq!(path("/kubepods/pod1/c1").as_deref(), Some("kubepods/pod1/c1"));
        assert_eq!(
            path("kubepods-burstable-pod1.slice:cri-containerd:c1").as_deref(),
            Some(
                "kubepods.slice/kubepods-burstable.slice/kubepods-burstable-pod1.slice/cri-containerd-c1.scope"
            )
        );
        for text in ["", "/", "/a/../../b", "..", "a:b:c"] {
            assert_eq!(path(text), None, "{text}");
        }
    }
}
