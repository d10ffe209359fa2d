use std::ops::ControlFlow;

use tempfile::TempDir;

use super::super::samples::event;
use super::*;
use crate::model::event::{EventTime, ScanQuery};
use crate::model::time::Timestamp;
use crate::store::embedded::meta::TABLES;
use crate::store::embedded::schema::{self, DATABASE, tests::create_format};

const KEY: Key = Key([7; 16]);

fn query(tenant: &str, from: i64) -> ScanQuery {
    ScanQuery {
        tenant: Some(tenant.to_owned()),
        source: None,
        event_types: Vec::new(),
        from: Some(EventTime {
            micros: Timestamp::from_micros(from),
            nanos: 0,
        }),
        to: None,
        payloads: true,
        limit: u64::MAX,
    }
}

/// What is found of the events of `tenant` from this time on: by row, so many events, or times.
fn found(db: &Connection, tenant: &str, from: i64) -> Vec<(i64, Result<usize, Vec<i64>>)> {
    let mut found = Vec::new();
    span::each_of(db, &query(tenant, from), |span| {
        found.push((
            span.id,
            match find(db, span.id)?.known().unwrap() {
                Known::Events(events) => Ok(events.len()),
                Known::Times(times) => Err(times.to_vec()),
            },
        ));
        Ok(ControlFlow::Continue(()))
    })
    .unwrap();
    found
}

fn remains(events: &[Event<'static>]) -> Vec<Remains> {
    let keys = (KEY, KEY.of_users());
    let numbered = (1..).zip(events);
    let of = numbered.map(|(number, event)| Remains::of(keys, Sequence(number), event));
    of.collect()
}

fn connect(dir: &TempDir) -> Connection {
    schema::open_writer(&dir.path().join(DATABASE)).unwrap()
}

/// A store with two rows: of tenants `a` and `b` at 1 to 3, and of `c` at 5.
fn two_rows() -> (TempDir, Connection, Meta) {
    let dir = tempfile::tempdir().unwrap();
    schema::create(dir.path()).unwrap();
    let (db, mut meta) = (connect(&dir), Meta::default());
    let events = [event("b", 1, 3), event("a", 2, 1), event("b", 3, 2)];
    for events in [&events[..], &[event("c", 4, 5)]] {
        insert(&db, &mut meta, &mut Digest::default(), &remains(events)).unwrap();
    }
    (dir, db, meta)
}

#[test]
fn rows_are_found_by_tenant_and_time() {
    let (_dir, db, meta) = two_rows();
    span::check(&db, &meta).unwrap();
    assert_eq!(found(&db, "a", 0), [(1, Ok(3))]);
    assert_eq!(found(&db, "b", 3), [(1, Ok(3))]);
    assert_eq!(found(&db, "b", 4), []);
    assert_eq!(found(&db, "c", 5), [(2, Ok(1))]);
    let all = ScanQuery {
        tenant: None,
        limit: 127,
        ..query("", 0)
    };
    assert_eq!(span::all_of(&db, &all).unwrap(), None);
    let all = ScanQuery { limit: 128, ..all };
    let ids: Vec<i64> = span::all_of(&db, &all)
        .unwrap()
        .unwrap()
        .iter()
        .map(|it| it.id)
        .collect();
    assert_eq!(ids, [2, 1], "the last time first");
}

#[test]
fn damage_is_told() {
    for wrong in [
        "DELETE FROM spent_span WHERE id = 1",
        "UPDATE spent_span SET last_time = 2 WHERE id = 1",
        "UPDATE spent_span SET first_tenant = 'b' WHERE id = 1",
        "UPDATE spent_span SET first_tenant = NULL, last_tenant = NULL",
    ] {
        let (_dir, db, meta) = two_rows();
        db.execute_batch(wrong).unwrap();
        assert!(span::check(&db, &meta).is_err(), "{wrong}");
    }
    let (_dir, db, _) = two_rows();
    db.execute_batch("UPDATE spent SET facts = zeroblob(9) WHERE id = 1")
        .unwrap();
    assert!(find(&db, 1).is_err());
    assert!(find(&db, 2).is_ok());
    assert!(find(&db, 3).is_err(), "it isn't there");
}

#[test]
fn an_older_store_gets_its_spans() {
    let dir = tempfile::tempdir().unwrap();
    create_format(dir.path(), 4);
    let path = dir.path().join(DATABASE);
    {
        let (_new, db, _) = two_rows();
        let attach = "ATTACH ?1 AS old";
        db.execute(attach, [path.to_str().unwrap()]).unwrap();
        db.execute_batch("INSERT INTO old.spent SELECT * FROM main.spent")
            .unwrap();
    }
    let db = connect(&dir);
    let mut meta = Meta::load(&db, 10).unwrap();
    let mut digest = Digest::default();
    // A row of a version that kept nothing but identities.
    let bytes: Vec<u8> = [(9, 10_i64), (8, 20)]
        .iter()
        .flat_map(|(of, time)| {
            let identity = u128::to_le_bytes(*of);
            [&identity[..], &time.to_le_bytes(), &[0; 4]].concat()
        })
        .collect();
    let sum = checksum(&bytes, None);
    let row = params![7, sum, digest_of(&mut digest, 7, sum), bytes];
    let older = "INSERT INTO spent (last_sequence, checksum, digest, identities)
                 VALUES (?1, ?2, ?3, ?4)";
    db.execute(older, row).unwrap();
    let mut statement = db.prepare("SELECT digest FROM spent").unwrap();
    let digests = statement.query_map([], |row| row.get(0)).unwrap();
    digests.for_each(|digest| meta.tally(Table::Spent).add(digest.unwrap()));
    drop(statement);
    meta.save(&db, 10).unwrap();
    drop(db);
    schema::migrate(&path, 4).unwrap();
    let db = connect(&dir);
    span::check(&db, &Meta::load(&db, TABLES).unwrap()).unwrap();
    let unknown = (3, Err(vec![10, 20]));
    assert_eq!(found(&db, "a", 0), [unknown.clone(), (1, Ok(3))]);
    assert_eq!(found(&db, "c", 5), [unknown.clone(), (2, Ok(1))]);
    assert_eq!(found(&db, "nobody", 20), [unknown]);
    assert_eq!(found(&db, "nobody", 21), []);
}
