use super::*;
use crate::model::event::{DEFAULT_TENANT, MAX_NAME, MAX_PAYLOAD};
use crate::model::offence::Offence;

const TIME: &str = "2026-11-21T04:11:21.5Z";

fn request(format: Format, route: Route) -> Request {
    Request {
        format,
        route,
        max: 3,
        partial: false,
    }
}

const LIST: Request = Request {
    format: Format::Json,
    route: Route::Bulk,
    max: 3,
    partial: false,
};

fn partial(request: Request) -> Request {
    Request {
        partial: true,
        ..request
    }
}

fn read<'a>(body: &'a str, request: &Request) -> Parsed<'a> {
    parse(body.as_bytes(), request).unwrap_or_else(|refusal| panic!("{body}: {refusal:?}"))
}

/// Pointers with codes.
fn offences(body: &str, request: &Request) -> Vec<String> {
    match parse(body.as_bytes(), request) {
        Err(Refusal::Invalid(offences)) => listed(&offences),
        other => panic!("{body}: {other:?}"),
    }
}

fn listed(offences: &Offences) -> Vec<String> {
    let json = |offence: &Offence| serde_json::to_value(offence).unwrap();
    offences
        .listed()
        .iter()
        .map(json)
        .map(|it| format!("{} {}", it["pointer"], it["code"]).replace('"', ""))
        .collect()
}

