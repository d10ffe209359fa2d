//! Queues as a whole, over a real store, with the time under the test's hand.
#![allow(clippy::unwrap_used, clippy::indexing_slicing)]

#[path = "scheduler/given_up.rs"]
mod given_up;

use std::collections::BTreeMap;
use std::path::Path;
use std::pin::pin;
use std::task::Poll;
use std::time::Duration;

use tollgate::clock::{Clock, ManualClock};
use tollgate::events::EventsSettings;
use tollgate::jobs::{Idempotency, Jobs, JobsSettings, Submission, SubmitError, View};
use tollgate::model::batch::BatchStatus;
use tollgate::model::id::IngestionId;
use tollgate::model::ingestion::Extras;
use tollgate::model::priority::Priority;
use tollgate::model::queue::{ProcessorSettings, QueueName, QueueSettings, SimulateSettings};
use tollgate::model::time::Timestamp;
use tollgate::store::{OpenError, StoreSettings};
use tollgate::telemetry::Metrics;

const SECOND: Duration = Duration::from_secs(1);

fn name(name: &str) -> QueueName {
    QueueName::try_from(name.to_owned()).unwrap()
}

fn settings(queues: &[&str]) -> JobsSettings {
    let run = Duration::from_millis(500);
    let simulate = SimulateSettings {
        min: run,
        max: run,
        seed: Some(7),
    };
    let queue = QueueSettings {
        processor: ProcessorSettings::Simulate(simulate),
        ..QueueSettings::default()
    };
    JobsSettings {
        queues: queues
            .iter()
            .map(|queue_name| (name(queue_name), queue.clone()))
            .collect::<BTreeMap<_, _>>(),
        keep_ended: 60 * SECOND,
        retention: 3600 * SECOND,
        events: EventsSettings::default(),
    }
}

fn noon() -> ManualClock {
    ManualClock::starting_at(Timestamp::parse("2026-11-21T12:00:00Z").unwrap())
}

async fn try_open(
    dir: &Path,
    clock: &ManualClock,
    settings: JobsSettings,
) -> Result<Jobs, OpenError> {
    let store = StoreSettings {
        dir: dir.to_owned(),
        accept_loss: false,
    };
    Jobs::open(
        settings,
        &store,
        Clock::Manual(clock.clone()),
        Metrics::new(),
    )
    .await
}

async fn open(dir: &Path, clock: &ManualClock) -> Jobs {
    try_open(dir, clock, settings(&["default"])).await.unwrap()
}

fn submission(jobs: &Jobs, ids: i64, priority: Priority) -> Submission {
    Submission {
        ids: (1..=ids).collect(),
        priority,
        queue: jobs.queue("default").unwrap(),
        extras: None,
        idempotency: None,
    }
}

async fn view(jobs: &Jobs, id: IngestionId) -> View {
    jobs.view(id, 0..u32::MAX).await.unwrap().unwrap()
}

async fn statuses(jobs: &Jobs, id: IngestionId) -> Vec<BatchStatus> {
    view(jobs, id)
        .await
        .batches
        .iter()
        .map(|batch| batch.status)
        .collect()
}

