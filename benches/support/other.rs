//! Starts servers of others: each from its Debian package, on a free port, over a temporary directory.

use std::net::{SocketAddr, TcpStream};
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use tempfile::TempDir;

use super::process::port::Port;

/// A server of another kind; killed when dropped.
pub(crate) struct Other {
    child: Child,
    pub(crate) address: SocketAddr,
    _port: Port,
    _home: TempDir,
}

impl Other {
    /// Starts `program` if it is installed, and waits until it takes connections.
    pub(crate) fn start(
        program: &str,
        command: impl FnOnce(&TempDir, u16) -> Command,
    ) -> Option<Self> {
        if find(program).is_none() {
            println!("  {program} is not installed");
            return None;
        }
        let (home, port) = (tempfile::tempdir().unwrap(), Port::claim());
        let mut command = command(&home, port.number());
        command
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::null());
        let mut other = Self {
            child: command.spawn().unwrap(),
            address: port.address(),
            _port: port,
            _home: home,
        };
        let started = Instant::now();
        while TcpStream::connect(other.address).is_err() {
            assert!(other.child.try_wait().unwrap().is_none(), "{program} ended");
            assert!(
                started.elapsed() < Duration::from_mins(1),
                "{program} takes no connections"
            );
            std::thread::sleep(Duration::from_millis(20));
        }
        Some(other)
    }
}

impl Drop for Other {
    fn drop(&mut self) {
        // It may have ended already.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// Where a program is.
pub(crate) fn find(program: &str) -> Option<PathBuf> {
    let path = std::env::var_os("PATH")?;
    let mut folders: Vec<PathBuf> = std::env::split_paths(&path).collect();
    // Where Debian keeps PostgreSQL's own programs, and its servers.
    folders.extend(["/usr/lib/postgresql/15/bin", "/usr/sbin"].map(PathBuf::from));
    folders
        .iter()
        .map(|folder| folder.join(program))
        .find(|it| it.is_file())
}
