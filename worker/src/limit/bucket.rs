//! One rate: credit comes in with time, and requests take it out.
#![deny(clippy::unwrap_used, clippy::indexing_slicing)]

/// Credit for one byte or one operation: what a rate of one a second earns in a second of nanoseconds. In this unit
/// nothing is ever rounded.
const UNIT: i128 = 1_000_000_000;

/// A token bucket that lets in whoever comes while it is not in debt, and charges the whole of the request then.
///
/// A request is therefore let in whatever its size, and none is passed over for being large. With room for *burst* less
/// the *largest* request there is, no window of *t* seconds sees more than rate * t + max(burst, largest).
#[derive(Clone, Debug)]
pub struct Bucket {
    /// A second's worth; at least 1.
    rate: u64,
    /// Most credit there can be.
    ceiling: i128,
    credit: i128,
    /// The time up to which credit has come in, in nanoseconds.
    seen: u64,
    /// When the last debt was paid.
    free_since: u64,
}

impl Bucket {
    /// A full one.
    pub fn new(rate: u64, burst: u64, largest: u64, now: u64) -> Self {
        let ceiling = i128::from(burst.saturating_sub(largest)) * UNIT;
        Self { rate: rate.max(1), ceiling, credit: ceiling, seen: now, free_since: now }
    }

    /// Takes over another rate. What is owed stays owed.
    pub fn change(&mut self, rate: u64, burst: u64, largest: u64, now: u64) {
        self.pass(now);
        let (credit, free_since) = (self.credit, self.free_since);
        *self = Self { free_since, ..Self::new(rate, burst, largest, self.seen) };
        self.credit = credit.min(self.ceiling);
    }

    /// Since when requests may come in, or when the debt will be paid if that is after *now*.
    pub fn free_at(&mut self, now: u64) -> u64 {
        self.pass(now);
        if self.credit >= 0 {
            self.free_since
        } else {
            self.paid_at()
        }
    }

    pub fn charge(&mut self, amount: u64) {
        self.credit = self.credit.saturating_sub(i128::from(amount) * UNIT);
    }

    pub fn give_back(&mut self, amount: u64) {
        self.credit = self.credit.saturating_add(i128::from(amount) * UNIT).min(self.ceiling);
    }

    /// When a debt will be paid.
    fn paid_at(&self) -> u64 {
        let wait = self.credit.min(0).unsigned_abs().div_ceil(u128::from(self.rate));
        self.seen.saturating_add(u64::try_from(wait).unwrap_or(u64::MAX))
    }

