//! The start of a batch against its slot, seen by an upstream: every batch is one request, and
//! its arrival there is the start as the world sees it.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::{Duration, Instant};

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::mpsc::{UnboundedSender, unbounded_channel};

use super::client::{Connection, get, ingestion_id, post};
use super::process::Setup;
use super::{Row, percentile, show};

/// One queue of 20 ms over 1,000 slots; twenty queues of 5 s side by side over 13 slots.
pub(crate) fn slots(rows: &mut Vec<Row>) {
    for (queues, interval, count) in [
        (1, Duration::from_millis(20), 1_000),
        (20, Duration::from_secs(5), 13),
    ] {
        let machine = std::thread::spawn(move || bare_thread(interval, count));
        let runtime = tokio::runtime::Builder::new_multi_thread()
            .worker_threads(1)
            .enable_all()
            .build()
            .unwrap();
        runtime.block_on(measure(queues, interval, count, rows));
        let name = format!("{count} slots of {}", show(interval));
        let (worst, over) = machine.join().unwrap();
        rows.push(Row::new(
            format!("a bare thread that sleeps as often, beside it: the machine's own, {name}"),
            "",
            format!("latest {}, over 1 ms late {over} times", show(worst)),
        ));
    }
}

/// Sleeps until each of `count` slots, and does nothing else: how late it woke at the worst, and
/// how often by more than a millisecond.
fn bare_thread(interval: Duration, count: usize) -> (Duration, usize) {
    let begin = Instant::now();
    let late: Vec<Duration> = (1..=u32::try_from(count).unwrap())
        .map(|number| {
            let slot = interval * number;
            // sleep: it is what is measured.
            std::thread::sleep(slot.saturating_sub(begin.elapsed()));
            begin.elapsed().saturating_sub(slot)
        })
        .collect();
    let over = late.iter().filter(|late| late.as_millis() >= 1).count();
    (late.into_iter().max().unwrap_or_default(), over)
}

async fn measure(queues: usize, interval: Duration, count: usize, rows: &mut Vec<Row>) {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let upstream: SocketAddr = listener.local_addr().unwrap();
    // Bounded by `queues * count`: each batch is requested once.
    let (arrived, mut arrivals) = unbounded_channel();
    tokio::spawn(serve(listener, arrived));
    let mut setup = Setup::new();
    for queue in 0..queues {
        let key = |name: &str| format!("TOLLGATE_QUEUES__Q{queue}__{name}");
        setup = setup
            .with(&key("INTERVAL"), format!("{}ms", interval.as_millis()))
            .with(&key("BATCH_SIZE"), "1")
            // A batch that is still running must not hold up the next slot.
            .with(&key("MAX_IN_FLIGHT"), "64")
            .with(&key("PROCESSOR"), "http")
            .with(
                &key("UPSTREAM"),
                format!("http://{upstream}/{queue}/{{id}}"),
            );
    }
    let server = setup.start();
    let mut client = Connection::open(server.address).await;
    let ids: Vec<usize> = (0..count).collect();
    let mut submitted = Vec::new();
    for queue in 0..queues {
        let body =
            serde_json::json!({"ids": ids, "priority": "HIGH", "queue": format!("q{queue}")});
        submitted.push(ingestion_id(
            client.call(&post("/ingest", &body.to_string())).await,
        ));
    }
    let mut times = vec![Vec::with_capacity(count); queues];
    for _ in 0..queues * count {
        let (queue, at) = arrivals.recv().await.unwrap();
        times[queue].push(at);
    }
    let name = match queues {
        1 => format!("{count} slots of {}", show(interval)),
        more => format!("{count} slots of {} in {more} queues", show(interval)),
    };
    report_arrivals(&times, interval, &name, rows);
    let mut recorded = Vec::new();
    for id in &submitted {
        recorded.push(record(&mut client, id, count).await);
    }
    report_record(&recorded, interval, &name, rows);
    let metrics = client.call(&get("/metrics")).await;
    for line in String::from_utf8_lossy(metrics).lines() {
        if line.starts_with("dispatch_delay_seconds") {
            println!("  {line}");
        }
    }
}

