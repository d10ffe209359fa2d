//! Runs client commands in a directory of their own.
#![allow(dead_code, reason = "shared: each test uses its part")]

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};

use serde_json::{Value, json};

/// A directory in which commands run.
pub(crate) struct Home {
    pub(crate) dir: tempfile::TempDir,
}

impl Home {
    pub(crate) fn new() -> Self {
        Self {
            dir: tempfile::tempdir().unwrap(),
        }
    }

    pub(crate) fn path(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    pub(crate) fn write(&self, name: &str, text: &str) {
        fs::write(self.path(name), text).unwrap();
    }

    pub(crate) fn read(&self, name: &str) -> String {
        fs::read_to_string(self.path(name)).unwrap()
    }

    pub(crate) fn run(&self, server: &str, arguments: &[&str]) -> Output {
        command(self.dir.path(), server, arguments)
            .output()
            .unwrap()
    }
}

pub(crate) fn command(home: &Path, server: &str, arguments: &[&str]) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_tollgate"));
    command
        .args(arguments)
        .current_dir(home)
        .env("TOLLGATE_SERVER", server)
        .stdin(Stdio::null());
    command
}

pub(crate) fn err(output: &Output) -> &str {
    std::str::from_utf8(&output.stderr).unwrap()
}

pub(crate) fn out(output: &Output) -> &str {
    std::str::from_utf8(&output.stdout).unwrap()
}

/// What `--json` told, without what differs each time.
pub(crate) fn told(output: &Output) -> Value {
    let mut summary: Value = serde_json::from_str(out(output)).unwrap();
    for name in ["seconds", "rows_per_second"] {
        assert!(summary[name].is_number());
        summary.as_object_mut().unwrap().remove(name);
    }
    summary
}

pub(crate) fn counts(
    rows: u64,
    accepted: u64,
    duplicates: u64,
    rejected: u64,
    rejects: &Value,
) -> Value {
    json!({"rows": rows, "accepted": accepted, "duplicates": duplicates, "rejected": rejected,
        "rejects": rejects})
}