    /// Lets credit come in up to *now*. A clock that stands still or goes back brings nothing.
    fn pass(&mut self, now: u64) {
        if self.credit < 0 {
            self.free_since = self.paid_at();
        }
        let earned = u128::from(self.rate) * u128::from(now.saturating_sub(self.seen));
        let room = u128::try_from(self.ceiling.saturating_sub(self.credit)).unwrap_or(0);
        self.credit = self.credit.saturating_add(i128::try_from(earned.min(room)).unwrap_or(i128::MAX));
        self.seen = self.seen.max(now);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const SECOND: u64 = 1_000_000_000;

    #[test]
    fn what_is_owed_is_paid_at_the_rate_to_the_nanosecond() {
        let mut bucket = Bucket::new(1000, 1500, 500, 0);
        bucket.charge(1000);
        assert_eq!(bucket.free_at(0), 0, "the burst is spent, and nothing is owed");
        bucket.charge(500);
        assert_eq!(bucket.free_at(0), SECOND / 2);
        assert_eq!(bucket.free_at(SECOND / 4), SECOND / 2, "however often one asks");
        assert_eq!(bucket.free_at(SECOND / 2), SECOND / 2);
    }

    #[test]
    fn what_is_given_back_shortens_the_wait_and_fills_no_more_than_the_burst() {
        let mut bucket = Bucket::new(1000, 1000, 1000, 0);
        bucket.charge(1000);
        bucket.give_back(600);
        assert_eq!(bucket.free_at(0), SECOND * 4 / 10);
        bucket.give_back(u64::MAX);
        bucket.charge(1);
        assert_eq!(bucket.free_at(0), SECOND / 1000);
    }

    #[test]
    fn another_rate_is_paid_at_once_and_forgives_nothing() {
        let mut bucket = Bucket::new(1000, 1000, 1000, 0);
        bucket.charge(1000);
        bucket.change(100, 100, 100, SECOND / 2);
        assert_eq!(bucket.free_at(SECOND / 2), SECOND / 2 + 5 * SECOND);
        bucket.change(1_000_000, 1_000_000, 1, SECOND / 2);
        assert_eq!(bucket.free_at(SECOND / 2), SECOND / 2 + SECOND / 2000);
    }

    #[test]
    fn a_clock_that_stands_still_or_goes_back_brings_nothing() {
        let mut bucket = Bucket::new(1, 1, 1, SECOND);
        bucket.charge(1);
        for now in [SECOND, 0, SECOND, SECOND / 2] {
            assert_eq!(bucket.free_at(now), 2 * SECOND);
        }
    }

    /// (nanoseconds since the step before, amount asked for, share of it that is given back)
    fn steps(amounts: impl Strategy<Value = u64>) -> impl Strategy<Value = Vec<(u64, u64)>> {
        prop::collection::vec((prop_oneof![Just(0), 0..2 * SECOND], amounts), 1..60)
    }

    proptest! {
        #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::default() })]

        #[test]
        fn no_window_sees_more_than_the_rate_and_the_burst(
            rate in 1..1u64 << 40, burst in 0..1u64 << 40, largest in 1..1u64 << 20, steps in steps(0..1u64 << 20)
        ) {
            let mut bucket = Bucket::new(rate, burst, largest, 0);
            let (mut now, mut admitted) = (0, Vec::new());
            for (gap, amount) in steps {
                let amount = amount.min(largest);
                // Each comes as soon as it may, or later.
                now = bucket.free_at(now + gap).max(now + gap);
                bucket.charge(amount);
                admitted.push((now, amount));
            }
            for first in 0..admitted.len() {
                let mut sum = 0u128;
                let mut window = admitted.iter().skip(first).peekable();
                let start = window.peek().map_or(0, |(at, _)| *at);
                for (at, amount) in window {
                    sum += u128::from(*amount);
                    let window = u128::from(at - start);
                    let allowed = u128::from(rate) * window + u128::from(burst.max(largest)) * UNIT.unsigned_abs();
                    prop_assert!(sum * UNIT.unsigned_abs() <= allowed, "{sum} in {window} ns");
                }
            }
        }

        #[test]
        fn whoever_waits_is_let_in_on_time(rate in 1..1u64 << 40, amounts in prop::collection::vec(1..1u64 << 20, 1..40)) {
            let mut bucket = Bucket::new(rate, 0, 0, 0);
            let (mut now, mut sum, mut waits) = (0, 0u128, 0);
            for amount in amounts {
                bucket.charge(amount);
                sum += u128::from(amount);
                now = bucket.free_at(now).max(now);
                waits += 1;
                // Without room for a burst, what is left of each nanosecond that is begun is lost.
                let exact = (sum * UNIT.unsigned_abs()).div_ceil(u128::from(rate));
                prop_assert!((exact..exact + waits).contains(&u128::from(now)), "{now} instead of {exact}");
            }
        }

        #[test]
        fn no_number_overflows(
            rate in any::<u64>(), burst in any::<u64>(), largest in any::<u64>(),
            steps in prop::collection::vec((any::<u64>(), any::<u64>(), any::<u64>()), 0..50)
        ) {
            let mut bucket = Bucket::new(rate, burst, largest, 0);
            for (now, amount, back) in steps {
                bucket.free_at(now);
                bucket.charge(amount);
                bucket.charge(u64::MAX);
                bucket.give_back(back);
                bucket.change(back, amount, largest, now);
            }
        }
    }
}
