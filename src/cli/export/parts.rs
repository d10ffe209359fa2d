//! Events as Parquet files, a folder a UTC day.
//!
//! Events come in order of time, so one day is open at a time. Its files have temporary names until it
//! has ended; then they take their names, and what an earlier export had beyond them goes.

use std::borrow::Cow;
use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use super::render::Members;
use crate::cli::Failure;
use crate::events::parse::time;
use crate::events::part::{self, Day, Limits, PartWriter};
use crate::model::event::{Event, EventTime, Sequence};

/// Before and after the number in the name of a file that is not final.
const TEMPORARY: (&str, &str) = (".part-", ".tmp");

/// The same in the name of a final one.
const FINAL: (&str, &str) = ("part-", ".parquet");

/// The files of one export.
pub(super) struct Parts {
    root: PathBuf,
    limits: Limits,
    open: Option<OpenDay>,
}

/// The day that events are written of.
struct OpenDay {
    day: Day,
    /// The file that grows.
    part: PartWriter,
    /// How many files before it are finished.
    finished: u32,
}

impl Parts {
    /// Into the directory `root`, made if it isn't there. What an export that was cut off left there is
    /// removed.
    pub(super) fn open(root: &Path) -> Result<Self, Failure> {
        let prepared = fs::create_dir_all(root).and_then(|()| remove(root, TEMPORARY, 0));
        prepared.map_err(|error| failed(root, &error))?;
        Ok(Self {
            root: root.to_owned(),
            limits: Limits::default(),
            open: None,
        })
    }

    pub(super) fn push(
        &mut self,
        arrival: Option<Sequence>,
        event: &Event<'_>,
    ) -> Result<(), Failure> {
        self.push_row(arrival, event)
            .map_err(|error| failed(&self.root, &error))
    }

    fn push_row(&mut self, arrival: Option<Sequence>, event: &Event<'_>) -> io::Result<()> {
        let day = Day::of(event.time.micros);
        let mut open = match self.open.take() {
            Some(open) if open.day == day => open,
            before => {
                if let Some(before) = before {
                    self.close(before)?;
                }
                OpenDay {
                    day,
                    part: self.create(0)?,
                    finished: 0,
                }
            }
        };
        if open.part.is_full() {
            let next = self.create(open.finished + 1)?;
            std::mem::replace(&mut open.part, next).finish()?;
            open.finished += 1;
        }
        open.part.push(arrival, event)?;
        self.open = Some(open);
        Ok(())
    }

    /// Nothing comes any more.
    pub(super) fn finish(mut self) -> Result<(), Failure> {
        let done = self.open.take().map_or(Ok(()), |open| self.close(open));
        done.map_err(|error| failed(&self.root, &error))
    }

    fn create(&self, number: u32) -> io::Result<PartWriter> {
        PartWriter::create(&self.root.join(name(TEMPORARY, number)), self.limits)
    }

    /// Makes the files of a day final.
    fn close(&self, open: OpenDay) -> io::Result<()> {
        open.part.finish()?;
        let folder = open.day.folder();
        for number in 0..=open.finished {
            let temporary = self.root.join(name(TEMPORARY, number));
            part::publish(&temporary, &self.root, &folder, &name(FINAL, number))?;
        }
        remove(&self.root.join(folder), FINAL, open.finished + 1)
    }
}

fn name((before, after): (&str, &str), number: u32) -> String {
    format!("{before}{number:05}{after}")
}

/// Removes the files in `folder` that are named so with `from` or a greater number.
fn remove(folder: &Path, around: (&str, &str), from: u32) -> io::Result<()> {
    for entry in fs::read_dir(folder)? {
        let entry = entry?;
        let found = entry.file_name();
        let number = found.to_str().and_then(|found| {
            let number = found.strip_prefix(around.0)?.strip_suffix(around.1)?;
            number
                .parse()
                .ok()
                .filter(|number| *found == name(around, *number))
        });
        if number.is_some_and(|number| number >= from) {
            fs::remove_file(entry.path())?;
        }
    }
    Ok(())
}

fn failed(root: &Path, error: &io::Error) -> Failure {
    Failure::Failed(format!("{}: {error}", root.display()))
}

