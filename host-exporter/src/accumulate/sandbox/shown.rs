//! What scrapes and the ledger see of a sandbox's series.

use std::{borrow::Cow, ops::Bound, sync::Arc};

use super::{Accumulator, Shown};
use crate::{
    accumulate::{exposed::Exposed, series::SeriesKey, values::Values},
    protocol::{Protocol, Side},
};

impl Accumulator {
    /// Copies series of one protocol's side that follow `after`, in the order of their keys, until `most` are copied. As long
    /// as the values of the last epoch are not in the ledger they are shown without those of the new one: an exporter that
    /// ends now could show no more than the new ones afterwards, which would then be counted twice.
    pub fn copy_series(
        &self,
        of: (Protocol, Side),
        after: Option<&Arc<SeriesKey>>,
        most: usize,
        copied: &mut Vec<Shown>,
    ) {
        let Some(group) = self.exposed.get(&of) else { return };
        let caught_up = self.caught_up();
        let from = after.map_or(Bound::Unbounded, |key| Bound::Excluded(Arc::clone(key)));
        let shown = group.range((from, Bound::Unbounded)).filter_map(|(key, exposed)| {
            let values = if self.carried_is_unwritten {
                Cow::Borrowed(exposed.carried.as_deref()?)
            } else {
                self.shown(exposed, caught_up)?
            };
            Some(Shown { key: Arc::clone(key), durations: values.into_owned().durations })
        });
        copied.extend(shown.take(most));
    }

    fn shown<'a>(&'a self, exposed: &'a Exposed, caught_up: bool) -> Option<Cow<'a, Values>> {
        if exposed.members == 0 && !caught_up { None } else { exposed.values(&self.by_id) }
    }

    /// Calls `visit` for every exposed series with its values over all epochs.
    pub fn for_each_series<E>(
        &self,
        mut visit: impl FnMut(&SeriesKey, &Values) -> Result<(), E>,
    ) -> Result<(), E> {
        let caught_up = self.caught_up();
        for (key, exposed) in self.exposed.values().flatten() {
            if let Some(values) = self.shown(exposed, caught_up) {
                visit(key, &values)?;
            }
        }
        Ok(())
    }

    /// Values of ended epochs, which no agent will report again.
    pub fn carried(&self) -> impl Iterator<Item = (&SeriesKey, &Values)> {
        self.exposed
            .values()
            .flatten()
            .filter_map(|(key, exposed)| Some((key.as_ref(), exposed.carried.as_deref()?)))
    }
}
