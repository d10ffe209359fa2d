use std::sync::atomic::{AtomicUsize, Ordering};

use tokio::sync::mpsc;
use uuid::Uuid;

use super::*;
use crate::clock::ManualClock;
use crate::jobs::outbound::stub::{Answer, Seen, Stub};

fn callback(stub: &Stub, number: u128) -> Callback {
    Callback {
        url: format!("http://{}/ended?n={number:05}", stub.address).into(),
        ingestion: IngestionId::new(Uuid::from_u128(number)),
        progress: Progress {
            total: 3,
            completed: 2,
            failed: 1,
            ..Progress::default()
        },
        completed_at: Timestamp::from_micros(1_500_000),
    }
}

/// A server that sends each request on and answers what `answer` says of its number, from 0.
async fn server(
    answer: impl Fn(usize) -> Answer + Send + Sync + 'static,
) -> (Stub, mpsc::UnboundedReceiver<Seen>) {
    let (sender, receiver) = mpsc::unbounded_channel();
    let count = AtomicUsize::new(0);
    let stub = Stub::start(move |seen| {
        let answer = answer(count.fetch_add(1, Ordering::SeqCst));
        let _ = sender.send(seen);
        async move { answer }
    })
    .await;
    (stub, receiver)
}

/// Returns once no callback is on its way any more.
async fn settled(callbacks: &Callbacks) {
    loop {
        {
            let mut tasks = callbacks.0.tasks.lock();
            while tasks.try_join_next().is_some() {}
            if tasks.is_empty() {
                return;
            }
        }
        tokio::task::yield_now().await;
    }
}

#[tokio::test]
async fn an_ended_ingestion_is_posted_as_json() {
    let (stub, mut requests) = server(|_| Answer::with("204 No Content", "", "")).await;
    let callbacks = Callbacks::start(Clock::system());
    callbacks.send(callback(&stub, 1));
    let seen = requests.recv().await.unwrap();
    assert_eq!(seen.line, "POST /ended?n=00001");
    assert_eq!(seen.header("content-type"), Some("application/json"));
    assert_eq!(
        seen.body,
        r#"{"ingestion_id":"00000000-0000-0000-0000-000000000001","status":"failed","progress":{"total":3,"completed":2,"failed":1,"cancelled":0,"expired":0},"completed_at":"1970-01-01T00:00:01.500000Z"}"#
    );
    settled(&callbacks).await;
    assert_eq!(stub.seen().len(), 1, "a success is not repeated");
}

/// Moves a manual clock on, a little at a time, until the future ends.
async fn pushing<T>(manual: &ManualClock, future: impl Future<Output = T>) -> T {
    let mut future = Box::pin(future);
    loop {
        tokio::select! {
            biased;
            value = &mut future => return value,
            () = tokio::task::yield_now() => manual.advance(Duration::from_millis(100)),
        }
    }
}

#[tokio::test]
async fn a_failed_callback_is_tried_five_times_in_all() {
    let (stub, _requests) = server(|_| Answer::with("500 Internal Server Error", "", "")).await;
    let manual = ManualClock::starting_at(Timestamp::EPOCH);
    let callbacks = Callbacks::start(Clock::Manual(manual.clone()));
    callbacks.send(callback(&stub, 1));
    pushing(&manual, settled(&callbacks)).await;
    let keys: Vec<_> = stub.seen();
    assert_eq!(keys.len(), 5);
    let key = "00000000-0000-0000-0000-000000000001:ended";
    assert!(
        keys.iter()
            .all(|it| it.header("idempotency-key") == Some(key))
    );
}

#[tokio::test]
async fn a_callback_that_gets_through_at_last_is_not_tried_again() {
    let (stub, _requests) = server(|number| match number {
        0 => Answer::Reset,
        // A redirect is not followed.
        1 => Answer::with("307 Temporary Redirect", "Location: /else\r\n", ""),
        _ => Answer::ok(""),
    })
    .await;
    let manual = ManualClock::starting_at(Timestamp::EPOCH);
    let callbacks = Callbacks::start(Clock::Manual(manual.clone()));
    callbacks.send(callback(&stub, 1));
    pushing(&manual, settled(&callbacks)).await;
    let seen = stub.seen();
    assert_eq!(seen.len(), 3);
    assert!(seen.iter().all(|it| it.line == "POST /ended?n=00001"));
}

