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

/// 1,000 slots of 20 ms and 13 of 5 s.
pub(crate) fn slots(rows: &mut Vec<Row>) {
    for (interval, count) in [
        (Duration::from_millis(20), 1_000),
        (Duration::from_secs(5), 13),
    ] {
        let runtime = tokio::runtime::Builder::new_multi_thread()
            .worker_threads(1)
            .enable_all()
            .build()
            .unwrap();
        runtime.block_on(measure(interval, count, rows));
    }
}

async fn measure(interval: Duration, count: usize, rows: &mut Vec<Row>) {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let upstream: SocketAddr = listener.local_addr().unwrap();
    // Bounded by `count`: each batch is requested once.
    let (arrived, mut arrivals) = unbounded_channel();
    tokio::spawn(serve(listener, arrived));
    let server = Setup::new()
        .with(
            "TOLLGATE_QUEUES__DEFAULT__INTERVAL",
            format!("{}ms", interval.as_millis()),
        )
        .with("TOLLGATE_QUEUES__DEFAULT__BATCH_SIZE", "1")
        // A batch that is still running must not hold up the next slot.
        .with("TOLLGATE_QUEUES__DEFAULT__MAX_IN_FLIGHT", "64")
        .with("TOLLGATE_QUEUES__DEFAULT__PROCESSOR", "http")
        .with(
            "TOLLGATE_QUEUES__DEFAULT__UPSTREAM",
            format!("http://{upstream}/items/{{id}}"),
        )
        .start();
    let mut client = Connection::open(server.address).await;
    let ids: Vec<usize> = (0..count).collect();
    let body = serde_json::json!({"ids": ids, "priority": "HIGH"}).to_string();
    let id = ingestion_id(client.call(&post("/ingest", &body)).await);
    let mut times = Vec::with_capacity(count);
    while times.len() < count {
        times.push(arrivals.recv().await.unwrap());
    }
    let status = client
        .call(&get(&format!("/status/{id}?batches=0-{}", count - 1)))
        .await;
    let status: serde_json::Value = serde_json::from_slice(status).unwrap();
    let name = format!("{count} slots of {}", show(interval));
    report_arrivals(&times, interval, &name, rows);
    report_record(&status, interval, &name, rows);
    let metrics = client.call(&get("/metrics")).await;
    for line in String::from_utf8_lossy(metrics).lines() {
        if line.starts_with("dispatch_delay_seconds") {
            println!("  {line}");
        }
    }
}

/// How late each request was against a grid through the earliest of them.
fn report_arrivals(times: &[Instant], interval: Duration, name: &str, rows: &mut Vec<Row>) {
    let offset = |(number, at): (u32, &Instant)| -> i128 {
        let since = at.duration_since(times[0]).as_micros();
        i128::try_from(since).unwrap() - i128::try_from((interval * number).as_micros()).unwrap()
    };
    let offsets: Vec<i128> = (0..).zip(times).map(offset).collect();
    let earliest = *offsets.iter().min().unwrap();
    let mut late: Vec<Duration> = offsets
        .iter()
        .map(|offset| Duration::from_micros(u64::try_from(offset - earliest).unwrap()))
        .collect();
    let part = (late.len() / 10).max(1);
    let middle = |part: &[Duration]| {
        let mut sorted = part.to_vec();
        sorted.sort_unstable();
        percentile(&sorted, 0.5)
    };
    let (first, last) = (middle(&late[..part]), middle(&late[late.len() - part..]));
    late.sort_unstable();
    rows.push(Row::new(
        format!("start of a batch against its slot, as the upstream sees it, {name}"),
        "p99 5 ms",
        format!(
            "p50 {}, p99 {}, max {}",
            show(percentile(&late, 0.5)),
            show(percentile(&late, 0.99)),
            show(percentile(&late, 1.0))
        ),
    ));
    rows.push(Row::new(
        format!("drift: median lateness in the first and the last tenth, {name}"),
        "none",
        format!("{}, {}", show(first), show(last)),
    ));
    let closest = times
        .windows(2)
        .map(|pair| pair[1].duration_since(pair[0]))
        .min()
        .unwrap_or_default();
    println!(
        "  least time between two requests at the upstream: {}",
        show(closest)
    );
}

/// The slots as the server records them.
fn report_record(status: &serde_json::Value, interval: Duration, name: &str, rows: &mut Vec<Row>) {
    let slots: Vec<i64> = status["batches"]
        .as_array()
        .unwrap()
        .iter()
        .map(|batch| {
            let at: jiff::Timestamp = batch["triggered_at"].as_str().unwrap().parse().unwrap();
            at.as_microsecond()
        })
        .collect();
    let step = i64::try_from(interval.as_micros()).unwrap();
    let off = (0..)
        .zip(&slots)
        .map(|(number, slot)| (slot - slots[0] - number * step).unsigned_abs())
        .max()
        .unwrap();
    let least = slots
        .windows(2)
        .map(|pair| pair[1] - pair[0])
        .min()
        .unwrap();
    rows.push(Row::new(
        format!("recorded slots: furthest from the grid, and least distance, {name}"),
        "no drift",
        format!("{off} us, {least} us"),
    ));
}

/// Answers every request at once, and tells when it came.
async fn serve(listener: TcpListener, arrived: UnboundedSender<Instant>) {
    let arrived = Arc::new(arrived);
    while let Ok((stream, _)) = listener.accept().await {
        tokio::spawn(answer(stream, Arc::clone(&arrived)));
    }
}

async fn answer(mut stream: TcpStream, arrived: Arc<UnboundedSender<Instant>>) {
    let mut request = Vec::new();
    loop {
        match stream.read_buf(&mut request).await {
            Ok(0) | Err(_) => return,
            Ok(_) => {}
        }
        if !request.ends_with(b"\r\n\r\n") {
            continue;
        }
        if arrived.send(Instant::now()).is_err() {
            return;
        }
        request.clear();
        let reply = b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\n{}";
        if stream.write_all(reply).await.is_err() {
            return;
        }
    }
}
