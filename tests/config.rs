//! How the real binary refuses to start with settings that can't be used.
#![allow(clippy::unwrap_used, clippy::expect_used, missing_docs)]

use std::process::{Command, Output};

use tempfile::TempDir;

/// Starts the service in `dir`; every case here must keep it from starting.
fn start(dir: &TempDir, arguments: &[&str], variables: &[(&str, &str)]) -> Output {
    let mut command = Command::new(env!("CARGO_BIN_EXE_tollgate"));
    for (name, _) in std::env::vars() {
        if name.starts_with("TOLLGATE_") || name.starts_with("ROCKET_") {
            command.env_remove(name);
        }
    }
    command
        .current_dir(dir.path())
        .args(arguments)
        .envs(variables.iter().copied())
        .output()
        .unwrap()
}

fn refusal(dir: &TempDir, arguments: &[&str], variables: &[(&str, &str)]) -> String {
    let output = start(dir, arguments, variables);
    assert_eq!(output.status.code(), Some(1), "{output:?}");
    assert!(output.stdout.is_empty(), "{output:?}");
    assert!(
        std::fs::read_dir(dir.path())
            .unwrap()
            .all(|entry| entry.unwrap().file_name() != "data"),
        "nothing is made before the settings are known to be good"
    );
    String::from_utf8(output.stderr).unwrap()
}

#[test]
fn one_line_names_the_key_and_where_it_was_set() {
    let dir = tempfile::tempdir().unwrap();
    let table: [(&[&str], (&str, &str), &str); 7] = [
        (
            &[],
            ("TOLLGATE_QUEUES__DEFAULT__BATCH_SIZE", "0"),
            "error: queues.default.batch_size (set by TOLLGATE_QUEUES__DEFAULT__BATCH_SIZE): \"0\" \
             is not allowed; allowed: a whole number from 1 to 1000\n",
        ),
        (
            &["serve"],
            ("TOLLGATE_DATADIR", "x"),
            "error: datadir (set by TOLLGATE_DATADIR): there is no such setting; allowed here: \
             accept_loss, bus, data_dir, events, keep_ended, log_format, log_level, max_body, queues, \
             quota, retention, store\n",
        ),
        (
            &["serve"],
            ("ROCKET_PORT", "eighty"),
            "error: port (set by ROCKET_PORT): invalid type: found string \"eighty\", expected \
             u16\n",
        ),
        (
            &[],
            ("ROCKET_PROT", "80"),
            "error: prot (set by ROCKET_PROT): there is no such setting; allowed here: address, \
             port, workers, max_blocking, keep_alive, ident, ip_header, limits, temp_dir, \
             log_level, shutdown, cli_colors, tollgate\n",
        ),
        (
            &["--upstream", "http://h/items"],
            ("LANG", "C"),
            "error: queues.default.upstream (set by --upstream): \"http://h/items\" is no \
             upstream: {id} must stand in its path or query\n",
        ),
        (
            &["serve", "--data-dir", ""],
            ("TOLLGATE_DATA_DIR", "elsewhere"),
            "error: data_dir (set by --data-dir): \"\" is not allowed; a directory is\n",
        ),
        (
            &[],
            ("ROCKET_CONFIG", "missing.toml"),
            "error: the settings (set in missing.toml): No such file or directory (os error 2)\n",
        ),
    ];
    for (arguments, variable, line) in table {
        assert_eq!(refusal(&dir, arguments, &[variable]), line);
    }
}

#[test]
fn a_file_in_the_working_directory_is_read() {
    let dir = tempfile::tempdir().unwrap();
    let text = "[default.tollgate.queues.default]\nintervall = \"5s\"\n";
    std::fs::write(dir.path().join("Rocket.toml"), text).unwrap();
    let line = refusal(&dir, &[], &[]);
    assert!(
        line.starts_with("error: queues.default.intervall (set in Rocket.toml): there is no such"),
        "{line}"
    );
    assert_eq!(line.lines().count(), 1, "{line}");
}

#[test]
fn a_file_that_can_t_be_read_is_one_line_too() {
    let dir = tempfile::tempdir().unwrap();
    std::fs::write(dir.path().join("Rocket.toml"), "[default]\nport = \n").unwrap();
    let line = refusal(&dir, &["serve"], &[]);
    assert!(line.starts_with("error: the settings"), "{line}");
    assert!(line.contains("line 2"), "{line}");
    assert_eq!(line.lines().count(), 1, "{line}");
}