#[tokio::test]
async fn the_server_s_retry_after_is_waited_for() {
    let (stub, mut requests) = server(|number| match number {
        0 => Answer::with("503 Service Unavailable", "Retry-After: 600\r\n", ""),
        _ => Answer::ok(""),
    })
    .await;
    let manual = ManualClock::starting_at(Timestamp::EPOCH);
    let callbacks = Callbacks::start(Clock::Manual(manual.clone()));
    callbacks.send(callback(&stub, 1));
    requests.recv().await.unwrap();
    pushing(&manual, settled(&callbacks)).await;
    let waited = Clock::Manual(manual).now().mono;
    assert!(waited >= Duration::from_mins(10), "{waited:?}");
    assert_eq!(stub.seen().len(), 2);
}

#[tokio::test]
async fn at_most_eight_are_sent_at_once() {
    let (stub, most) = Stub::holding(MAX_CONCURRENT).await;
    let callbacks = Callbacks::start(Clock::system());
    for number in 0..40 {
        callbacks.send(callback(&stub, number));
    }
    settled(&callbacks).await;
    assert_eq!(stub.seen().len(), 40);
    assert_eq!(most.load(Ordering::SeqCst), MAX_CONCURRENT);
}

#[tokio::test]
async fn past_the_bound_a_callback_is_dropped() {
    let (stub, _requests) = server(|_| Answer::ok("")).await;
    let callbacks = Callbacks::with_limits(Clock::system(), 2, Duration::from_secs(10));
    // This thread is the only one: nothing is sent before it waits.
    for number in 1..=3 {
        callbacks.send(callback(&stub, number));
    }
    settled(&callbacks).await;
    callbacks.send(callback(&stub, 4));
    settled(&callbacks).await;
    let lines: Vec<_> = stub.seen().into_iter().map(|it| it.line).collect();
    let line = |number| format!("POST /ended?n=0000{number}");
    assert_eq!(lines, [line(1), line(2), line(4)]);
}

#[tokio::test]
async fn a_silent_server_is_left_after_the_timeout() {
    let (stub, _requests) = server(|_| Answer::Stall(String::new())).await;
    let manual = ManualClock::starting_at(Timestamp::EPOCH);
    let clock = Clock::Manual(manual.clone());
    let callbacks = Callbacks::with_limits(clock, 10, Duration::from_secs(1));
    callbacks.send(callback(&stub, 1));
    pushing(&manual, settled(&callbacks)).await;
    assert_eq!(stub.seen().len(), 5);
}

#[tokio::test]
async fn a_url_that_is_none_is_given_up_and_harms_no_other() {
    let (stub, mut requests) = server(|_| Answer::ok("")).await;
    let manual = ManualClock::starting_at(Timestamp::EPOCH);
    let callbacks = Callbacks::start(Clock::Manual(manual.clone()));
    callbacks.send(Callback {
        url: "not a url".into(),
        ..callback(&stub, 1)
    });
    callbacks.send(callback(&stub, 2));
    requests.recv().await.unwrap();
    pushing(&manual, settled(&callbacks)).await;
    assert_eq!(stub.seen().len(), 1);
}

#[tokio::test]
async fn dropping_the_last_handle_ends_it() {
    let (stub, mut requests) = server(|_| Answer::Stall(String::new())).await;
    let callbacks = Callbacks::start(Clock::system());
    let delivery = Arc::downgrade(&callbacks.0.delivery);
    callbacks.send(callback(&stub, 1));
    requests.recv().await.unwrap();
    let clone = callbacks.clone();
    drop(callbacks);
    assert!(delivery.upgrade().is_some());
    drop(clone);
    while delivery.strong_count() > 0 {
        tokio::task::yield_now().await;
    }
}

#[tokio::test]
async fn it_can_be_sent_from_a_thread_of_one_s_own() {
    let (stub, mut requests) = server(|_| Answer::ok("")).await;
    let callbacks = Callbacks::start(Clock::system());
    let (sender, callback) = (callbacks.clone(), callback(&stub, 1));
    std::thread::spawn(move || sender.send(callback))
        .join()
        .unwrap();
    requests.recv().await.unwrap();
}
