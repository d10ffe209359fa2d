//! The real binary over a directory of its own, for tests and benchmarks.

use std::ffi::OsStr;
use std::fs::File;
use std::path::Path;
use std::process::{Command, Stdio};

/// `tollgate serve` with its data in `home/data` and its log in `home/log`.
pub(crate) fn serve<K: AsRef<OsStr>, V: AsRef<OsStr>>(
    home: &Path,
    port: u16,
    env: impl IntoIterator<Item = (K, V)>,
) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_tollgate"));
    // What is set for the tests or benchmarks themselves is no setting of the server.
    for (key, _) in std::env::vars_os() {
        let name = key.to_string_lossy();
        if name.starts_with("TOLLGATE_") || name.starts_with("ROCKET_") {
            command.env_remove(&key);
        }
    }
    command
        .arg("serve")
        .current_dir(home)
        .env("ROCKET_ADDRESS", "127.0.0.1")
        .env("ROCKET_PORT", port.to_string())
        .env("TOLLGATE_DATA_DIR", home.join("data"))
        .envs(env)
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(File::create(home.join("log")).unwrap());
    command
}
