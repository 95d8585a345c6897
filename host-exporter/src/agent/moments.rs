//! What a sandbox has reached, as its guest reports it, by the host's clock.

use porthole_agent_api::agent;

use crate::{
    clock::unix_ns,
    fleet::{Fleet, sandbox::Sandbox, starts::Phase},
    guest_clock::Offset,
};

/// Moments of the guest's clock that wait for a call: how far it is from the host's was not known when they were reported.
#[derive(Debug, Default)]
pub(super) struct Moments {
    waiting: [Option<u64>; Phase::ALL.len()],
}

impl Moments {
    /// Takes what the sandbox has reached. What was reported before stays.
    pub fn milestones(&mut self, fleet: &Fleet, sandbox: &Sandbox, milestones: &agent::Milestones) {
        let offset = sandbox.clock.lock().at_report(milestones.unix_ns, unix_ns());
        for (phase, guest_unix_ns) in [
            (Phase::Machine, milestones.booted_unix_ns),
            (Phase::FirstProcess, milestones.first_process_unix_ns),
            (Phase::FirstListen, milestones.first_listen_unix_ns),
        ] {
            if guest_unix_ns > 0 {
                self.reached(fleet, sandbox, phase, (guest_unix_ns, offset));
            }
        }
    }

    /// Takes when a server's series were first observed. A batch does not have the guest's clock.
    pub fn first_request(&mut self, fleet: &Fleet, sandbox: &Sandbox, series: &[agent::Series]) {
        let is_server = |series: &&agent::Series| {
            series.key.as_ref().is_some_and(|key| key.side == agent::Side::SIDE_SERVER.into())
        };
        let first = series.iter().filter(is_server).map(|series| series.start_unix_ns).min();
        if let Some(first) = first {
            let offset = sandbox.clock.lock().at_last_call();
            self.reached(fleet, sandbox, Phase::FirstRequest, (first, offset));
        }
    }

    /// Takes what waited for the call that was answered.
    pub fn call_answered(&mut self, fleet: &Fleet, sandbox: &Sandbox) {
        let offset = sandbox.clock.lock().at_last_call();
        for (phase, waiting) in Phase::ALL.into_iter().zip(std::mem::take(&mut self.waiting)) {
            if let (Some(guest_unix_ns), Some(offset)) = (waiting, offset) {
                fleet.reached(sandbox, phase, guest_unix_ns, offset);
            }
        }
    }

    fn reached(&mut self, fleet: &Fleet, sandbox: &Sandbox, phase: Phase, at: (u64, Option<Offset>)) {
        if !sandbox.start.lock().awaits(phase) {
            return;
        }
        match at {
            (guest_unix_ns, Some(offset)) => fleet.reached(sandbox, phase, guest_unix_ns, offset),
            (guest_unix_ns, None) => {
                let waiting = &mut self.waiting[phase as usize];
                // A report is made by the clock as it is set then; a series keeps its first time.
                let first = waiting.filter(|_| phase == Phase::FirstRequest);
                *waiting = Some(first.map_or(guest_unix_ns, |first| first.min(guest_unix_ns)));
            }
        }
    }
}
