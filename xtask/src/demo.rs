//! `cargo xtask demo`: the whole way once, from `ctr run` to a labelled metric in Prometheus.

use std::{process::ExitCode, sync::Arc, time::Duration};

use anyhow::{Context, Result};
use porthole_testbed::{
    container::PORTHOLE,
    environment::{Environment, Settings},
    image, interrupt,
    network::Forward,
    scenario::{
        APPLICATIONS, NAMESPACES, Running,
        counted::Comparison,
        orders::{self, Orders, Table},
    },
    wait,
};

use crate::{
    build, report,
    setup::{self, Need},
    workspace::{Workspace, require_root},
};

/// For `--help`.
pub const EXAMPLES: &str = "\
Examples:
  sudo -E cargo xtask demo           leaves everything running until Ctrl-C
  sudo -E cargo xtask demo --once    ends by itself; exit code 0 only if every count equals what was sent

The demo has its own containerd, network, exporter and Prometheus, and takes them down at the end.";

/// Time between two rounds of requests while the demo stays up.
const ROUND: Duration = Duration::from_secs(2);

/// Options of `cargo xtask demo`.
#[derive(clap::Args)]
pub struct Options {
    /// Check the counts, take everything down and exit.
    #[arg(long)]
    once: bool,
}

/// Sets up, builds, runs.
pub fn run(workspace: &Workspace, options: &Options) -> Result<ExitCode> {
    require_root("running containers and guests")?;
    setup::packages(Need::RUN)?;
    build::everything(workspace)?;
    interrupt::install()?;
    let environment = report::step("start containerd, the exporter and Prometheus", || {
        Environment::start(workspace.dist(), &Settings::default(), &NAMESPACES, true, &report::note)
    })?;
    let environment = Arc::new(environment);
    let exact = show(&environment, options);
    let finished = report::step("take everything down", || {
        Arc::into_inner(environment).context("the environment has one owner")?.finish()
    });
    let exact = match exact {
        Err(_) if !options.once && interrupt::requested() => true,
        other => other?,
    };
    finished?;
    Ok(if exact { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

/// Runs the applications, sends the requests, prints the comparison; whether every count was exact.
fn show(environment: &Arc<Environment>, options: &Options) -> Result<bool> {
    report::step("make the databases' image (once) and import it", || {
        let archive = image::STORES.build(&environment.dist.cache)?;
        environment.containerd.import(orders::NAMESPACE, &archive)
    })?;
    let mut running =
        report::step("start three applications of two tenants, each in a guest of its own", || {
            Running::start(environment, PORTHOLE, &report::note)
        })?;
    let orders = report::step("start a third tenant with databases, each in a guest of its own", || {
        Orders::start(environment, &report::note)
    })?;
    report::step("send requests; stop catalog; send more", || running.send_everything(&report::note))?;
    report::step("read orders from the cache and the databases; pay a service that is down", || {
        orders.send()
    })?;
    let prometheus = environment.prometheus.as_ref().context("the demo has Prometheus")?;
    let (comparison, table) = report::step("ask Prometheus", || {
        Ok((Comparison::settle(prometheus, running.sent())?, Table::settle(prometheus)?))
    })?;
    let missed =
        report::step("wait until the objective of orders is judged", || orders.wait_objective_missed())?;
    println!("\n{comparison}\n{table}");
    for (tenant, service, requests, errors) in comparison.totals() {
        println!("{tenant}/{service}: {requests} requests served, {errors} errors (4xx and 5xx)");
    }
    println!(
        "{}/orders: misses its objective of availability: {:.1} % of the requests of the last 5 minutes failed",
        orders::NAMESPACE,
        100.0 * missed
    );
    let differences = comparison.differences().len() + table.differences();
    if differences == 0 {
        println!(
            "\nEvery count equals what was sent: {} requests seen from their ends.",
            running.sent().values().sum::<u64>() + table.sent()
        );
    } else {
        println!("\n{differences} counts differ from what was sent.");
    }
    if !options.once {
        stay(environment, &mut running, &orders)?;
    }
    Ok(differences == 0)
}

/// Prints where to look, and sends a few requests again and again until Ctrl-C.
fn stay(environment: &Environment, running: &mut Running, orders: &Orders) -> Result<()> {
    running.restart_catalog(&report::note)?;
    let forwards = APPLICATIONS
        .iter()
        .map(|application| Ok((application, environment.network.forward(running.at(*application)?)?)))
        .collect::<Result<Vec<(_, Forward)>>>()?;
    println!("\nLook around; Ctrl-C ends it.");
    let exporter = environment.exporter()?.address;
    println!("  dashboards  http://{exporter}/");
    println!("  metrics     http://{exporter}/metrics");
    if let Some(prometheus) = &environment.prometheus {
        println!(
            "  Prometheus  http://{}/graph?g0.expr=porthole_app_requests_total&g0.tab=1",
            prometheus.address
        );
        println!("  alerts      http://{}/alerts", prometheus.address);
    }
    for (application, forward) in &forwards {
        println!("  {:10}  http://{}/", application.service, forward.address);
    }
    for number in 0.. {
        running.send_a_few()?;
        orders.send_one(number)?;
        wait::hold(ROUND)?;
    }
    Ok(())
}
