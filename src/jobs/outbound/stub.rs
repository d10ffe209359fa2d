//! A server under a test's own hand: it says byte for byte what it is told to.

use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use parking_lot::Mutex;
use tokio::io::{AsyncBufReadExt, AsyncReadExt, AsyncWriteExt, BufReader};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::watch;
use tokio::task::JoinSet;

/// One request as it came.
#[derive(Clone, Debug)]
pub(crate) struct Seen {
    /// `GET /items/1`.
    pub(crate) line: String,
    /// Names in lower case.
    pub(crate) headers: Vec<(String, String)>,
    pub(crate) body: String,
}

impl Seen {
    pub(crate) fn header(&self, name: &str) -> Option<&str> {
        let mut found = self.headers.iter().filter(|header| header.0 == name);
        found.next().map(|header| header.1.as_str())
    }
}

/// What to do with a request.
pub(crate) enum Answer {
    /// Write this and close.
    Text(String),
    /// Write this and then nothing, with the connection open.
    Stall(String),
    /// Reset the connection.
    Reset,
}

impl Answer {
    /// A complete answer with `head` more headers (each ended by `\r\n`).
    pub(crate) fn with(status: &str, head: &str, body: &str) -> Self {
        let length = body.len();
        Self::Text(format!(
            "HTTP/1.1 {status}\r\n{head}Content-Length: {length}\r\nConnection: close\r\n\r\n{body}"
        ))
    }

    pub(crate) fn ok(body: &str) -> Self {
        Self::with("200 OK", "", body)
    }
}

/// Runs until it is dropped.
pub(crate) struct Stub {
    pub(crate) address: SocketAddr,
    seen: Arc<Mutex<Vec<Seen>>>,
    _task: JoinSet<()>,
}

impl Stub {
    pub(crate) async fn start<F, A>(answer: F) -> Self
    where
        F: Fn(Seen) -> A + Send + Sync + 'static,
        A: Future<Output = Answer> + Send + 'static,
    {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let seen = Arc::new(Mutex::new(Vec::new()));
        let log = Arc::clone(&seen);
        let answer = Arc::new(answer);
        let mut task = JoinSet::new();
        task.spawn(async move {
            let mut connections = JoinSet::new();
            while let Ok((stream, _)) = listener.accept().await {
                let (answer, log) = (Arc::clone(&answer), Arc::clone(&log));
                connections.spawn(async move {
                    let mut stream = BufReader::new(stream);
                    let Ok(request) = read(&mut stream).await else {
                        return;
                    };
                    log.lock().push(request.clone());
                    // A client that went away is some tests' very purpose.
                    let _ = write(stream.into_inner(), answer(request).await).await;
                });
            }
        });
        Self {
            address,
            seen,
            _task: task,
        }
    }

    /// Answers nobody before `crowd` requests are there at once; counts the most that ever were.
    pub(crate) async fn holding(crowd: usize) -> (Self, Arc<AtomicUsize>) {
        let (open, _) = watch::channel(false);
        let (now, most) = (Arc::new(AtomicUsize::new(0)), Arc::new(AtomicUsize::new(0)));
        let counted = Arc::clone(&most);
        let stub = Self::start(move |_| {
            let (open, now, most) = (open.clone(), Arc::clone(&now), Arc::clone(&counted));
            async move {
                let there = now.fetch_add(1, Ordering::SeqCst) + 1;
                most.fetch_max(there, Ordering::SeqCst);
                if there == crowd {
                    // The client's turn: whatever more it would send arrives now.
                    for _ in 0..1_000 {
                        tokio::task::yield_now().await;
                    }
                    open.send_replace(true);
                }
                open.subscribe().wait_for(|open| *open).await.unwrap();
                now.fetch_sub(1, Ordering::SeqCst);
                Answer::ok("")
            }
        })
        .await;
        (stub, most)
    }

    /// The requests so far, by their first lines.
    pub(crate) fn seen(&self) -> Vec<Seen> {
        let mut seen = self.seen.lock().clone();
        seen.sort_by(|a, b| a.line.cmp(&b.line));
        seen
    }
}

async fn read(stream: &mut BufReader<TcpStream>) -> io::Result<Seen> {
    let mut line = String::new();
    stream.read_line(&mut line).await?;
    let line = line.trim_end().trim_end_matches(" HTTP/1.1").to_owned();
    let mut headers = Vec::new();
    loop {
        let mut header = String::new();
        if stream.read_line(&mut header).await? == 0 {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
        let Some((name, value)) = header.trim_end().split_once(": ") else {
            break;
        };
        headers.push((name.to_ascii_lowercase(), value.to_owned()));
    }
    let mut seen = Seen {
        line,
        headers,
        body: String::new(),
    };
    let length = seen
        .header("content-length")
        .map_or(0, |length| length.parse().unwrap());
    let mut body = vec![0; length];
    stream.read_exact(&mut body).await?;
    seen.body = String::from_utf8(body).unwrap();
    Ok(seen)
}

async fn write(mut stream: TcpStream, answer: Answer) -> io::Result<()> {
    match answer {
        Answer::Text(text) => {
            stream.write_all(text.as_bytes()).await?;
            stream.shutdown().await
        }
        Answer::Stall(text) => {
            stream.write_all(text.as_bytes()).await?;
            std::future::pending().await
        }
        Answer::Reset => stream.set_zero_linger(),
    }
}
