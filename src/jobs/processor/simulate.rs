//! The processor that only takes its time.

use std::time::Duration;

use parking_lot::Mutex;

use super::{IdResult, Response, Work};
use crate::clock::Clock;
use crate::model::queue::SimulateSettings;

/// Waits a random time per batch, the same for all its ids, and then says that it is done.
#[derive(Debug)]
pub struct Simulate {
    shortest: Duration,
    longest: Duration,
    clock: Clock,
    /// One draw a batch, in the order in which they are started.
    random: Mutex<fastrand::Rng>,
}

impl Simulate {
    /// With a seed, the sequence of waits is the same each time. A `max` below `min` counts as
    /// `min`.
    pub(super) fn new(settings: &SimulateSettings, clock: Clock) -> Self {
        let random = settings
            .seed
            .map_or_else(fastrand::Rng::new, fastrand::Rng::with_seed);
        Self {
            shortest: settings.min,
            longest: settings.max.max(settings.min),
            clock,
            random: Mutex::new(random),
        }
    }

    /// Never fails.
    pub(super) async fn run(&self, work: Work) -> Vec<IdResult> {
        self.clock.sleep(self.draw()).await;
        work.due
            .into_iter()
            .map(|(position, id)| IdResult {
                position,
                id,
                result: Ok(Response {
                    status: 200,
                    body: Vec::new(),
                }),
            })
            .collect()
    }

    /// How long the next batch runs: any time of the range is as likely as any other.
    fn draw(&self) -> Duration {
        let nanos = self
            .random
            .lock()
            .u128(self.shortest.as_nanos()..=self.longest.as_nanos());
        Duration::from_nanos_u128(nanos)
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;
    use std::task::{Context, Poll, Waker};

    use uuid::Uuid;

    use super::super::Processor;
    use super::*;
    use crate::clock::ManualClock;
    use crate::model::id::{BatchIndex, IngestionId};
    use crate::model::queue::ProcessorSettings;
    use crate::model::time::Timestamp;

    fn work(due: Vec<(u16, i64)>) -> Work {
        Work {
            ingestion: IngestionId::new(Uuid::from_u128(1)),
            batch: BatchIndex(0),
            attempt: 1,
            due,
        }
    }

    fn simulate(settings: SimulateSettings) -> Simulate {
        let clock = ManualClock::starting_at(Timestamp::EPOCH);
        Simulate::new(&settings, Clock::Manual(clock))
    }

    #[tokio::test]
    async fn ends_exactly_when_the_drawn_time_has_passed() {
        let manual = ManualClock::starting_at(Timestamp::EPOCH);
        let settings = SimulateSettings {
            min: Duration::from_millis(300),
            max: Duration::from_millis(300),
            seed: Some(1),
        };
        let clock = Clock::Manual(manual.clone());
        let processor =
            Arc::new(Processor::new(&ProcessorSettings::Simulate(settings), clock).unwrap());
        let mut run = Box::pin(processor.run(work(vec![(0, 7), (2, -9)])));
        let mut context = Context::from_waker(Waker::noop());
        assert!(run.as_mut().poll(&mut context).is_pending());
        manual.advance(Duration::from_nanos(299_999_999));
        assert!(run.as_mut().poll(&mut context).is_pending());
        manual.advance(Duration::from_nanos(1));
        let Poll::Ready(results) = run.as_mut().poll(&mut context) else {
            panic!("the time has passed");
        };
        let done = |position, id| IdResult {
            position,
            id,
            result: Ok(Response {
                status: 200,
                body: Vec::new(),
            }),
        };
        assert_eq!(results, [done(0, 7), done(2, -9)]);
    }

    #[test]
    fn draws_stay_in_their_bounds_and_reach_far_into_both_ends() {
        let simulate = simulate(SimulateSettings {
            seed: Some(42),
            ..SimulateSettings::default()
        });
        let draws: Vec<Duration> = (0..1_000).map(|_| simulate.draw()).collect();
        let (min, max) = (Duration::from_millis(200), Duration::from_millis(900));
        assert!(draws.iter().all(|draw| (min..=max).contains(draw)));
        assert!(draws.iter().any(|draw| *draw < Duration::from_millis(250)));
        assert!(draws.iter().any(|draw| *draw > Duration::from_millis(850)));
    }

    #[test]
    fn a_seed_makes_the_draws_repeatable() {
        let draws = |seed| {
            let simulate = simulate(SimulateSettings {
                seed,
                ..SimulateSettings::default()
            });
            (0..20).map(|_| simulate.draw()).collect::<Vec<_>>()
        };
        assert_eq!(draws(Some(5)), draws(Some(5)));
        assert_ne!(draws(Some(5)), draws(Some(6)));
        assert_ne!(draws(None), draws(None));
    }

    #[test]
    fn any_pair_of_bounds_can_be_drawn_from() {
        for (min, max) in [
            (Duration::ZERO, Duration::ZERO),
            (Duration::MAX, Duration::MAX),
            (Duration::ZERO, Duration::MAX),
            (Duration::from_secs(2), Duration::from_secs(1)),
        ] {
            let simulate = simulate(SimulateSettings {
                min,
                max,
                seed: None,
            });
            assert!((min..=max.max(min)).contains(&simulate.draw()));
        }
    }
}