/// What the server says of an ingestion once its last batch, which is on its way to the upstream, is
/// recorded as started.
async fn record(client: &mut Connection, id: &str, count: usize) -> serde_json::Value {
    let path = format!("/status/{id}?batches=0-{}", count - 1);
    for _ in 0..1_000 {
        let status = client.call(&get(&path)).await;
        let status: serde_json::Value = serde_json::from_slice(status).unwrap();
        if status["batches"][count - 1]["triggered_at"].is_string() {
            return status;
        }
        // sleep: a poll of a server.
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    panic!("the last batch is never recorded as started");
}

/// How late each request was against a grid through the earliest of its queue.
fn report_arrivals(times: &[Vec<Instant>], interval: Duration, name: &str, rows: &mut Vec<Row>) {
    let lateness = |times: &Vec<Instant>| -> Vec<Duration> {
        let offset = |(number, at): (u32, &Instant)| -> i128 {
            let since = at.duration_since(times[0]).as_micros();
            i128::try_from(since).unwrap()
                - i128::try_from((interval * number).as_micros()).unwrap()
        };
        let offsets: Vec<i128> = (0..).zip(times).map(offset).collect();
        let earliest = *offsets.iter().min().unwrap();
        offsets
            .iter()
            .map(|offset| Duration::from_micros(u64::try_from(offset - earliest).unwrap()))
            .collect()
    };
    let late: Vec<Vec<Duration>> = times.iter().map(lateness).collect();
    let part = (late[0].len() / 10).max(1);
    let middle = |part: &mut dyn Iterator<Item = &Duration>| {
        let mut sorted: Vec<Duration> = part.copied().collect();
        sorted.sort_unstable();
        percentile(&sorted, 0.5)
    };
    // The first start of an idle queue needs no allowance: the drift is counted from the second.
    let first = middle(&mut late.iter().flat_map(|late| &late[1..=part]));
    let last = middle(&mut late.iter().flat_map(|late| &late[late.len() - part..]));
    let mut all = late.concat();
    all.sort_unstable();
    rows.push(Row::new(
        format!("start of a batch against its slot, as the upstream sees it, {name}"),
        "p99 5 ms",
        format!(
            "p50 {}, p99 {}, max {}",
            show(percentile(&all, 0.5)),
            show(percentile(&all, 0.99)),
            show(percentile(&all, 1.0))
        ),
    ));
    rows.push(Row::new(
        format!("drift: median lateness in the first and the last tenth, {name}"),
        "none",
        format!("{}, {}", show(first), show(last)),
    ));
    let mut apart: Vec<Duration> = times
        .iter()
        .flat_map(|times| times.windows(2))
        .map(|pair| pair[1].duration_since(pair[0]))
        .collect();
    apart.sort_unstable();
    rows.push(Row::new(
        format!("distance of two requests at the upstream, {name}"),
        "the interval",
        format!(
            "least {:?}, p1 {:?}, p50 {:?}",
            apart[0],
            percentile(&apart, 0.01),
            percentile(&apart, 0.5)
        ),
    ));
}

/// The slots as the server records them.
fn report_record(
    recorded: &[serde_json::Value],
    interval: Duration,
    name: &str,
    rows: &mut Vec<Row>,
) {
    let step = i64::try_from(interval.as_micros()).unwrap();
    let (mut off, mut least) = (0, i64::MAX);
    for status in recorded {
        let at = |batch: &serde_json::Value| {
            let at: jiff::Timestamp = batch["triggered_at"].as_str().unwrap().parse().unwrap();
            at.as_microsecond()
        };
        let slots: Vec<i64> = status["batches"]
            .as_array()
            .unwrap()
            .iter()
            .map(at)
            .collect();
        for (number, slot) in (0..).zip(&slots) {
            off = off.max((slot - slots[0] - number * step).unsigned_abs());
        }
        for pair in slots.windows(2) {
            least = least.min(pair[1] - pair[0]);
        }
    }
    rows.push(Row::new(
        format!("recorded slots: furthest from the grid, and least distance, {name}"),
        "no drift",
        format!("{off} us, {least} us"),
    ));
}

/// Answers every request at once, and tells for which queue it came, and when.
async fn serve(listener: TcpListener, arrived: UnboundedSender<(usize, Instant)>) {
    let arrived = Arc::new(arrived);
    while let Ok((stream, _)) = listener.accept().await {
        tokio::spawn(answer(stream, Arc::clone(&arrived)));
    }
}

async fn answer(mut stream: TcpStream, arrived: Arc<UnboundedSender<(usize, Instant)>>) {
    let mut request = Vec::new();
    loop {
        match stream.read_buf(&mut request).await {
            Ok(0) | Err(_) => return,
            Ok(_) => {}
        }
        if !request.ends_with(b"\r\n\r\n") {
            continue;
        }
        let at = Instant::now();
        let line = std::str::from_utf8(&request).unwrap();
        let queue = line.split('/').nth(1).unwrap().parse().unwrap();
        if arrived.send((queue, at)).is_err() {
            return;
        }
        request.clear();
        let reply = b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\n{}";
        if stream.write_all(reply).await.is_err() {
            return;
        }
    }
}
