use super::*;
use crate::events::parse::time;

fn event(id: &str) -> Event<'_> {
    Event {
        tenant: "täglich".into(),
        topic: "".into(),
        id: id.into(),
        time: time::parse("1969-12-31T23:59:59.999999999Z").unwrap(),
        source: None,
        event_type: Some("".into()),
        user: Some("\u{1f980}\0\"".into()),
        payload: r#"{"n":1e400,"m":12345678901234567890,"n":1.0}"#.into(),
        extra: "".into(),
    }
}

fn full(id: &str) -> Event<'_> {
    Event {
        time: time::parse("9999-12-30T21:59:59.000000001Z").unwrap(),
        source: Some("s".into()),
        event_type: None,
        user: None,
        extra: r#"{"a/b":null}"#.into(),
        ..event(id)
    }
}

fn read(path: &Path) -> Vec<(Option<Sequence>, Event<'static>)> {
    PartRows::open(path)
        .unwrap()
        .collect::<io::Result<_>>()
        .unwrap()
}

#[test]
fn what_was_written_comes_back() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("a.parquet");
    let rows = [
        (None, event("1")),
        (Some(Sequence(1)), full("2")),
        (Some(Sequence(u64::from(u32::MAX) + 7)), event("3")),
    ];
    let mut part = PartWriter::create(&path, Limits::default()).unwrap();
    for (arrival, event) in &rows {
        part.push(*arrival, event).unwrap();
    }
    assert_eq!(part.rows(), 3);
    part.finish().unwrap();
    assert_eq!(read(&path), rows);
    PartWriter::create(&path, Limits::default())
        .unwrap()
        .finish()
        .unwrap();
    assert_eq!(read(&path), [], "a file without rows is one, too");
}

#[test]
fn groups_and_files_are_bounded() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("a.parquet");
    let bytes = event("0").payload.len() + full("0").extra.len();
    let of_rows = Limits {
        group_rows: 2,
        group_bytes: usize::MAX,
        rows: 5,
        groups: usize::MAX,
    };
    let of_bytes = Limits {
        group_rows: usize::MAX,
        group_bytes: bytes,
        rows: usize::MAX,
        groups: 3,
    };
    for (limits, rows, groups) in [(of_rows, 5, 3), (of_bytes, 3, 3)] {
        let mut part = PartWriter::create(&path, limits).unwrap();
        let mut pushed = Vec::new();
        while !part.is_full() {
            let arrival = Sequence(pushed.len() as u64 + 1);
            part.push(Some(arrival), &full("0")).unwrap();
            pushed.push((Some(arrival), full("0")));
        }
        assert_eq!(part.rows(), rows);
        part.finish().unwrap();
        assert_eq!(read(&path), pushed);
        let file = File::open(&path).unwrap();
        let reader = parquet::file::reader::SerializedFileReader::new(file).unwrap();
        let metadata = parquet::file::reader::FileReader::metadata(&reader);
        assert_eq!(metadata.num_row_groups(), groups);
    }
}

#[test]
fn a_disk_that_is_full_is_an_error() {
    let full_disk = Path::new("/dev/full");
    if !full_disk.exists() {
        return; // Only Linux has one.
    }
    let mut part = PartWriter::create(full_disk, Limits::default()).unwrap();
    part.push(None, &event("1")).unwrap();
    assert!(part.finish().is_err());
}

#[test]
fn a_file_that_was_cut_is_not_read() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("a.parquet");
    let mut part = PartWriter::create(&path, Limits::default()).unwrap();
    part.push(None, &event("1")).unwrap();
    part.finish().unwrap();
    let bytes = fs::read(&path).unwrap();
    fs::write(&path, &bytes[..bytes.len() - 1]).unwrap();
    assert!(PartRows::open(&path).is_err());
}