/// `{"event_id":"1","timestamp":...}` with more members.
fn minimal(more: &str) -> String {
    format!(r#"{{"event_id":"1","timestamp":"{TIME}"{more}}}"#)
}

#[test]
fn borrows_every_field_of_a_list() {
    let body = format!(
        r#" [{{"event_id":"e1","occurred_at":"{TIME}","topic":"t","tenant_id":"n","source":"s",
          "event_type":"click","user_id":"u","properties":{{ "b" : 1.00,"a":[ ] }},
          "x":{{"y":1.0}},"a/b":null}},{}]"#,
        minimal("")
    );
    let parsed = fast::parse(&body, &LIST).unwrap();
    assert!(!parsed.single);
    let [full, least] = &parsed.events[..] else {
        panic!("{parsed:?}");
    };
    for text in [&full.id, &full.topic, &full.tenant, &full.payload] {
        assert!(matches!(text, Cow::Borrowed(_)), "{text}");
    }
    assert_eq!(full.id, "e1");
    assert_eq!(full.time.to_string(), TIME);
    assert_eq!(full.source.as_deref(), Some("s"));
    assert_eq!(full.event_type.as_deref(), Some("click"));
    assert_eq!(full.user.as_deref(), Some("u"));
    assert_eq!(full.payload, r#"{ "b" : 1.00,"a":[ ] }"#);
    assert_eq!(full.extra, r#"{"x":{"y":1.0},"a/b":null}"#);
    assert_eq!(least.tenant, DEFAULT_TENANT);
    assert_eq!(
        (&*least.topic, &*least.payload, &*least.extra),
        ("", "{}", "")
    );
    assert_eq!(
        (&least.source, &least.event_type, &least.user),
        (&None, &None, &None)
    );
}

#[test]
fn both_ways_agree_on_good_bodies() {
    let full = minimal(
        r#","topic":"t","source":"s","payload":{"a":"\u00fc"},"event_type":"\u0041","tenant_id":"ü","k\n":1"#,
    );
    let cloud = format!(
        r#"{{"specversion":"1.0","id":"1","source":"/s","type":"t","time":"{TIME}","data":{{}},"subject":"x"}}"#
    );
    for (format, body) in [
        (Format::Json, full.clone()),
        (Format::Json, format!("[{full},{full}]")),
        (Format::Json, format!(r#"{{"events":[{full}]}}"#)),
        (Format::Ndjson, format!("{full}\r\n\n  \n{full}")),
        (Format::CloudEvent, cloud.clone()),
        (Format::CloudEvents, format!("[{cloud}]")),
    ] {
        for route in [Route::Events, Route::Publish] {
            let request = request(format, route);
            let fast = fast::parse(&body, &request);
            assert!(fast.is_some(), "{body}");
            assert_eq!(fast, careful::parse(&body, &request).ok(), "{body}");
        }
    }
}

#[test]
fn each_route_asks_for_its_fields() {
    let alone = request(Format::Json, Route::Events);
    assert_eq!(
        offences(&minimal(""), &alone),
        ["/event_type missing_field", "/tenant_id missing_field"]
    );
    for owner in [r#","user_id":"u""#, r#","tenant_id":"t""#] {
        let parsed = minimal(&format!(r#","event_type":"c"{owner}"#));
        assert!(read(&parsed, &alone).single);
    }
    // In a list the time and the identifier are enough.
    assert_eq!(read(&format!("[{}]", minimal("")), &alone).events.len(), 1);
    assert_eq!(
        read(&minimal(""), &request(Format::Ndjson, Route::Events))
            .events
            .len(),
        1
    );
    let publish = request(Format::Json, Route::Publish);
    assert_eq!(
        offences(&format!("[{}]", minimal("")), &publish),
        [
            "/0/topic missing_field",
            "/0/source missing_field",
            "/0/payload missing_field"
        ]
    );
    assert_eq!(
        offences("{}", &publish),
        [
            "/event_id missing_field",
            "/timestamp missing_field",
            "/topic missing_field",
            "/source missing_field",
            "/payload missing_field"
        ]
    );
    assert_eq!(offences(&minimal(""), &LIST), ["/events missing_field"]);
}

#[test]
fn names_every_bad_value_with_its_pointer() {
    let long = "x".repeat(MAX_NAME + 1);
    let large = format!(r#"{{"a":"{}"}}"#, "x".repeat(MAX_PAYLOAD - 7));
    for (more, expected) in [
        (r#","event_id":"2""#.to_owned(), "/event_id duplicate_field"),
        (
            format!(r#","occurred_at":"{TIME}""#),
            "/occurred_at duplicate_field",
        ),
        (
            r#","payload":{},"properties":{}"#.to_owned(),
            "/properties duplicate_field",
        ),
        (r#","x":1,"x":1"#.to_owned(), "/x duplicate_field"),
        (r#","topic":"""#.to_owned(), "/topic empty"),
        (r#","topic":" \u2003""#.to_owned(), "/topic blank"),
        (format!(r#","source":"{long}""#), "/source too_long"),
        (r#","source":1"#.to_owned(), "/source wrong_type"),
        (r#","user_id":null"#.to_owned(), "/user_id wrong_type"),
        (
            r#","user_id":"\ud800""#.to_owned(),
            "/user_id invalid_string",
        ),
        (r#","\ud800":1"#.to_owned(), " invalid_string"),
        (r#","payload":[]"#.to_owned(), "/payload wrong_type"),
        (r#","payload":null"#.to_owned(), "/payload wrong_type"),
        (format!(r#","payload":{large}"#), "/payload too_long"),
        (
            format!(r#","a~/b":"{}""#, "x".repeat(MAX_EXTRA)),
            "/a~0~1b too_long",
        ),
    ] {
        let body = format!("[{}]", minimal(&more));
        assert_eq!(
            offences(&body, &LIST),
            [format!("/0{expected}")],
            "{more:.80}"
        );
        assert_eq!(fast::parse(&body, &LIST), None, "{more:.80}");
    }
    for (body, expected) in [
        (
            r#"{"event_id":"","timestamp":"soon"}"#,
            &["/event_id empty", "/timestamp unparseable_date"][..],
        ),
        (
            r#"{"event_id":7,"timestamp":7}"#,
            &["/event_id wrong_type", "/timestamp wrong_type"],
        ),
        ("7", &[" wrong_type"]),
    ] {
        let expected: Vec<_> = expected.iter().map(|it| format!("/events/0{it}")).collect();
        assert_eq!(
            offences(&format!(r#"{{"events":[{body}]}}"#), &LIST),
            expected
        );
    }
    // At the bounds, and not past them.
    let most = "x".repeat(MAX_NAME);
    let payload = format!(r#"{{"a":"{}"}}"#, "x".repeat(MAX_PAYLOAD - 8));
    let body = minimal(&format!(r#","source":"{most}","payload":{payload}"#));
    assert_eq!(read(&format!("[{body}]"), &LIST).events[0].payload, payload);
}

#[test]
fn a_body_of_the_wrong_shape_says_what_it_should_be() {
    let alone = request(Format::Json, Route::Events);
    let one = minimal("");
    for (request, body, expected) in [
        (alone, "7".to_owned(), &[" wrong_type"][..]),
        (alone, "[]".to_owned(), &[" empty"]),
        (LIST, r#"{"events":[]}"#.to_owned(), &["/events empty"]),
        (LIST, r#"{"events":{}}"#.to_owned(), &["/events wrong_type"]),
        (
            LIST,
            format!(r#"{{"events":[{one}],"x":1}}"#),
            &["/x unknown_field"],
        ),
        (
            LIST,
            format!(r#"{{"events":[{one}],"events":[]}}"#),
            &["/events duplicate_field"],
        ),
        (
            LIST,
            r#"{"events":[],"\ud800":1}"#.to_owned(),
            &[" invalid_string"],
        ),
        (LIST, "{}".to_owned(), &["/events missing_field"]),
        (
            request(Format::Ndjson, Route::Bulk),
            " \n ".to_owned(),
            &[" empty"],
        ),
        (
            request(Format::CloudEvent, Route::Events),
            "[]".to_owned(),
            &[" wrong_type"],
        ),
        (
            request(Format::Json, Route::Again),
            "[]".to_owned(),
            &[" wrong_type"],
        ),
        (
            request(Format::CloudEvents, Route::Events),
            "{}".to_owned(),
            &[" wrong_type"],
        ),
    ] {
        assert_eq!(offences(&body, &request), expected, "{body}");
    }
    // An event may have a key `events` of its own.
    let body = minimal(r#","events":[1],"event_type":"c","user_id":"u""#);
    let parsed = read(&body, &alone);
    assert_eq!(parsed.events[0].extra, r#"{"events":[1]}"#);
    let body = format!(
        r#"{{"events":[],"event_id":"1","timestamp":"{TIME}","event_type":"c","user_id":"u"}}"#
    );
    assert_eq!(read(&body, &alone).events[0].extra, r#"{"events":[]}"#);
}

#[test]
fn too_many_are_refused_and_as_many_as_may_be_are_taken() {
    let one = minimal("");
    for (format, route, separator) in [
        (Format::Json, Route::Bulk, ","),
        (Format::Ndjson, Route::Events, "\n"),
    ] {
        let request = request(format, route);
        let body = |count| {
            let all = vec![&*one; count].join(separator);
            match format {
                Format::Json => format!("[{all}]"),
                _ => all,
            }
        };
        assert_eq!(read(&body(3), &request).events.len(), 3);
        for request in [request, partial(request)] {
            let refusal = parse(body(4).as_bytes(), &request).unwrap_err();
            let (count, max, pointer) = (4, 3, "");
            assert_eq!(
                refusal,
                Refusal::TooMany {
                    count,
                    max,
                    pointer
                }
            );
        }
    }
}

#[test]
fn what_is_no_json_is_malformed() {
    let deep = |depth: usize| {
        let (open, close) = ("[".repeat(depth), "]".repeat(depth));
        format!(
            "[{}]",
            minimal(&format!(r#","payload":{{"a":{open}{close}}}"#))
        )
    };
    // The list, the event and the payload are three more.
    assert_eq!(read(&deep(125), &LIST).events.len(), 1);
    let one = minimal("");
    for body in [
        String::new(),
        " ".to_owned(),
        "[".to_owned(),
        format!("[{one}"),
        format!("[{one}] []"),
        format!("[{one},]"),
        deep(126),
        deep(100_000),
    ] {
        let refusal = parse(body.as_bytes(), &LIST);
        assert!(matches!(refusal, Err(Refusal::Malformed(_))), "{body:.99}");
    }
    let latin = parse(b"[\"\xff\"]", &LIST);
    assert_eq!(
        latin,
        Err(Refusal::Malformed("byte 2 is not UTF-8".to_owned()))
    );
    let lines = request(Format::Ndjson, Route::Bulk);
    let body = format!("{one}\n{{\n");
    let refusal = parse(body.as_bytes(), &lines);
    let Err(Refusal::Malformed(reason)) = refusal else {
        panic!("{refusal:?}");
    };
    assert!(reason.starts_with("line 1 "), "{reason}");
}

#[test]
fn a_cloud_event_is_an_event_under_other_names() {
    let request = request(Format::CloudEvent, Route::Events);
    let body = format!(
        r#"{{"specversion":"1.0","id":"A-1","source":"/s","type":"com.x","time":"{TIME}","userid":"u",
        "tenantid":"n","topic":"t","subject":"k","datacontenttype":"application/json","data":{{"a":1}}}}"#
    );
    let parsed = read(&body, &request);
    let event = &parsed.events[0];
    assert!(parsed.single);
    assert_eq!(
        (&*event.id, &*event.tenant, &*event.topic),
        ("A-1", "n", "t")
    );
    assert_eq!(event.event_type.as_deref(), Some("com.x"));
    assert_eq!(event.user.as_deref(), Some("u"));
    assert_eq!(event.payload, r#"{"a":1}"#);
    assert_eq!(
        event.extra,
        r#"{"specversion":"1.0","subject":"k","datacontenttype":"application/json"}"#
    );
    let with = |data: &str, version: &str| {
        format!(
            r#"{{"id":"1","source":"s","type":"t","time":"{TIME}","specversion":{version}{data}}}"#
        )
    };
    // Null says that an attribute is not there.
    let body = with(r#","data":null,"subject":null"#, r#""1.0""#);
    let parsed = read(&body, &request).events.remove(0);
    assert_eq!(
        (&*parsed.payload, &*parsed.extra),
        ("{}", r#"{"specversion":"1.0","subject":null}"#)
    );
    for (data, version, expected) in [
        (r#","data":"text""#, r#""1.0""#, "/data wrong_type"),
        ("", r#""0.3""#, "/specversion unknown_value"),
        ("", "1.0", "/specversion wrong_type"),
        ("", "null", "/specversion missing_field"),
    ] {
        assert_eq!(offences(&with(data, version), &request), [expected]);
    }
    assert_eq!(
        offences("{}", &request),
        [
            "/id missing_field",
            "/type missing_field",
            "/time missing_field",
            "/source missing_field",
            "/specversion missing_field"
        ]
    );
}

#[test]
fn a_request_for_the_good_ones_gets_them_and_the_others_apart() {
    let good = minimal("");
    let bad = r#"{"event_id":"b","timestamp":7}"#;
    let body = format!(r#"{{"events":[{bad},{good},7]}}"#);
    let parsed = read(&body, &partial(LIST));
    assert_eq!(parsed.events.len(), 1);
    let [first, last] = &parsed.refused[..] else {
        panic!("{parsed:?}");
    };
    assert_eq!(
        (first.index, &*first.pointer, first.body),
        (0, "/events/0", bad)
    );
    assert_eq!(first.id.as_deref(), Some("b"));
    assert_eq!(listed(&first.offences), ["/timestamp wrong_type"]);
    assert_eq!((last.index, last.body, &last.id), (2, "7", &None));
    // A line that is no JSON is that line's own fault.
    let lines = partial(request(Format::Ndjson, Route::Bulk));
    let body = format!("\n{good}\n{{oops\n");
    let parsed = read(&body, &lines);
    let refused = &parsed.refused[0];
    assert_eq!(
        (refused.index, &*refused.pointer, refused.body),
        (1, "/2", "{oops")
    );
    assert_eq!(listed(&refused.offences), [" malformed_json"]);
}

#[test]
fn a_hundred_offences_are_listed_and_all_are_counted() {
    let request = Request { max: 1000, ..LIST };
    let body = format!("[{}]", vec!["{}"; 75].join(","));
    let Err(Refusal::Invalid(offences)) = parse(body.as_bytes(), &request) else {
        panic!("it was taken");
    };
    assert_eq!(offences.listed().len(), 100);
    assert_eq!(offences.count(), Some(150));
}

#[test]
fn the_careful_way_takes_all_that_the_fast_way_takes() {
    let event = |id: &str| {
        format!(
            r#"{{"event_id":"{id}","timestamp":"{TIME}","topic":"t","source":"s","payload":{{"a":[1,"\u00fc"]}},"x":null,"event_type":"c","user_id":"u"}}"#
        )
    };
    let cloud = format!(
        r#"{{"specversion":"1.0","id":"1","source":"s","type":"t","time":"{TIME}","data":{{"a":1}}}}"#
    );
    let list = format!("[{},{}]", event("1"), event("2"));
    let bodies = [
        (Format::Json, event("1")),
        (Format::Json, list.clone()),
        (Format::Json, format!(r#"{{"events":{list}}}"#)),
        (Format::Ndjson, format!("{}\n{}\n", event("1"), event("2"))),
        (Format::CloudEvent, cloud.clone()),
        (Format::CloudEvents, format!("[{cloud}]")),
    ];
    let parts = [
        "\"", "\\", "{", "}", "[", "]", ",", ":", " ", "\n", "null", "1", "events", "event_id",
        "\\ud800", "time", "\"a\":1,",
    ];
    let mut rng = fastrand::Rng::with_seed(11);
    let (mut taken, mut refused) = (0, 0);
    for round in 0..30_000 {
        let (format, body) = &bodies[rng.usize(..bodies.len())];
        let mut body = body.clone();
        for _ in 0..rng.usize(0..3) {
            let from = body.floor_char_boundary(rng.usize(..body.len()));
            let to = body.ceil_char_boundary((from + rng.usize(0..12)).min(body.len()));
            body.replace_range(from..to, parts[rng.usize(..parts.len())]);
        }
        let routes = [Route::Events, Route::Bulk, Route::Publish, Route::Again];
        let mut request = request(*format, routes[rng.usize(..4)]);
        request.partial = rng.bool();
        let fast = fast::parse(&body, &request);
        let careful = careful::parse(&body, &request);
        match &fast {
            Some(_) => {
                taken += 1;
                assert_eq!(careful.ok(), fast, "round {round}: {body}");
            }
            None => refused += 1,
        }
    }
    assert!(
        taken > 1000 && refused > 1000,
        "{taken} taken, {refused} refused"
    );
}

/// Prints how fast good events are parsed, and how fast bad ones.
#[test]
#[ignore = "a figure, for a release build on a calm machine"]
#[allow(
    clippy::print_stderr,
    clippy::disallowed_methods,
    clippy::cast_precision_loss
)]
fn figure() {
    let event = |n: usize| {
        format!(
            r#"{{"event_id":"01936f5e-7c1a-7d3a-b5f0-{n:012x}","timestamp":"2026-11-21T04:11:21.{:06}Z","tenant_id":"tenant-{}","event_type":"page_view","user_id":"user-{n}","payload":{{"path":"/products/{n}","referrer":"https://example.org/{n:x}","ms":{}}}}}"#,
            n % 1_000_000,
            n % 50,
            n * 7 % 1000
        )
    };
    let events: Vec<_> = (0..5000).map(event).collect();
    let good = format!("[{}]", events.join(","));
    let bad = good.replacen("event_type", "event_id", 1);
    let request = Request { max: 5000, ..LIST };
    for (name, body) in [("good", &good), ("bad", &bad)] {
        let start = std::time::Instant::now();
        let rounds = 100;
        for _ in 0..rounds {
            let taken = parse(body.as_bytes(), &request).is_ok();
            assert_eq!(taken, name == "good");
        }
        let seconds = start.elapsed().as_secs_f64();
        eprintln!(
            "{name}: {:.0} bytes an event, {:.2} M events/s",
            body.len() as f64 / 5000.0,
            5000.0 * f64::from(rounds) / seconds / 1e6
        );
    }
}