/// Lets a little time pass, and everybody act on it, until `done` holds: as fast as it goes at first, then
/// slowly for a minute, in which a disk that is busy may answer.
async fn advance_until(clock: &ManualClock, step: Duration, mut done: impl AsyncFnMut() -> bool) {
    for round in 0..70_000 {
        if done().await {
            return;
        }
        clock.advance(step);
        if round < 10_000 {
            tokio::task::yield_now().await;
        } else {
            // sleep: the pause between two polls.
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
    }
    panic!("it never happened");
}

/// Lets everybody act, at this moment, until `done` holds.
async fn until(done: impl AsyncFnMut() -> bool) {
    let still = noon();
    advance_until(&still, Duration::ZERO, done).await;
}

/// Lets everybody act until the first batch has started.
async fn until_started(jobs: &Jobs, id: IngestionId) {
    until(async || statuses(jobs, id).await[0] != BatchStatus::YetToStart).await;
}

/// The longest that a submission to an idle queue waits for its start.
const TAKE_UP: Duration = Duration::from_secs(2);

/// Begins a test anew, up to four times, while the disk is so busy that a submission in it may not have
/// waited for its start.
async fn until_in_time(in_time: impl AsyncFn() -> bool) {
    for _ in 0..5 {
        if in_time().await {
            return;
        }
    }
    panic!("the submissions took too long each time");
}

/// Submits; whether that took less than a submission waits for its start at the most.
async fn submit_in_time(jobs: &Jobs, submission: Submission) -> (IngestionId, bool) {
    let clock = Clock::system();
    let begun = clock.now().mono;
    let id = jobs.submit(submission).await.unwrap();
    (id, clock.now().mono.saturating_sub(begun) < TAKE_UP)
}

#[tokio::test]
async fn an_idle_queue_has_started_a_batch_when_the_submission_returns() {
    until_in_time(an_idle_queue_starts).await;
}

/// Whether the submission returned in time; if so, all is asserted.
async fn an_idle_queue_starts() -> bool {
    let (dir, clock) = (tempfile::tempdir().unwrap(), noon());
    let jobs = open(dir.path(), &clock).await;
    let (id, in_time) = submit_in_time(&jobs, submission(&jobs, 5, Priority::Low)).await;
    if !in_time {
        return false;
    }
    assert_eq!(
        statuses(&jobs, id).await,
        [BatchStatus::Triggered, BatchStatus::YetToStart]
    );
    assert_eq!(view(&jobs, id).await.started_at, Some(clock_now(&clock)));
    // The slot is used: the next one waits, whatever its priority.
    let other = jobs
        .submit(submission(&jobs, 1, Priority::High))
        .await
        .unwrap();
    assert_eq!(statuses(&jobs, other).await, [BatchStatus::YetToStart]);
    assert_eq!(view(&jobs, other).await.outlook.unwrap().position, Some(0));
    assert_eq!(view(&jobs, id).await.outlook.unwrap().position, Some(1));
    true
}

fn clock_now(clock: &ManualClock) -> Timestamp {
    Clock::Manual(clock.clone()).now().wall
}

#[tokio::test]
async fn a_restart_inside_an_interval_waits_for_the_rest_of_it() {
    let (dir, clock) = (tempfile::tempdir().unwrap(), noon());
    let jobs = open(dir.path(), &clock).await;
    let id = jobs
        .submit(submission(&jobs, 6, Priority::Low))
        .await
        .unwrap();
    until_started(&jobs, id).await;
    let begin = clock_now(&clock);
    // Stopped in the middle of its run: the batch is started again.
    clock.advance(Duration::from_millis(100));
    jobs.stop(Duration::ZERO, 60 * SECOND).await;
    drop(jobs);

    clock.advance(SECOND);
    let jobs = open(dir.path(), &clock).await;
    assert_eq!(
        statuses(&jobs, id).await,
        [BatchStatus::Triggered, BatchStatus::YetToStart]
    );
    let outlook = view(&jobs, id).await.outlook.unwrap();
    assert_eq!(outlook.position, Some(0));
    let mut starts = Vec::new();
    advance_until(&clock, Duration::from_millis(5), async || {
        for batch in view(&jobs, id).await.batches {
            let start = batch
                .run
                .map(|run| (run.triggered_at, batch.index.0, run.attempt));
            if let Some(start) = start.filter(|start| !starts.contains(start)) {
                starts.push(start);
            }
        }
        starts.len() == 3
    })
    .await;
    assert_eq!(starts[0], (begin, 0, 1));
    assert_eq!(
        (starts[1].1, starts[1].2),
        (0, 2),
        "the interrupted batch goes first"
    );
    assert_eq!((starts[2].1, starts[2].2), (1, 1));
    assert!(starts[1].0.since(begin) >= 5 * SECOND, "{starts:?}");
    assert!(starts[2].0.since(starts[1].0) >= 5 * SECOND, "{starts:?}");
    assert_eq!(
        view(&jobs, id).await.started_at,
        Some(begin),
        "its first start stays"
    );
}

/// Submits some urgent ids with what few submissions carry, and lets time pass until they have ended.
async fn run_with(jobs: &Jobs, clock: &ManualClock, ids: i64, extras: Extras) -> IngestionId {
    let submission = Submission {
        extras: Some(Box::new(extras)),
        ..submission(jobs, ids, Priority::High)
    };
    let id = jobs.submit(submission).await.unwrap();
    until_started(jobs, id).await;
    advance_until(clock, Duration::from_millis(20), async || {
        view(jobs, id).await.ended_at.is_some()
    })
    .await;
    id
}

/// With room for two at once: the first batch runs, and the second, whose slot has opened, is on disk
/// as started while its work waits for the allowance after the slot to be over.
async fn held_back(dir: &Path, clock: &ManualClock) -> (Jobs, IngestionId) {
    let mut settings = settings(&["default"]);
    let queue = settings.queues.get_mut(&name("default")).unwrap();
    queue.max_in_flight = 2.try_into().unwrap();
    let metrics = Metrics::new();
    let store = StoreSettings {
        dir: dir.to_owned(),
        accept_loss: false,
    };
    let manual = Clock::Manual(clock.clone());
    let jobs = Jobs::open(settings, &store, manual, metrics.clone())
        .await
        .unwrap();
    let id = jobs
        .submit(submission(&jobs, 6, Priority::Low))
        .await
        .unwrap();
    let begun = "dispatch_delay_seconds_count 1";
    until(async || metrics.encode().contains(begun)).await;
    clock.advance(5 * SECOND);
    until(async || statuses(&jobs, id).await[1] == BatchStatus::Triggered).await;
    assert!(metrics.encode().contains(begun), "the second has begun too");
    (jobs, id)
}

#[tokio::test]
async fn work_begins_a_fixed_time_after_its_slot() {
    let (dir, clock) = (tempfile::tempdir().unwrap(), noon());
    let (jobs, id) = held_back(dir.path(), &clock).await;
    advance_until(&clock, Duration::from_micros(100), async || {
        view(&jobs, id).await.ended_at.is_some()
    })
    .await;
    let second = view(&jobs, id).await.batches[1].run.clone().unwrap();
    let took = second.completed_at.unwrap().since(second.triggered_at);
    // The run takes 500 ms.
    assert!(took >= Duration::from_millis(503), "ended after {took:?}");
}

#[tokio::test]
async fn a_stop_does_not_wait_for_work_that_is_held_back() {
    let (dir, clock) = (tempfile::tempdir().unwrap(), noon());
    let (jobs, id) = held_back(dir.path(), &clock).await;
    jobs.stop(Duration::ZERO, 60 * SECOND).await;
    drop(jobs);
    let jobs = open(dir.path(), &clock).await;
    assert_eq!(statuses(&jobs, id).await[1], BatchStatus::Triggered);
    advance_until(&clock, Duration::from_millis(50), async || {
        view(&jobs, id).await.ended_at.is_some()
    })
    .await;
    let second = view(&jobs, id).await.batches[1].run.clone().unwrap();
    assert_eq!(second.attempt, 2);
}

#[tokio::test]
async fn an_ended_ingestion_leaves_memory_then_the_disk_and_reads_the_same_until_then() {
    let (dir, clock) = (tempfile::tempdir().unwrap(), noon());
    let jobs = open(dir.path(), &clock).await;
    let extras = Extras {
        metadata: Some("{\"a\": 1}".into()),
        ..Extras::default()
    };
    let id = run_with(&jobs, &clock, 4, extras).await;
    let in_memory = view(&jobs, id).await;
    assert!(in_memory.outlook.is_none());
    // In small steps: the hour after which it is removed does not pass as well.
    let step = Duration::from_millis(100);
    advance_until(&clock, step, async || jobs.recent(10).is_empty()).await;
    let on_disk = view(&jobs, id).await;
    assert_eq!(format!("{on_disk:?}"), format!("{in_memory:?}"));
    advance_until(&clock, 60 * SECOND, async || {
        jobs.view(id, 0..9).await.unwrap().is_none()
    })
    .await;
    let age = clock_now(&clock).since(in_memory.ended_at.unwrap());
    assert!(age >= 3600 * SECOND, "removed after {age:?}");
}

#[tokio::test]
async fn a_deadline_expires_what_has_not_started_and_spares_what_runs() {
    let (dir, clock) = (tempfile::tempdir().unwrap(), noon());
    let jobs = open(dir.path(), &clock).await;
    let extras = Extras {
        deadline: Some(clock_now(&clock).plus(3 * SECOND)),
        ..Extras::default()
    };
    let id = run_with(&jobs, &clock, 7, extras).await;
    let expected = [
        BatchStatus::Completed,
        BatchStatus::Expired,
        BatchStatus::Expired,
    ];
    assert_eq!(statuses(&jobs, id).await, expected);
    assert_eq!(
        view(&jobs, id).await.progress.status(),
        BatchStatus::Expired
    );
    let queues = jobs.queues();
    assert_eq!((queues[0].waiting, queues[0].live_ingestions), ([0; 3], 0));
}

#[tokio::test]
async fn a_key_in_flight_is_refused_and_later_finds_its_answer() {
    let (dir, clock) = (tempfile::tempdir().unwrap(), noon());
    let jobs = open(dir.path(), &clock).await;
    let keyed = |body| Submission {
        idempotency: Some(Idempotency { key: 1, body }),
        ..submission(&jobs, 3, Priority::High)
    };
    let mut first = pin!(jobs.submit(keyed(5)));
    let polled =
        std::future::poll_fn(|context| Poll::Ready(first.as_mut().poll(context).is_pending()));
    assert!(polled.await, "the store has not answered yet");
    assert!(matches!(
        jobs.submit(keyed(5)).await,
        Err(SubmitError::KeyInFlight)
    ));
    let id = first.await.unwrap();
    assert_eq!(jobs.submit(keyed(5)).await.unwrap(), id);
    assert!(matches!(
        jobs.submit(keyed(6)).await,
        Err(SubmitError::KeyReused)
    ));
    clock.advance(Duration::from_hours(25));
    assert_ne!(
        jobs.submit(keyed(6)).await.unwrap(),
        id,
        "forgotten after a day"
    );
}

#[tokio::test]
async fn a_queue_takes_no_more_than_its_bound_even_from_many_at_once() {
    let (dir, clock) = (tempfile::tempdir().unwrap(), noon());
    let mut bounded = settings(&["default"]);
    bounded
        .queues
        .get_mut(&name("default"))
        .unwrap()
        .max_waiting = 10;
    let jobs = try_open(dir.path(), &clock, bounded).await.unwrap();
    // The slot goes to the first one; ten of the others fit.
    let first = submission(&jobs, 1, Priority::Low);
    until_started(&jobs, jobs.submit(first).await.unwrap()).await;
    let mut tasks = tokio::task::JoinSet::new();
    for _ in 0..40 {
        let jobs = jobs.clone();
        tasks.spawn(async move {
            jobs.submit(submission(&jobs, 1, Priority::Low))
                .await
                .is_ok()
        });
    }
    let accepted = tasks
        .join_all()
        .await
        .into_iter()
        .filter(|accepted| *accepted)
        .count();
    assert_eq!(jobs.queues()[0].waiting, [accepted as u64, 0, 0]);
    assert!(accepted <= 10, "{accepted} were accepted");
    // Those that raced may have refused each other, never let one too many in.
    for _ in accepted..10 {
        jobs.submit(submission(&jobs, 1, Priority::Low))
            .await
            .unwrap();
    }
    let refused = jobs.submit(submission(&jobs, 1, Priority::Low)).await;
    assert!(
        matches!(
            refused,
            Err(SubmitError::QueueFull {
                limit: 10,
                waiting: 10,
                ..
            })
        ),
        "{refused:?}"
    );
}

#[tokio::test]
async fn each_queue_has_its_own_pace() {
    let (dir, clock) = (tempfile::tempdir().unwrap(), noon());
    let jobs = try_open(dir.path(), &clock, settings(&["default", "mail"]))
        .await
        .unwrap();
    for queue in ["default", "mail"] {
        let to_queue = Submission {
            queue: jobs.queue(queue).unwrap(),
            ..submission(&jobs, 3, Priority::Low)
        };
        // At this moment, which is the same for both.
        until_started(&jobs, jobs.submit(to_queue).await.unwrap()).await;
    }
}

#[tokio::test]
async fn a_queue_with_unfinished_work_must_stay_configured() {
    let (dir, clock) = (tempfile::tempdir().unwrap(), noon());
    let jobs = try_open(dir.path(), &clock, settings(&["default", "mail"]))
        .await
        .unwrap();
    let to_mail = Submission {
        queue: jobs.queue("mail").unwrap(),
        ..submission(&jobs, 9, Priority::Low)
    };
    let id = jobs.submit(to_mail).await.unwrap();
    jobs.stop(Duration::ZERO, 60 * SECOND).await;
    drop(jobs);
    let refused = try_open(dir.path(), &clock, settings(&["default"]))
        .await
        .err()
        .unwrap()
        .to_string();
    assert!(refused.contains("\"mail\" has 1 unfinished"), "{refused}");
    let jobs = try_open(
        dir.path(),
        &clock,
        settings(&["another", "default", "mail"]),
    )
    .await
    .unwrap();
    assert_eq!(
        view(&jobs, id).await.queue,
        name("mail"),
        "numbers stay with their names"
    );
}

#[tokio::test]
async fn a_watch_sees_every_move_in_order() {
    let (dir, clock) = (tempfile::tempdir().unwrap(), noon());
    let jobs = open(dir.path(), &clock).await;
    jobs.submit(submission(&jobs, 1, Priority::High))
        .await
        .unwrap();
    let id = jobs
        .submit(submission(&jobs, 4, Priority::Low))
        .await
        .unwrap();
    let mut watch = jobs.watch(id).await.unwrap();
    advance_until(&clock, Duration::from_millis(50), async || {
        view(&jobs, id).await.ended_at.is_some()
    })
    .await;
    let mut moves = Vec::new();
    while let Ok(moved) = watch.0.recv().await {
        moves.push((
            moved.batch.map(|batch| (batch.index.0, batch.status)),
            moved.ended,
        ));
    }
    let expected = [
        (Some((0, BatchStatus::Triggered)), false),
        (Some((0, BatchStatus::Completed)), false),
        (Some((1, BatchStatus::Triggered)), false),
        (Some((1, BatchStatus::Completed)), false),
        (None, true),
    ];
    assert_eq!(moves, expected);
}

#[tokio::test]
async fn a_graceful_stop_lets_a_running_batch_end() {
    let (dir, clock) = (tempfile::tempdir().unwrap(), noon());
    let jobs = open(dir.path(), &clock).await;
    let id = jobs
        .submit(submission(&jobs, 6, Priority::Low))
        .await
        .unwrap();
    until_started(&jobs, id).await;
    let stopping = tokio::spawn({
        let jobs = jobs.clone();
        async move { jobs.stop(60 * SECOND, 120 * SECOND).await }
    });
    until(async || {
        clock.advance(Duration::from_millis(10));
        stopping.is_finished()
    })
    .await;
    drop(jobs);
    let jobs = open(dir.path(), &clock).await;
    assert_eq!(statuses(&jobs, id).await[0], BatchStatus::Completed);
    assert_eq!(
        view(&jobs, id).await.progress.waiting,
        1,
        "and starts no other"
    );
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn idle_queues_have_started_a_batch_however_many_submit_at_once() {
    until_in_time(idle_queues_start).await;
}

/// Whether all submissions returned in time. That a batch starts holds in any case.
async fn idle_queues_start() -> bool {
    let dir = tempfile::tempdir().unwrap();
    let names: Vec<String> = (0..200).map(|number| format!("queue-{number}")).collect();
    let names: Vec<&str> = names.iter().map(String::as_str).collect();
    let jobs = try_open(dir.path(), &noon(), settings(&names))
        .await
        .unwrap();
    let submitted = names.iter().map(|name| {
        let (jobs, queue) = (jobs.clone(), jobs.queue(name).unwrap());
        tokio::spawn(async move {
            let submission = Submission {
                ids: [1].into(),
                priority: Priority::Low,
                queue,
                extras: None,
                idempotency: None,
            };
            let (id, in_time) = submit_in_time(&jobs, submission).await;
            if in_time {
                assert_eq!(statuses(&jobs, id).await, [BatchStatus::Triggered]);
            }
            (id, in_time)
        })
    });
    let mut all_in_time = true;
    for submitted in submitted.collect::<Vec<_>>() {
        let (id, in_time) = submitted.await.unwrap();
        until_started(&jobs, id).await;
        all_in_time &= in_time;
    }
    all_in_time
}

#[tokio::test]
async fn queues_that_nobody_holds_any_more_end_and_let_go_of_the_directory() {
    let (dir, clock) = (tempfile::tempdir().unwrap(), noon());
    drop(open(dir.path(), &clock).await);
    let again = async || {
        try_open(dir.path(), &noon(), settings(&["default"]))
            .await
            .is_ok()
    };
    tokio::time::timeout(60 * SECOND, until(again))
        .await
        .unwrap();
}
