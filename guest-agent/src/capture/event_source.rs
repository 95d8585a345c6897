//! What the capture loop reads records from.

use crate::{kernel::ProbeError, recorder::SeriesTable, report::state::State};

/// Programs in the kernel, and what becomes of their records.
pub trait EventSource {
    /// Takes one record as it comes from the ring buffer.
    fn record(&mut self, record: &[u8], state: &mut State);

    /// The ring buffer is empty; or it has been read for so long that others get their turn, and there may be `more`.
    fn end_batch(&mut self, more: bool, state: &mut State);

    /// Applies to the programs what came of the records. Called after [`Self::end_batch`], without the state.
    fn apply_commands(&mut self, more: bool);

    /// Reads the kernel's counts. Called every [`super::POLL_INTERVAL`].
    fn poll(&mut self, state: &mut State) -> Result<(), ProbeError>;

    /// Ends what waits only for time to pass. Called every [`super::IDLE_INTERVAL`].
    fn idle(&mut self, now_ns: u64, state: &mut State);

    /// The series have begun anew, right behind [`Self::end_batch`].
    fn series_renewed(&mut self, before: &SeriesTable) {
        let _ = before;
    }

    /// What could not be observed so far: how often, and what.
    fn observed_limitations(&self) -> Vec<(u64, &'static str)>;

    /// Stops or resumes the programs.
    fn pause(&mut self, paused: bool) -> Result<(), ProbeError>;
}
