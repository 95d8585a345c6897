//! Draft.
use porthole_tests::{
    container::RUNC,
    dist::Dist,
    environment::{Environment, Settings},
    scenario::{NAMESPACES, Running},
};
fn main() -> anyhow::Result<()> {
    porthole_tests::interrupt::install()?;
    let dist = Dist::from_env()?;
    let environment =
        Environment::start(dist, &Settings::default(), &NAMESPACES, true, &|t| eprintln!("{t}"))?;
    let mut running = Running::start(&environment, RUNC, &|t| eprintln!("{t}"))?;
    let sent = running.send_everything()?;
    println!("{sent:?}");
    println!("{:?}", running.containers["shop"].exec(&["echo", "hello"])?);
    let c =
        porthole_tests::scenario::counted::Comparison::take(environment.prometheus.as_ref().unwrap(), &sent)?;
    println!("{c}");
    drop(running);
    environment.finish()
}
