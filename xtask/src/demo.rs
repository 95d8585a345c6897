//! `cargo xtask demo`: the whole way once, from `ctr run` to a labelled metric in Prometheus.

use std::{
    path::Path,
    process::{Command, ExitCode},
    sync::Arc,
    time::Duration,
};

use anyhow::{Context, Result};
use porthole_testbed::{
    command,
    container::PORTHOLE,
    environment::{Environment, Settings},
    image, interrupt,
    network::Forward,
    scenario::{
        APPLICATIONS, NAMESPACES, Running,
        comments::{self, Comments},
        counted::Comparison,
        orders::{self, Orders},
        table::Table,
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
  sudo -E cargo xtask demo --full    a broker of Kafka, too, and a service that publishes and reads there

The demo has its own containerd, network, exporter and Prometheus, and takes them down at the end.";

/// Time between two rounds of requests while the demo stays up.
const ROUND: Duration = Duration::from_secs(2);

/// Options of `cargo xtask demo`.
#[derive(clap::Args)]
pub struct Options {
    /// Check the counts, take everything down and exit.
    #[arg(long)]
    once: bool,
    /// Run a broker of Kafka as well, which takes about a minute longer where guests are emulated.
    #[arg(long)]
    full: bool,
}

/// Sets up, builds, runs.
pub fn run(workspace: &Workspace, options: &Options) -> Result<ExitCode> {
    require_root("running containers and guests")?;
    setup::packages(Need::RUN)?;
    if options.full {
        setup::packages(Need::RUN_KAFKA)?;
    }
    build::everything(workspace)?;
    let jars = if options.full { Some(setup::newest_kafka_jars(workspace)?) } else { None };
    interrupt::install()?;
    let environment = report::step("start containerd, the exporter and Prometheus", || {
        Environment::start(workspace.dist(), &Settings::default(), &NAMESPACES, true, &report::note)
    })?;
    let environment = Arc::new(environment);
    let exact = show(&environment, options, jars.as_deref());
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
fn show(environment: &Arc<Environment>, options: &Options, jars: Option<&Path>) -> Result<bool> {
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
    let comments = jars.map(|jars| start_comments(environment, jars)).transpose()?;
    report::step("send requests; stop catalog; send more", || running.send_everything(&report::note))?;
    report::step("read orders from the cache and the databases; pay a service that is down", || {
        orders.send()
    })?;
    let prometheus = environment.prometheus.as_ref().context("the demo has Prometheus")?;
    if let Some(comments) = &comments {
        report::step("publish comments and read them back", || comments.send())?;
    }
    let (comparison, tables) = report::step("ask Prometheus", || {
        let comparison = Comparison::settle(prometheus, running.sent())?;
        let mut tables = vec![orders.counted(prometheus)?];
        tables.extend(comments.as_ref().map(|comments| comments.counted(prometheus)).transpose()?);
        Ok((comparison, tables))
    })?;
    let missed =
        report::step("wait until the objective of orders is judged", || orders.wait_objective_missed())?;
    println!("\n{comparison}");
    for table in &tables {
        println!("{table}");
    }
    for (tenant, service, requests, errors) in comparison.totals() {
        println!("{tenant}/{service}: {requests} requests served, {errors} errors (4xx and 5xx)");
    }
    println!(
        "{}/orders: misses its objective of availability: {:.1} % of the requests of the last 5 minutes failed",
        orders::NAMESPACE,
        100.0 * missed
    );
    show_trace(environment, &orders);
    let differences = comparison.differences().len() + tables.iter().map(Table::differences).sum::<usize>();
    if differences == 0 {
        println!(
            "\nEvery count equals what was sent: {} requests seen from their ends.",
            running.sent().values().sum::<u64>() + tables.iter().map(Table::sent).sum::<u64>()
        );
    } else {
        println!("\n{differences} counts differ from what was sent.");
    }
    if !options.once {
        stay(environment, &mut running, &orders, comments.as_ref())?;
    }
    Ok(differences == 0)
}

fn start_comments(environment: &Arc<Environment>, jars: &Path) -> Result<Comments> {
    report::step("make the image of Kafka's broker (once) and import it", || {
        let archive = image::BROKER.build(&environment.dist.cache)?;
        environment.containerd.import(comments::NAMESPACE, &archive)
    })?;
    report::step("start a broker of Kafka and what publishes there, each in a guest of its own", || {
        Comments::start(environment, jars, &report::note)
    })
}

/// Prints one of the traces through `orders` and what it calls. Agents sample, so there may be none.
fn show_trace(environment: &Environment, orders: &Orders) {
    let shown = || -> Result<Option<String>> {
        let Some(id) = orders.largest_trace()? else { return Ok(None) };
        let mut command = Command::new(environment.dist.program("porthole"));
        let exporter = environment.exporter()?.address.to_string();
        command.args(["traces", "--exporter", &exporter, "--tenant", orders::NAMESPACE, &id]);
        Ok(Some(command::succeed(&mut command, wait::SOON)?.text()))
    };
    match shown() {
        Ok(Some(tree)) => {
            println!("\nA request to orders, in the sandboxes that it went through:\n{}", tree.trim_end());
        }
        Ok(None) => {}
        Err(error) => report::note(&format!("no trace is shown: {error:#}")),
    }
}

/// Prints where to look, and sends a few requests again and again until Ctrl-C.
fn stay(
    environment: &Environment,
    running: &mut Running,
    orders: &Orders,
    comments: Option<&Comments>,
) -> Result<()> {
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
        if let Some(comments) = comments {
            comments.send_one()?;
        }
        wait::hold(ROUND)?;
    }
    Ok(())
}
