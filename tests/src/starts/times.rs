//! How long the start of a container takes with Porthole and without, in pairs.

use std::{sync::Arc, time::Duration};

use anyhow::Result;

use super::NAMESPACE;
use crate::{
    container::{Launch, MICROVM, PORTHOLE},
    environment::{Environment, Progress, Settings},
};

/// Times of one pair, from the call to the running first process.
#[derive(Clone, Copy, Debug)]
pub struct Pair {
    /// The embedded runtime alone, with a guest that runs no agent.
    pub without: Duration,
    /// The runtime class of Porthole.
    pub with: Duration,
}

/// Starts `pairs` pairs of sandboxes; the order within a pair alternates, so that drift favours neither.
pub fn run(
    environment: &Arc<Environment>,
    service: &str,
    pairs: u32,
    progress: Progress,
) -> Result<Vec<Pair>> {
    let no_agent = Settings::default().with("microvm", "kernel_parameters", "porthole.agent=off");
    let start = |name: String, runtime| -> Result<Duration> {
        let launch = Launch::new(NAMESPACE, &name, runtime, &["sleep", "3600"]);
        let container = launch.start(&environment.containerd)?;
        let time = container.start;
        container.remove()?;
        Ok(time)
    };
    let without = |number| {
        environment.with_settings(&no_agent, || start(format!("{service}-without-{number}"), MICROVM))
    };
    let with = |number| start(format!("{service}-with-{number}"), PORTHOLE);
    let mut measured = Vec::new();
    for number in 0..pairs {
        progress(&format!("pair {} of {pairs}", number + 1));
        measured.push(if number % 2 == 0 {
            let without = without(number)?;
            Pair { without, with: with(number)? }
        } else {
            let with = with(number)?;
            Pair { without: without(number)?, with }
        });
    }
    Ok(measured)
}
