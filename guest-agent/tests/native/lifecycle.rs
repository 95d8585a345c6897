//! Containers, short lives, and the agent's own manners.

use std::{
    fs,
    io::{BufRead as _, BufReader, Write as _},
    net::{Ipv4Addr, TcpListener},
    path::PathBuf,
    process::{Command, Stdio},
};

use porthole_agent_api::{
    agent::{Milestones, Side},
    proof,
};

use porthole_trials::{Outcome, Trial, trials};

use crate::{harness::Agent, http::Server};

/// The tests of this file.
pub fn tests() -> Vec<Trial> {
    trials![
        a_container_that_exits_at_once_is_in_the_numbers_under_its_name,
        the_first_process_and_the_first_listener_of_containers_are_reported_with_their_times,
        the_agent_keeps_no_capability_and_little_memory,
        it_proves_that_it_holds_its_secret_and_does_not_show_it,
        a_signal_ends_it_cleanly_while_it_is_watched,
        the_last_exchanges_are_sent_when_it_is_asked_to_end,
        without_an_object_it_says_what_to_do,
    ]
}

/// A control group that is removed in the end.
struct Cgroup(PathBuf);

impl Cgroup {
    fn new(name: &str) -> Self {
        let unified = PathBuf::from("/sys/fs/cgroup/unified");
        let root = if unified.exists() { unified } else { "/sys/fs/cgroup".into() };
        let path = root.join(name);
        fs::create_dir_all(&path).expect("control group");
        Self(path)
    }
}

impl Drop for Cgroup {
    fn drop(&mut self) {
        let _ = fs::remove_dir(&self.0);
    }
}

fn a_container_that_exits_at_once_is_in_the_numbers_under_its_name() -> Outcome {
    let mut agent = Agent::start(&[])?;
    let server = Server::start();
    let cgroup = Cgroup::new("porthole-test-short");
    // The first process of its own pid namespace, as in a container.
    let script = format!(
        "echo 0 > {}/cgroup.procs; exec unshare --pid --fork --kill-child sh -c 'for i in 1 2 3 4 5; do \
         curl -s -o /dev/null http://{}/short; done'",
        cgroup.0.display(),
        server.address
    );
    let before = agent.stats();
    let done = Command::new("sh").args(["-c", &script]).stdin(Stdio::null()).status().expect("run");
    assert!(done.success());
    let after = agent.stats();
    agent.until("the container's exit is reported", |agent| {
        agent.exited.iter().any(|id| id == "porthole-test-short").then_some(())
    });
    let series = agent.series(Side::SIDE_CLIENT, "/short");
    let [series] = series[..] else { panic!("{series:?}") };
    assert_eq!((&series.key.container_id[..], series.duration.count), ("porthole-test-short", 5));
    let [answered] = agent.series(Side::SIDE_SERVER, "/short")[..] else { panic!("one series") };
    assert_eq!(answered.key.container_id, "", "the server is outside");
    // Times of processes are exact to a hundredth of a second where they were read from `/proc`.
    let made = agent.milestones.first_process_unix_ns + 10_000_000;
    let ran_before = before.counters.unattached_start_ns > 0;
    assert!(
        ran_before || (before.unix_ns..after.unix_ns + 10_000_000).contains(&made),
        "{:?}",
        agent.milestones
    );
    Ok(())
}

