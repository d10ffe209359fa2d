use super::*;

/// What a row became: its line, its bytes, and its JSON or why it was refused.
type Seen = (u64, String, Result<String, String>);

fn all(input: &[u8], format: Option<Format>) -> io::Result<Vec<Seen>> {
    let mut rows = Rows::new(Source::bytes(input)?, format)?;
    let mut seen = Vec::new();
    let mut out = Vec::new();
    while let Some(row) = rows.next(&mut out)? {
        let (line, raw) = (row.line, String::from_utf8_lossy(row.raw).into_owned());
        let made = match row.refused {
            Some(reason) => Err(reason),
            None => Ok(String::from_utf8(std::mem::take(&mut out)).unwrap()),
        };
        assert!(out.is_empty(), "a refused row leaves nothing");
        seen.push((line, raw, made));
    }
    Ok(seen)
}

fn problem(input: &[u8]) -> String {
    all(input, None).unwrap_err().to_string()
}

#[test]
fn csv_rows_know_their_lines() {
    let input = "\u{feff}event_id,timestamp,user_id\r\n1,t,\"a\nb\"\r\n\r\n\n2,t\n3,t,c";
    let seen = all(input.as_bytes(), None).unwrap();
    assert_eq!(
        seen,
        [
            (
                2,
                "1,t,\"a\nb\"".to_owned(),
                Ok(r#"{"event_id":"1","timestamp":"t","user_id":"a\nb"}"#.to_owned())
            ),
            (
                6,
                "2,t".to_owned(),
                Err("it has 2 fields, and the header has 3".to_owned())
            ),
            (
                7,
                "3,t,c".to_owned(),
                Ok(r#"{"event_id":"3","timestamp":"t","user_id":"c"}"#.to_owned())
            ),
        ]
    );
}

#[test]
fn a_header_alone_is_no_row() {
    for header in ["event_id,timestamp", "event_id,timestamp\n\n"] {
        assert!(all(header.as_bytes(), None).unwrap().is_empty());
    }
    assert_eq!(problem(b""), "it is empty: a header is needed");
    assert_eq!(problem(b"\n \n"), "a column of the header has no name");
}

#[test]
fn json_lines_know_their_lines() {
    let seen = all(b" {\"a\": 1} \r\n\n[1]\n{\"b\"\n{\"c\": 2}", None).unwrap();
    let lines: Vec<u64> = seen.iter().map(|row| row.0).collect();
    assert_eq!(lines, [1, 3, 4, 5]);
    assert_eq!(seen[0].2, Ok("{\"a\": 1}".to_owned()));
    assert_eq!(seen[1].2, Err("it is no JSON object".to_owned()));
    assert!(
        seen[2]
            .2
            .as_ref()
            .unwrap_err()
            .starts_with("it is no JSON: ")
    );
    assert_eq!(seen[3].2, Ok("{\"c\": 2}".to_owned()));
    assert!(problem_of_array().contains("jq -c"));
}

fn problem_of_array() -> String {
    all(b" [{}]", Some(Format::Ndjson)).unwrap_err().to_string()
}

#[test]
fn more_than_the_window_holds_goes_through_it() {
    let pad = "x".repeat(10_000);
    let count = MAX_ROW / 10_000 * 3;
    let csv: Vec<String> = (0..count)
        .map(|number| format!("{number},t,\"{pad}\"\n"))
        .collect();
    let csv = format!("event_id,timestamp,pad\n{}", csv.concat());
    let json: Vec<String> = (0..count)
        .map(|number| format!("{{\"event_id\":\"{number}\",\"pad\":\"{pad}\"}}\n"))
        .collect();
    let json = json.concat();
    for input in [csv, json] {
        let seen = all(input.as_bytes(), None).unwrap();
        assert_eq!(seen.len(), count);
        for (number, row) in seen.iter().enumerate() {
            let made = row.2.as_ref().unwrap();
            assert!(made.starts_with(&format!("{{\"event_id\":\"{number}\"")));
            assert!(made.contains(&pad));
        }
    }
}

#[test]
fn a_row_is_at_most_a_mib() {
    let object = |length: usize| format!("{{\"a\":\"{}\"}}", "x".repeat(length - 8));
    for (length, fits) in [
        (MAX_ROW - 1, true),
        (MAX_ROW + 1, false),
        (3 * MAX_ROW, false),
    ] {
        let input = format!("{{}}\n{}\n{{}}\n", object(length));
        let seen = all(input.as_bytes(), None).unwrap();
        let lines: Vec<u64> = seen.iter().map(|row| row.0).collect();
        assert_eq!(lines, [1, 2, 3], "{length}");
        assert_eq!(seen[1].2.is_ok(), fits, "{length}");
        assert!(fits || seen[1].1.len() == KEPT_OF_LONG);
        assert!(seen[2].2.is_ok());
    }
    let header = "event_id,timestamp\n1,";
    let open = format!("{header}\"{}", "x\n".repeat(MAX_ROW));
    assert_eq!(
        problem(open.as_bytes()),
        "line 2: a record is longer than 1 MiB: is a quote never closed?"
    );
    let fits = format!("{header}\"{}\"\n2,t\n", "x".repeat(MAX_ROW - 8));
    assert_eq!(all(fits.as_bytes(), None).unwrap().len(), 2);
}

#[test]
fn a_header_has_at_most_1024_columns() {
    let header = |columns: usize| {
        let names: Vec<String> = (2..columns).map(|number| format!("c{number}")).collect();
        format!("event_id,timestamp,{}\n", names.join(","))
    };
    assert!(all(header(MAX_COLUMNS).as_bytes(), None).is_ok());
    assert!(problem(header(MAX_COLUMNS + 1).as_bytes()).contains("more than 1024 columns"));
}
