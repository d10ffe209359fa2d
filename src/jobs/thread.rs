//! The thread of the schedulers: the queues' tasks live on a runtime of their own, so that request
//! handlers, large answers and the processors' work can't delay a start.

use std::convert::Infallible;
use std::io;

use tokio::runtime::{Builder, Handle};
use tokio::sync::mpsc;
use tokio::task::JoinHandle;

/// Ends with the last task that was spawned on it, once this is dropped.
#[derive(Debug)]
pub(crate) struct SchedulerThread {
    runtime: Handle,
    /// Each task holds one; nothing is ever sent.
    alive: mpsc::Sender<Infallible>,
}

impl SchedulerThread {
    pub(crate) fn start() -> io::Result<Self> {
        // Timers only: without sockets to wait for, the thread waits on a condition variable, which
        // is exact to some 60 microseconds, and not on `epoll`, which rounds up to a millisecond.
        let runtime = Builder::new_current_thread().enable_time().build()?;
        let handle = runtime.handle().clone();
        let (alive, mut all_ended) = mpsc::channel::<Infallible>(1);
        std::thread::Builder::new()
            .name("scheduler".to_owned())
            .spawn(move || runtime.block_on(all_ended.recv()))?;
        Ok(Self {
            runtime: handle,
            alive,
        })
    }

    /// The handle tells of a panic or an end, on whatever runtime it is awaited.
    pub(crate) fn spawn<F>(&self, task: F) -> JoinHandle<()>
    where
        F: Future<Output = ()> + Send + 'static,
    {
        let alive = self.alive.clone();
        self.runtime.spawn(async move {
            let _alive = alive;
            task.await;
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn it_ends_with_its_last_task_whether_that_returns_panics_or_is_aborted() {
        let thread = SchedulerThread::start().unwrap();
        let (sender, over) = tokio::sync::oneshot::channel::<()>();
        let name = thread
            .runtime
            .spawn(async { std::thread::current().name().map(str::to_owned) });
        assert_eq!(name.await.unwrap().as_deref(), Some("scheduler"));
        let returns = thread.spawn(async {});
        let panics = thread.spawn(async { panic!("on purpose") });
        let waits = thread.spawn(async move {
            let _held = sender;
            std::future::pending::<()>().await;
        });
        assert!(returns.await.is_ok());
        assert!(panics.await.unwrap_err().is_panic());
        // What the thread holds goes with it: a task of the runtime that does not keep it alive.
        let (held, gone) = tokio::sync::oneshot::channel::<()>();
        thread.runtime.spawn(async move {
            let _held = held;
            std::future::pending::<()>().await;
        });
        drop(thread);
        waits.abort();
        assert!(over.await.is_err());
        assert!(
            gone.await.is_err(),
            "the runtime was dropped with the thread"
        );
    }
}
