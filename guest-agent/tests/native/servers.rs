//! Servers as they come from the distribution, under their own load generators.

use std::{
    fs,
    process::{Command, Stdio},
};

use porthole_agent_api::agent::Side;

use porthole_trials::{CannotRun, Outcome, Trial, needs, trials};

use crate::{harness::Agent, running};

/// The tests of this file.
pub fn tests() -> Vec<Trial> {
    trials![
        every_command_of_redis_benchmark_is_counted,
        every_pipelined_command_of_redis_benchmark_is_counted,
        every_file_that_nginx_serves_is_counted,
    ]
}

fn run(program: &str, arguments: &[String]) -> Result<(), CannotRun> {
    needs::program(program)?;
    let status = Command::new(program).args(arguments).stdout(Stdio::null()).stderr(Stdio::null()).status();
    assert!(status.is_ok_and(|status| status.success()), "{program}");
    Ok(())
}

fn words(text: &str) -> Vec<String> {
    text.split_whitespace().map(str::to_owned).collect()
}

/// Exchanges of an operation: by servers, and by clients.
fn by_operation(agent: &Agent, operation: &str) -> (u64, u64) {
    [Side::SIDE_SERVER, Side::SIDE_CLIENT]
        .map(|side| {
            let all = agent.series(side, "").into_iter();
            all.filter(|series| series.key.operation == operation).map(|series| series.duration.count).sum()
        })
        .into()
}

/// Commands of redis-benchmark, at a depth of pipelining; the command is one that nothing else here uses.
fn redis_counts(command: &str, depth: u64) -> Outcome {
    const COMMANDS: u64 = 8_000;
    let mut agent = Agent::start(&["--ring-kib", "16384", "--cpu-share", "0"])?;
    let server = running::redis()?;
    let load = format!("-p {} -c 4 -n {COMMANDS} -P {depth} -q {command} absent 0 1", server.port);
    run("redis-benchmark", &words(&load))?;
    agent.catch_up();
    assert_eq!(agent.counters.events_lost, 0, "the ring has room for all of it");
    assert_eq!(by_operation(&agent, &command.to_uppercase()), (COMMANDS, COMMANDS), "{:?}", agent.counters);
    Ok(())
}

fn every_command_of_redis_benchmark_is_counted() -> Outcome {
    redis_counts("substr", 1)
}

fn every_pipelined_command_of_redis_benchmark_is_counted() -> Outcome {
    redis_counts("getrange", 16)
}

fn every_file_that_nginx_serves_is_counted() -> Outcome {
    const REQUESTS: usize = 300;
    let mut agent = Agent::start(&["--ring-kib", "16384", "--cpu-share", "0"])?;
    let files = tempfile::tempdir_in("/tmp").expect("directory");
    fs::write(files.path().join("by-nginx"), vec![b'x'; 50_000]).expect("written");
    let server = running::nginx(&format!("sendfile on; root {};", files.path().display()))?;
    for path in ["by-nginx", "by-nginx-not"] {
        let mut arguments = vec!["-s".to_owned()];
        for _ in 0..REQUESTS {
            arguments.extend(words(&format!("-o /dev/null http://127.0.0.1:{}/{path}", server.port)));
        }
        run("curl", &arguments)?;
    }
    let all = REQUESTS as u64;
    for (path, status) in [("/by-nginx", "200"), ("/by-nginx-not", "404")] {
        assert_eq!(agent.counts(path), (all, all), "{path}");
        for side in [Side::SIDE_SERVER, Side::SIDE_CLIENT] {
            assert!(agent.series(side, path).iter().all(|series| series.key.status == status));
        }
    }
    let sizes = agent.series(Side::SIDE_SERVER, "/by-nginx")[0].response_bytes;
    assert!(sizes >= 50_000 * all, "{sizes}");
    Ok(())
}
