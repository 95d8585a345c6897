//! First process of the guest: runs servers, their load and the agent, and reads the clock.
//!
//! Under QEMU's `-icount shift=0,sleep=off` every instruction takes a nanosecond of guest time, and time in which the
//! only processor is idle is skipped. So the clock counts instructions. The servers of the workloads that are not
//! being measured are frozen, so that their timers do not run.

mod agent;
mod calls;
mod load;
mod machine;
mod server;
mod stream;

use std::{collections::BTreeMap, fs, time::Duration};

use anyhow::{Context, Result, ensure};
use nix::time::{ClockId, clock_gettime};
use porthole_bench_guest::{ECHO, Line, MARK, PLAN, Phase, Plan, Row, Workload};

use crate::{agent::Agent, load::Running, server::RunningServer};

/// For how long the guest rests before a measurement, so that what the warm-up left to do is done. It is skipped time.
const REST: Duration = Duration::from_secs(1);

fn main() {
    let arguments: Vec<String> = std::env::args().collect();
    if let [_, command, port] = arguments.as_slice()
        && command == ECHO
    {
        if let Err(error) = server::echo(port) {
            eprintln!("echo: {error:#}");
        }
        return;
    }
    let outcome = measure();
    say(&match outcome {
        Ok(()) => Line::Done,
        Err(error) => Line::Failed(format!("{error:#}")),
    });
    machine::end();
}

/// Writes a line to the console.
fn say(line: &Line) {
    match serde_json::to_string(line) {
        Ok(text) => println!("{MARK}{text}"),
        Err(error) => println!("a result that cannot be written: {error}"),
    }
}

fn measure() -> Result<()> {
    machine::set_up()?;
    let plan = fs::read(PLAN).context("read the plan")?;
    let plan: Plan = serde_json::from_slice(&plan).context("read the plan")?;
    let release = fs::read_to_string("/proc/sys/kernel/osrelease").context("read the kernel's release")?;
    say(&Line::Guest { release: release.trim_end().to_owned() });

    let mut servers = Vec::new();
    for (number, workload) in plan.workloads.iter().enumerate() {
        let server = workload.server.as_ref().map(|server| RunningServer::start(number, server));
        servers.push(server.transpose().with_context(|| format!("start the server of {}", workload.name))?);
        phase(workload, servers.last_mut().and_then(Option::as_mut), None, Phase::Without)?;
    }
    let mut agent = Agent::start(&plan.agent, plan.log)?;
    say(&Line::Loaded { ns: Agent::load_ns()? });
    if plan.log {
        say(&Line::Log(Agent::log()?));
    }
    for (workload, server) in plan.workloads.iter().zip(&mut servers) {
        phase(workload, server.as_mut(), Some(&mut agent), Phase::With)?;
    }
    if plan.programs {
        let _accounting = agent::account_programs()?;
        for (workload, server) in plan.workloads.iter().zip(&mut servers) {
            phase(workload, server.as_mut(), Some(&mut agent), Phase::Accounted)?;
        }
    }
    Ok(())
}

/// Measures one workload.
fn phase(
    workload: &Workload,
    server: Option<&mut RunningServer>,
    mut agent: Option<&mut Agent>,
    phase: Phase,
) -> Result<()> {
    let mut server = server;
    if let Some(server) = &mut server {
        server.thaw()?;
    }
    let row = (|| {
        let mut load = Running::start(&workload.load, server.as_deref().map(RunningServer::port))?;
        // Twice: in between the agent makes its decisions about what it has seen.
        load.run(workload.warm_up)?;
        std::thread::sleep(REST);
        load.run(workload.warm_up)?;
        std::thread::sleep(REST);

        let counted = agent.as_mut().map_or(Ok(0), |agent| agent.final_count())?;
        let accounts = if phase == Phase::Accounted { agent::programs()? } else { BTreeMap::new() };
        let agent_ns = agent.as_ref().map_or(Ok(0), |agent| agent.cpu_ns())?;
        let idle_ns = machine::idle_ns()?;
        let start = now()?;
        load.run(workload.requests)?;
        let elapsed_ns = now()?.saturating_sub(start);
        let idle_ns = machine::idle_ns()?.saturating_sub(idle_ns);
        ensure!(
            idle_ns < elapsed_ns / 100,
            "the processor was idle for {idle_ns} of {elapsed_ns} ns: what waits cannot be measured"
        );
        let agent_ns = agent.as_ref().map_or(Ok(0), |agent| agent.cpu_ns())?.saturating_sub(agent_ns);
        let accounts = if phase == Phase::Accounted { agent::since(&accounts)? } else { accounts };
        let counted = agent.as_mut().map_or(Ok(0), |agent| agent.final_count())?.saturating_sub(counted);
        Ok::<_, anyhow::Error>(Row {
            workload: workload.name.clone(),
            phase,
            requests: workload.requests,
            elapsed_ns,
            agent_ns,
            counted,
            programs: accounts,
        })
    })()
    .with_context(|| format!("{}, {phase:?}", workload.name))?;
    if let Some(server) = &mut server {
        server.freeze()?;
    }
    say(&Line::Row(row));
    Ok(())
}

/// The guest's clock, nanoseconds; nothing adjusts it.
fn now() -> Result<u64> {
    let time = clock_gettime(ClockId::CLOCK_MONOTONIC_RAW).context("read the clock")?;
    u64::try_from(Duration::from(time).as_nanos()).context("a clock in this century")
}
