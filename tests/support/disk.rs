//! A disk that fails: a small library that is preloaded into the server (`tests/faults/shim.c`).
#![allow(dead_code, reason = "shared: each test uses its part")]

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use super::server::Setup;

/// The switch of the preloaded library.
pub(crate) struct Disk {
    switch: PathBuf,
}

impl Disk {
    /// Compiles the library and adds it to `setup`; the disk works until told otherwise.
    pub(crate) fn behind(setup: Setup, home: &Path) -> (Self, Setup) {
        let library = home.join("shim.so");
        let source = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/faults/shim.c");
        let compiled = Command::new("cc")
            .args([
                "-shared", "-fPIC", "-O1", "-Wall", "-Wextra", "-Werror", "-o",
            ])
            .args([library.as_os_str(), source.as_ref(), "-ldl".as_ref()])
            .status()
            .expect("cc, which links Rust programs too");
        assert!(compiled.success());
        let disk = Self {
            switch: home.join("disk"),
        };
        let data = setup.data_dir();
        fs::create_dir_all(&data).unwrap();
        let setup = setup
            .with("LD_PRELOAD", library)
            .with("DISK_FAULT_DIR", data.canonicalize().unwrap())
            .with("DISK_FAULT_FILE", &disk.switch);
        disk.works();
        (disk, setup)
    }

    pub(crate) fn works(&self) {
        self.set("");
    }

    pub(crate) fn syncs_fail(&self) {
        self.set("sync");
    }

    pub(crate) fn syncs_hang(&self) {
        self.set("hang");
    }

    pub(crate) fn is_full(&self) {
        self.set("full");
    }

    /// Replaces the file at once, so that the library never reads half of it.
    fn set(&self, mode: &str) {
        let new = self.switch.with_extension("new");
        fs::write(&new, mode).unwrap();
        fs::rename(new, &self.switch).unwrap();
    }
}
