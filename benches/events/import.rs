//! `tollgate import` of a CSV file into a running server.

use std::fs::File;
use std::io::{BufWriter, Write};
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::Duration;

use super::figures::{Row, show, variable};
use super::generator::Generator;
use super::process::{Setup, memory_of};

/// Twice: the second time adds nothing.
pub(crate) fn run(rows: &mut Vec<Row>) {
    let total = variable("BENCH_ROWS", 1_000_000);
    let setup = Setup::new();
    let file = setup.home().join("events.csv");
    write(&file, total);
    let server = setup.start();
    for (accepted, note) in [(total, ""), (0, ", a second time")] {
        let mut child = Command::new(env!("CARGO_BIN_EXE_tollgate"))
            .args(["import", "--json", "--server"])
            .arg(format!("http://{}", server.address))
            .arg(&file)
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        // It only grows; what it was last seen at is what it came to.
        let mut memory = 0;
        while child.try_wait().unwrap().is_none() {
            memory = memory_of(child.id(), "VmHWM:").unwrap_or(memory);
            std::thread::sleep(Duration::from_millis(10));
        }
        let output = child.wait_with_output().unwrap();
        assert!(output.status.success(), "{:?}", output.status);
        let told: serde_json::Value = serde_json::from_slice(&output.stdout).unwrap();
        assert_eq!(told["rows"], total);
        assert_eq!(told["accepted"], accepted);
        let seconds = told["seconds"].as_f64().unwrap();
        rows.push(Row::new(
            format!("tollgate import of {total} rows of CSV{note}"),
            "100,000 rows a second, under 100 MiB",
            format!(
                "{} rows a second ({}), importer at most {:.0} MiB",
                told["rows_per_second"],
                show(Duration::from_secs_f64(seconds)),
                memory as f64 / f64::from(1 << 20)
            ),
        ));
    }
}

fn write(path: &Path, total: u64) {
    let generator = Generator::new(total);
    let mut out = BufWriter::new(File::create(path).unwrap());
    writeln!(
        out,
        "event_id,occurred_at,user_id,event_type,properties_json"
    )
    .unwrap();
    for number in 0..total {
        let event: serde_json::Value = serde_json::from_slice(&generator.event(number)).unwrap();
        let text = |key: &str| event[key].as_str().unwrap().to_owned();
        let properties = event["properties"].to_string().replace('"', "\"\"");
        writeln!(
            out,
            "{},{},{},{},\"{properties}\"",
            text("event_id"),
            text("timestamp"),
            text("user_id"),
            text("event_type")
        )
        .unwrap();
    }
    out.flush().unwrap();
}