fn the_first_process_and_the_first_listener_of_containers_are_reported_with_their_times() -> Outcome {
    let mut agent = Agent::start(&[])?;
    let booted_unix_ns = agent.until("the guest's boot is reported", |agent| {
        Some(agent.milestones.booted_unix_ns).filter(|unix_ns| *unix_ns > 0)
    });
    let before = agent.stats();
    assert!((1..before.unix_ns).contains(&booted_unix_ns));
    // Outside of containers.
    let _outside = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).expect("bound");
    agent.catch_up();
    assert_eq!(agent.milestones.first_listen_unix_ns, 0);
    let cgroup = Cgroup::new("porthole-test-listens");
    let script = format!(
        "echo 0 > {}/cgroup.procs; exec python3 -c \"
import socket, sys
for _ in range(2):
    listener = socket.create_server(('127.0.0.1', 0))
    print('listens', flush=True)
    sys.stdin.readline()\"",
        cgroup.0.display()
    );
    let mut child = Command::new("sh")
        .args(["-c", &script])
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .expect("it starts");
    let (mut input, output) = (child.stdin.take().expect("piped"), child.stdout.take().expect("piped"));
    let mut lines = BufReader::new(output).lines();
    let mut listens = || assert_eq!(lines.next().expect("a line").expect("text"), "listens");
    listens();
    let late = before.counters.unattached_start_ns > 0;
    let reported = agent.until("both are reported", |agent| {
        let Milestones { first_process_unix_ns, first_listen_unix_ns, .. } = agent.milestones;
        let complete = first_process_unix_ns > 0 && (late || first_listen_unix_ns > 0);
        complete.then(|| agent.milestones.clone())
    });
    assert!(booted_unix_ns < reported.first_process_unix_ns);
    if late {
        // Something runs in control groups of this machine that could be containers.
        assert_eq!(reported.first_listen_unix_ns, 0);
    } else {
        assert!((before.unix_ns..agent.stats().unix_ns).contains(&reported.first_listen_unix_ns));
    }
    writeln!(input).expect("sent");
    listens();
    agent.catch_up();
    let after = agent.milestones.clone();
    // The wall clock can be set a little meanwhile.
    let apart = after.first_listen_unix_ns.abs_diff(reported.first_listen_unix_ns);
    assert!(apart < 1_000_000, "the second listener is not the first: {apart}");
    writeln!(input).expect("sent");
    assert!(child.wait().expect("it ends").success());
    Ok(())
}

fn the_agent_keeps_no_capability_and_little_memory() -> Outcome {
    let agent = Agent::start(&[])?;
    for set in ["CapEff", "CapPrm", "CapInh", "CapAmb"] {
        assert_eq!(agent.status_line(set), "0000000000000000", "{set}");
    }
    assert_eq!(agent.status_line("NoNewPrivs"), "1");
    let stats = agent.stats();
    // Not the released program, whose code is much smaller: the end-to-end tests hold that one to its target.
    assert!((1 << 20..16 << 20).contains(&stats.resident_bytes), "{}", stats.resident_bytes);
    assert!(stats.load_ns > 0 && stats.cpu_ns > 0);
    assert!(stats.limitations.iter().any(|sentence| sentence.contains("io_uring")));
    Ok(())
}

fn it_proves_that_it_holds_its_secret_and_does_not_show_it() -> Outcome {
    let secret = "5a".repeat(32);
    let agent = Agent::start_with(&[], &[(proof::SECRET_ENV, &secret)])?;
    let host_nonce = [1; proof::NONCE_BYTES];
    let hello = agent.hello(&host_nonce);
    assert!(proof::is_proven(&[0x5a; 32], &host_nonce, &hello.agent_nonce, &hello.proof));
    assert_ne!(agent.hello(&host_nonce).agent_nonce, hello.agent_nonce, "each Hello has a nonce of its own");
    let nothing = agent.hello(&[1; 5]);
    assert_eq!(
        (nothing.agent_nonce.len(), nothing.proof.len()),
        (0, 0),
        "a nonce of another length proves nothing"
    );
    for file in ["environ", "cmdline"] {
        let shown = fs::read(format!("/proc/{}/{file}", agent.pid())).expect(file);
        assert!(!String::from_utf8_lossy(&shown).contains(&secret[..16]), "{file}");
    }
    Ok(())
}

fn a_signal_ends_it_cleanly_while_it_is_watched() -> Outcome {
    let agent = Agent::start(&[])?;
    assert_eq!(agent.terminate(), (true, true));
    Ok(())
}

fn the_last_exchanges_are_sent_when_it_is_asked_to_end() -> Outcome {
    let mut agent = Agent::start(&[])?;
    let server = Server::start();
    server.get("/last", 5);
    agent.terminate_and_drain();
    assert_eq!([Side::SIDE_SERVER, Side::SIDE_CLIENT].map(|side| agent.count(side, "/last")), [5, 5]);
    Ok(())
}

fn without_an_object_it_says_what_to_do() -> Outcome {
    let output = Command::new(env!("CARGO_BIN_EXE_porthole-agent"))
        .args(["--listen", "unix:///tmp/never.sock", "--bpf-object", "/nonexistent.o"])
        .output()?;
    assert!(!output.status.success());
    assert!(String::from_utf8_lossy(&output.stderr).contains("/nonexistent.o"));
    Ok(())
}
