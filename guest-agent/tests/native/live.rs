//! Live traffic of kinds that are easily counted wrongly, each in every way to capture: what is counted is what was sent, at
//! both ends.

mod cases;
mod sent;

use std::{
    io::{BufRead, BufReader},
    process::{Command, Stdio},
};

use porthole_agent_api::agent::{Protocol, Side};
use porthole_trials::{Outcome, Trial, needs, trials};

use self::{
    cases::{CASES, Pair},
    sent::{ANY, sent},
};
use crate::{
    drivers::{PYTHON, source},
    harness::{Agent, EVERY_CAPTURE, EVERY_HOOKS},
    lengths::connected,
    running,
};

/// The tests of this file.
pub fn tests() -> Vec<Trial> {
    trials![
        every_case_is_counted_where_sockets_report,
        every_case_is_counted_in_user_space,
        every_case_is_counted_where_system_calls_end,
        every_case_is_counted_from_packets,
        channels_of_grpcs_c_core_are_counted_from_their_first_call_or_from_the_middle,
        rows_that_drivers_insert_together_are_counted_one_by_one,
    ]
}

/// Plays every case under an agent, and compares what it counts of each.
fn assert_counted(arguments: &[&str], sees_unix_sockets: bool) -> Outcome {
    let mut agent = Agent::start(&[arguments, &["--cpu-share", "0"]].concat())?;
    let mut wrong = Vec::new();
    for case in CASES {
        (case.traffic)(&mut Pair::new(connected));
        if case.by_unix_sockets && sees_unix_sockets {
            let connect = || std::os::unix::net::UnixStream::pair().expect("a pair");
            (case.traffic)(&mut Pair::new(connect));
        }
        // What one case sends fits in the ring buffer.
        agent.catch_up();
        let times = 1 + u64::from(case.by_unix_sockets && sees_unix_sockets);
        for sent in case.sent {
            wrong.extend(sent.wrong(&agent, times).map(|what| format!("{}: {what}", case.name)));
        }
    }
    assert!(wrong.is_empty(), "{arguments:?}, {:?}: {wrong:#?}", agent.counters);
    Ok(())
}

fn every_case_is_counted_where_sockets_report() -> Outcome {
    assert_counted(EVERY_HOOKS[0], true)
}

fn every_case_is_counted_in_user_space() -> Outcome {
    assert_counted(&["--no-offload"], true)
}

fn every_case_is_counted_where_system_calls_end() -> Outcome {
    assert_counted(EVERY_HOOKS[1], true)
}

fn every_case_is_counted_from_packets() -> Outcome {
    assert_counted(EVERY_CAPTURE[2], false)
}

/// gRPC's C core writes many buffers in a call, and refers to fields of earlier calls.
fn channels_of_grpcs_c_core_are_counted_from_their_first_call_or_from_the_middle() -> Outcome {
    const GRPC: Protocol = Protocol::PROTOCOL_GRPC;
    needs::program(PYTHON)?;
    needs::file("/usr/lib/python3/dist-packages/grpc")?;
    needs::root()?;
    let expected = [
        sent(GRPC, "POST", "/live.Cart/Add", "0", 50),
        sent(GRPC, "POST", "/live.Store/Small", "0", 10),
        sent(GRPC, "POST", "/live.Store/Large", "0", 10),
        sent(GRPC, "POST", "/live.Feed/Before", "13", 10),
        sent(GRPC, "POST", "/live.Feed/Big", "13", 10),
        sent(GRPC, "POST", "/live.Feed/After", "13", 10),
        // And two hundred on the channel that was open before, whatever of their names is known.
        sent(GRPC, "POST", ANY, ANY, 300),
    ];
    for arguments in EVERY_CAPTURE {
        let mut program = Command::new(PYTHON)
            .arg(source("channels.py"))
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .expect("a program");
        let mut lines = BufReader::new(program.stdout.take().expect("piped")).lines();
        assert_eq!(lines.next().expect("a line").expect("text"), "open");
        let agent = Agent::start(&[arguments, &["--cpu-share", "0"]].concat());
        drop(program.stdin.take());
        assert!(program.wait().expect("waited").success());
        let mut agent = agent?;
        agent.catch_up();
        let wrong: Vec<String> = expected.iter().filter_map(|sent| sent.wrong(&agent, 1)).collect();
        assert!(wrong.is_empty(), "{arguments:?}, {:?}: {wrong:#?}", agent.counters);
    }
    Ok(())
}

/// How often rows are inserted under a stopped agent at most, until no record is lost.
const STOPPED_ROUNDS: u32 = 5;

fn insert(driver: &str, port: &str, table: &str) {
    let program = source("rows.py").display().to_string();
    assert!(running::quiet(PYTHON, &[&program, driver, port, table]));
}

/// Inserts rows while the agent is stopped, as it is where it waits for a CPU: the ring buffer has room for all of them.
/// Where the traffic of others filled it meanwhile, again with another table. Gives the last table's name.
fn insert_while_stopped(agent: &mut Agent, driver: &str, port: &str, name: &str) -> String {
    let mut round = 0;
    loop {
        round += 1;
        let table = format!("{name}_stopped_{round}");
        let lost = agent.counters.events_lost;
        agent.stop();
        insert(driver, port, &table);
        agent.resume();
        agent.catch_up();
        if agent.counters.events_lost == lost || round == STOPPED_ROUNDS {
            return table;
        }
    }
}

/// `executemany`: psycopg and asyncpg send the rows of a whole call without waiting.
fn rows_that_drivers_insert_together_are_counted_one_by_one() -> Outcome {
    needs::program(PYTHON)?;
    for driver in ["psycopg", "asyncpg"] {
        needs::file(&format!("/usr/lib/python3/dist-packages/{driver}"))?;
    }
    let server = running::postgres()?;
    let port = server.port.to_string();
    for (number, arguments) in EVERY_CAPTURE.into_iter().enumerate() {
        let mut agent = Agent::start(&[arguments, &["--cpu-share", "0"]].concat())?;
        for (driver, is_stopped) in [("psycopg", false), ("asyncpg", false), ("asyncpg", true)] {
            let name = format!("live_{driver}_{number}");
            let table = if is_stopped {
                insert_while_stopped(&mut agent, driver, &port, &name)
            } else {
                insert(driver, &port, &name);
                agent.catch_up();
                name
            };
            for (operation, count) in [("INSERT", 2_000), ("SELECT", 10)] {
                for side in [Side::SIDE_SERVER, Side::SIDE_CLIENT] {
                    let mut series = agent.series(side, &table);
                    series.retain(|series| series.key.operation == operation && series.key.status.is_empty());
                    let counted: u64 = series.iter().map(|series| series.duration.count).sum();
                    assert_eq!(
                        counted, count,
                        "{operation} {table}, {side:?}, {arguments:?}: {:?}",
                        agent.counters
                    );
                }
            }
        }
    }
    Ok(())
}