/// The event of a server's answer.
pub(super) fn event(json: &str) -> Result<Event<'_>, Failure> {
    let members = Members::parse(json)?;
    let mut event = Event {
        tenant: "".into(),
        topic: "".into(),
        id: "".into(),
        time: EventTime::default(),
        source: None,
        event_type: None,
        user: None,
        payload: "{}".into(),
        extra: String::from_utf8_lossy(&members.extra())
            .into_owned()
            .into(),
    };
    for (key, value) in &members.0 {
        let text = || -> Result<Cow<'static, str>, Failure> {
            let text: Result<String, _> = serde_json::from_str(value.get());
            text.map(Cow::Owned)
                .map_err(|_| Failure::Failed(format!("an event's {key} is no string")))
        };
        match &**key {
            "event_id" => event.id = text()?,
            "topic" => event.topic = text()?,
            "tenant_id" => event.tenant = text()?,
            "source" => event.source = Some(text()?),
            "event_type" => event.event_type = Some(text()?),
            "user_id" => event.user = Some(text()?),
            "payload" => event.payload = value.get().into(),
            "timestamp" => {
                let text = text()?;
                event.time = time::parse(&text)
                    .ok_or_else(|| Failure::Failed(format!("{text} is no time of an event")))?;
            }
            _ => {}
        }
    }
    Ok(event)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::events::json;
    use crate::events::part::PartRows;

    fn at(id: &str, at: &str) -> Event<'static> {
        let json = format!(r#"{{"event_id":"{id}","timestamp":"{at}"}}"#);
        Event {
            payload: "{}".into(),
            ..event(&json).unwrap().into_owned()
        }
    }

    fn files(root: &Path) -> Vec<String> {
        let mut found = Vec::new();
        for entry in fs::read_dir(root).unwrap() {
            let path = entry.unwrap().path();
            if path.is_dir() {
                found.extend(files(&path));
            } else {
                let rows = PartRows::open(&path).unwrap();
                let ids: Vec<String> = rows.map(|row| row.unwrap().1.id.into_owned()).collect();
                let name = path
                    .components()
                    .skip_while(|it| !it.as_os_str().to_string_lossy().starts_with("day="));
                let name: PathBuf = name.collect();
                found.push(format!("{} {}", name.display(), ids.join(" ")));
            }
        }
        found.sort();
        found
    }

    fn export(root: &Path, rows: usize, events: &[Event<'_>]) {
        let mut parts = Parts::open(root).unwrap();
        parts.limits.rows = rows;
        for event in events {
            parts.push(None, event).unwrap();
        }
        parts.finish().unwrap();
    }

    #[test]
    fn a_day_is_replaced_as_a_whole() {
        let dir = tempfile::tempdir().unwrap();
        let root = dir.path().join("out");
        let events = [
            at("a", "2026-01-01T00:00:00Z"),
            at("b", "2026-01-01T01:00:00Z"),
            at("c", "2026-01-01T23:59:59.999999999Z"),
            at("d", "2026-01-02T00:00:00Z"),
        ];
        export(&root, 2, &events);
        let all = [
            "day=2026-01-01/part-00000.parquet a b",
            "day=2026-01-01/part-00001.parquet c",
            "day=2026-01-02/part-00000.parquet d",
        ];
        assert_eq!(files(&root), all);
        // What is not of an export stays.
        let other = "day=2026-01-01/part-7.parquet";
        fs::copy(
            root.join("day=2026-01-02/part-00000.parquet"),
            root.join(other),
        )
        .unwrap();
        // One that is cut off changes nothing,
        let mut cut = Parts::open(&root).unwrap();
        cut.limits.rows = 1;
        for event in &events[1..3] {
            cut.push(None, event).unwrap();
        }
        assert!(root.join(".part-00001.tmp").exists());
        drop(cut);
        // and the next one leaves nothing of it.
        export(&root, 2, &events[..1]);
        assert_eq!(
            files(&root),
            [
                "day=2026-01-01/part-00000.parquet a",
                "day=2026-01-01/part-7.parquet d",
                "day=2026-01-02/part-00000.parquet d",
            ]
        );
    }

    #[test]
    fn an_answer_s_event_is_the_event_that_was_stored() {
        let full = Event {
            tenant: "ü".into(),
            topic: "".into(),
            id: "e\"1".into(),
            time: time::parse("1969-12-31T23:59:59.999999999Z").unwrap(),
            source: Some("s".into()),
            event_type: Some("c\n".into()),
            user: Some("\u{1f980}".into()),
            payload: r#"{ "n" : 1e400,"n":12345678901234567890}"#.into(),
            extra: r#"{"x":{"y":1e5},"a/b":null,"extra_json":1}"#.into(),
        };
        let least = Event {
            source: None,
            event_type: None,
            user: None,
            extra: "".into(),
            ..full.clone()
        };
        for stored in [full, least] {
            assert_eq!(event(&json::event(&stored)).unwrap(), stored);
        }
        assert!(event(r#"{"timestamp":"tomorrow"}"#).is_err());
        assert!(event(r#"{"event_id":7}"#).is_err());
    }
}
