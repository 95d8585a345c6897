//! The channels of a connection. When there are too many, one on which nothing is under way makes room: the least recently used of
//! a few, so that a frame costs the same however many channels there are.

use std::collections::BTreeMap;

use super::channel::Channel;

/// Most channels of a connection that are followed (`RabbitMQ`'s default `channel_max`, and the connection's own).
pub(super) const CHANNELS_MAX: usize = 2048;

/// Channels that are considered when one is to make room; the next time, those that follow.
const CONSIDERED: usize = 16;

#[derive(Debug, Default)]
pub(super) struct Channels {
    by_number: BTreeMap<u16, Channel>,
    /// The first that is considered next.
    cursor: u16,
    /// Frames of channels so far.
    frames: u64,
}

impl Channels {
    pub(super) fn len(&self) -> usize {
        self.by_number.len()
    }

    pub(super) fn get(&self, number: u16) -> Option<&Channel> {
        self.by_number.get(&number)
    }

    pub(super) fn get_mut(&mut self, number: u16) -> Option<&mut Channel> {
        self.by_number.get_mut(&number)
    }

    /// All of them, in the order of their numbers.
    pub(super) fn all(&mut self) -> impl Iterator<Item = &mut Channel> {
        self.by_number.values_mut()
    }

    /// The channel of a frame; none when it is new and finds no room.
    pub(super) fn use_or_open(&mut self, number: u16) -> Option<&mut Channel> {
        if self.len() >= CHANNELS_MAX && !self.by_number.contains_key(&number) && !self.make_room() {
            return None;
        }
        self.frames += 1;
        let channel = self.by_number.entry(number).or_default();
        channel.last_used = self.frames;
        Some(channel)
    }

    pub(super) fn remove(&mut self, number: u16) -> Option<Channel> {
        self.by_number.remove(&number)
    }

    /// Takes all of them, in the order of their numbers.
    pub(super) fn take(&mut self) -> impl Iterator<Item = Channel> + use<> {
        std::mem::take(&mut self.by_number).into_values()
    }

    /// Removes one on which nothing is under way, first those of which nothing else is known either; whether there was one among
    /// those considered.
    fn make_room(&mut self) -> bool {
        let from_cursor = self.by_number.range(self.cursor..).chain(self.by_number.range(..self.cursor));
        let (mut last, mut found) = (self.cursor, None);
        for (&number, channel) in from_cursor.take(CONSIDERED) {
            last = number;
            let order = (channel.is_of_consumers(), channel.last_used, number);
            if channel.is_idle() && found.is_none_or(|found| order < found) {
                found = Some(order);
            }
        }
        self.cursor = last.wrapping_add(1);
        found.is_some_and(|(_, _, number)| self.by_number.remove(&number).is_some())
    }
}
