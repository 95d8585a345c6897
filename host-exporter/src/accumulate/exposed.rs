//! What is kept of each series: the last values of its ids, and the sum that a scrape shows.

use std::{borrow::Cow, collections::HashMap, sync::Arc};

use super::{cost, packed::Packed, series::SeriesKey, values::Values};
use crate::protocol::ErrorClass;

/// A series id of the running epoch.
#[derive(Debug)]
pub(super) struct Tracked {
    /// The exposed series that it is part of.
    pub key: Arc<SeriesKey>,
    /// Whose fault its failures are.
    pub error: ErrorClass,
    /// Counted in the overflow series.
    pub overflowed: bool,
    /// Its last values.
    pub last: Packed,
}

impl Tracked {
    /// Bytes besides its place in the table of ids.
    pub fn bytes(&self) -> usize {
        self.last.bytes()
    }
}

/// An exposed series. Its value over all epochs is kept up to date with each change, so that a scrape adds nothing.
#[derive(Debug, Default)]
pub(super) struct Exposed {
    /// Values of the epochs before.
    pub carried: Option<Box<Values>>,
    /// Ids of the running epoch that make up the series: one, unless several share their labels.
    pub members: u32,
    sum: Sum,
}

/// Values of an exposed series over all epochs.
#[derive(Debug, Default)]
pub(super) enum Sum {
    /// The carried values: no id of the running epoch makes it up.
    #[default]
    Carried,
    /// All of the one id that makes it up.
    Member(u32),
    /// The carried ones and those of all ids.
    Merged(Box<Values>),
}

impl Exposed {
    /// A series of earlier epochs.
    pub fn carrying(values: Values) -> Self {
        Self { carried: Some(Box::new(values)), ..Self::default() }
    }

    /// An id of the running epoch becomes part of the series with these values, which are `all` that the id has, or what an earlier
    /// name of the sandbox left of them.
    pub fn add_member(&mut self, id: u32, values: &Values, all: bool, by_id: &HashMap<u32, Tracked>) {
        self.members += 1;
        match &mut self.sum {
            Sum::Merged(sum) => sum.add(values),
            Sum::Carried => match self.carried.as_deref() {
                None if all => self.sum = Sum::Member(id),
                carried => {
                    let mut sum = carried.cloned().unwrap_or_default();
                    sum.add(values);
                    self.sum = Sum::Merged(Box::new(sum));
                }
            },
            Sum::Member(only) => {
                let mut sum = by_id.get(only).map_or_else(Values::default, |tracked| tracked.last.unpack());
                sum.add(values);
                self.sum = Sum::Merged(Box::new(sum));
            }
        }
    }

    /// An id is no longer part of the series.
    pub fn remove_member(&mut self, values: &Values) {
        self.members = self.members.saturating_sub(1);
        if self.members == 0 {
            self.sum = Sum::Carried;
        } else if let Sum::Merged(sum) = &mut self.sum
            && let Some(rest) = sum.since(values)
        {
            **sum = rest;
        }
    }

    /// The values of one of its ids have grown.
    pub fn grow(&mut self, grown: &Values) {
        if let Sum::Merged(sum) = &mut self.sum {
            sum.add(grown);
        }
    }

    /// Bytes besides its place in the map.
    pub fn bytes(&self) -> usize {
        let merged = if let Sum::Merged(sum) = &self.sum { Some(&**sum) } else { None };
        cost::boxed_values(self.carried.as_deref()) + cost::boxed_values(merged)
    }

    /// Its values over all epochs.
    pub fn values<'a>(&'a self, by_id: &'a HashMap<u32, Tracked>) -> Option<Cow<'a, Values>> {
        match &self.sum {
            Sum::Carried => self.carried.as_deref().map(Cow::Borrowed),
            Sum::Member(id) => by_id.get(id).map(|tracked| Cow::Owned(tracked.last.unpack())),
            Sum::Merged(sum) => Some(Cow::Borrowed(sum)),
        }
    }
}
