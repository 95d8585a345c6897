//! Golden values in few bytes: failures by class, requests whose outcome is not known, then the histogram of the durations.

use crate::accumulate::{
    cost,
    golden::{Errors, Golden},
    packed::{put, put_histogram, take, take_histogram},
};

/// Golden values that are kept.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct PackedGolden(Box<[u8]>);

impl PackedGolden {
    /// Bytes of memory besides its own.
    pub(crate) fn bytes(&self) -> usize {
        cost::block(self.0.len())
    }

    /// The values.
    pub(crate) fn unpack(&self) -> Golden {
        let mut rest = &*self.0;
        let [client, server, no_response, unknown] = [(); 4].map(|()| take(&mut rest).unwrap_or(0));
        let errors = Errors { client, server, no_response };
        Golden { errors, unknown, durations: take_histogram(rest) }
    }
}

impl From<&Golden> for PackedGolden {
    fn from(golden: &Golden) -> Self {
        let mut packed = Vec::with_capacity(16 + 3 * golden.durations.buckets().len());
        let Errors { client, server, no_response } = golden.errors;
        for number in [client, server, no_response, golden.unknown] {
            put(&mut packed, number);
        }
        put_histogram(&mut packed, &golden.durations);
        Self(packed.into_boxed_slice())
    }
}

#[cfg(test)]
mod tests {
    use porthole_histogram::Histogram;

    use super::*;

    #[test]
    fn what_is_unpacked_is_what_was_packed() {
        let durations = Histogram::from_parts(u64::from(u32::MAX), vec![(-79, 1), (-3, 300), (40, 1 << 40)]);
        let golden = Golden {
            durations: durations.expect("well formed"),
            errors: Errors { client: 1, server: u64::MAX, no_response: 128 },
            unknown: 300,
        };
        for golden in [Golden::default(), golden] {
            assert_eq!(PackedGolden::from(&golden).unpack(), golden);
        }
    }
}
