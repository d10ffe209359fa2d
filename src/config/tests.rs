use std::ffi::OsString;

use super::*;
use crate::model::queue::ProcessorSettings;

/// Settings from a file's `[default.tollgate]` part and variables, and nothing of this process.
fn load(file: &str, variables: &[(&str, &str)]) -> Result<Settings, String> {
    load_whole(&format!("[default.tollgate]\n{file}"), variables)
}

fn load_whole(file: &str, variables: &[(&str, &str)]) -> Result<Settings, String> {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("Rocket.toml");
    std::fs::write(&path, file).unwrap();
    let variables = variables
        .iter()
        .map(|(name, value)| (OsString::from(name), OsString::from(value)));
    let figment = with_variables(base(Toml::file_exact(&path)), variables);
    Settings::load(figment)
        .map(|(_, settings)| settings)
        .map_err(|error| {
            // The file is shown relative to the current folder where that is near: drop the way to it.
            let message = error.to_string();
            match message
                .split_once("set in ")
                .zip(message.split_once("Rocket.toml"))
            {
                Some(((before, _), (_, after))) => format!("{before}set in Rocket.toml{after}"),
                None => message,
            }
        })
}

fn default_queue(settings: &Settings) -> &QueueSettings {
    &settings.queues[&QueueName::try_from("default".to_owned()).unwrap()]
}

#[test]
fn an_empty_file_gives_the_defaults() {
    let settings = load("", &[]).unwrap();
    assert_eq!(settings.data_dir, PathBuf::from("./data"));
    assert!(!settings.accept_loss);
    assert_eq!(settings.keep_ended, Duration::from_hours(1));
    assert_eq!(settings.retention, Duration::from_hours(30 * 24));
    assert_eq!(settings.max_body, 16 << 20);
    assert_eq!(settings.events, EventsSettings::default());
    assert_eq!(settings.log, LogFormat::Text);
    assert_eq!(settings.log_level, Level::INFO);
    assert_eq!(settings.quota, QuotaSettings::default());
    assert_eq!(settings.queues.len(), 1);
    assert_eq!(*default_queue(&settings), QueueSettings::default());
}

#[test]
fn what_the_file_shows_as_defaults_are_the_defaults() {
    // Every commented line that sets something, as if it were not a comment.
    let shown: String = BUILT_IN
        .lines()
        .map(|line| match line.strip_prefix("# ") {
            Some(setting) if setting.starts_with('[') || setting.contains(" = ") => setting,
            _ => line,
        })
        .filter(|line| {
            ![
                "upstream",
                "seed",
                "acme",
                "after",
                "dir",
                "enabled",
                "requests",
                "per",
                "url",
                "read_url",
                "replicas",
                "max_bytes",
                "max_deliver",
            ]
            .iter()
            .any(|it| line.starts_with(it))
        })
        .flat_map(|line| [line, "\n"])
        .collect();
    let from_file = load_whole(&shown, &[]).unwrap();
    let built_in = load("", &[]).unwrap();
    assert_eq!(format!("{from_file:?}"), format!("{built_in:?}"));
    assert!(shown.contains("\nmax_doublings = 10\n"), "{shown}");
}

#[test]
fn reads_every_setting_of_a_queue() {
    let settings = load(
        r#"
        data_dir = "/srv/t"
        keep_ended = "10m"
        max_body = 2048
        log_format = "json"
        [default.tollgate.queues.mail]
        interval = "20ms"
        batch_size = 1000
        max_in_flight = 4
        pack_slots = true
        max_waiting = 9
        processor = "http"
        upstream = "http://h:1/{id}"
        connect_timeout = "1s"
        timeout = "1m 30s"
        max_response = "64KiB"
        retry = { max_attempts = 2, min_backoff = "1s", max_backoff = "2s", max_doublings = 3 }
        "#,
        &[],
    )
    .unwrap();
    assert_eq!((settings.max_body, settings.log), (2048, LogFormat::Json));
    let mail = &settings.queues[&QueueName::try_from("mail".to_owned()).unwrap()];
    assert_eq!(mail.interval, Duration::from_millis(20));
    assert_eq!(mail.batch_size.get(), 1000);
    assert_eq!(mail.max_in_flight.get(), 4);
    assert!(mail.pack_slots);
    assert_eq!(mail.max_waiting, 9);
    assert_eq!(mail.retry.max_attempts.get(), 2);
    assert_eq!(mail.retry.max_backoff, Duration::from_secs(2));
    let ProcessorSettings::Http(http) = &mail.processor else {
        panic!("{:?}", mail.processor);
    };
    assert_eq!(http.upstream.as_str(), "http://h:1/{id}");
    assert_eq!(http.connect_timeout, Duration::from_secs(1));
    assert_eq!(http.timeout, Duration::from_secs(90));
    assert_eq!(http.max_response, 64 << 10);
    assert_eq!(*default_queue(&settings), QueueSettings::default());
}

#[test]
fn the_environment_wins_over_the_file() {
    let file = "[default.tollgate.queues.default]\ninterval = \"7s\"\nbatch_size = 4";
    let settings = load(
        file,
        &[
            ("TOLLGATE_QUEUES__DEFAULT__INTERVAL", "20ms"),
            (
                "TOLLGATE_QUEUES__DEFAULT__SIMULATE__SEED",
                "18446744073709551615",
            ),
            ("TOLLGATE_QUEUES__MAIL_2__MAX_IN_FLIGHT", "2"),
            ("TOLLGATE_DATA_DIR", "5"),
            ("TOLLGATE_ACCEPT_LOSS", "true"),
            ("TOLLGATE_SERVER", "http://127.0.0.1:1"),
            ("HOME", "/root"),
        ],
    )
    .unwrap();
    let queue = default_queue(&settings);
    assert_eq!(queue.interval, Duration::from_millis(20));
    assert_eq!(queue.batch_size.get(), 4);
    let ProcessorSettings::Simulate(simulate) = &queue.processor else {
        panic!("{:?}", queue.processor);
    };
    assert_eq!(simulate.seed, Some(u64::MAX));
    assert_eq!(settings.data_dir, PathBuf::from("5"));
    assert!(settings.accept_loss);
    assert_eq!(settings.queues.len(), 2);
}

#[test]
fn a_later_layer_wins_over_the_environment() {
    let figment = with_variables(
        base(Toml::string("")),
        [("TOLLGATE_DATA_DIR".into(), "from-env".into())],
    );
    let (figment, settings) =
        Settings::load(set(figment, "--data-dir", "tollgate.data_dir", "mine")).unwrap();
    assert_eq!(settings.data_dir, PathBuf::from("mine"));
    let figment = set(figment, "--data-dir", "tollgate.data_dir", "");
    let error = Settings::load(figment).unwrap_err();
    assert_eq!(
        error.to_string(),
        r#"data_dir (set by --data-dir): "" is not allowed; a directory is"#
    );
}

#[test]
#[expect(clippy::too_many_lines, reason = "a table")]
fn a_bad_value_in_the_file_is_named_with_what_is_allowed() {
    let queue = |line: &str| format!("[default.tollgate.queues.default]\n{line}");
    let interval =
        "allowed: a duration from 1ms to 1d, such as \"20ms\", \"5s\", \"1h 30m\" or \"30d\"";
    let table = [
        (
            "colour = 1".to_owned(),
            "colour (set in Rocket.toml): there is no such setting; allowed here: accept_loss, bus, \
             data_dir, events, keep_ended, log_format, log_level, max_body, queues, quota, \
             retention, store"
                .to_owned(),
        ),
        (
            queue("intervall = \"5s\""),
            "queues.default.intervall (set in Rocket.toml): there is no such setting; allowed \
             here: batch_size, connect_timeout, interval, max_in_flight, max_response, \
             max_waiting, pack_slots, processor, retry, simulate, timeout, upstream"
                .to_owned(),
        ),
        (
            queue("interval = 5"),
            format!(
                "queues.default.interval (set in Rocket.toml): \"5\" is not allowed; {interval}"
            ),
        ),
        (
            queue("interval = \"25h\""),
            format!(
                "queues.default.interval (set in Rocket.toml): \"25h\" is not allowed; {interval}"
            ),
        ),
        (
            queue("interval = \"0s\""),
            format!(
                "queues.default.interval (set in Rocket.toml): \"0s\" is not allowed; {interval}"
            ),
        ),
        (
            queue("interval = [1]"),
            format!(
                "queues.default.interval (set in Rocket.toml): a list or table is not allowed; {interval}"
            ),
        ),
        (
            queue("batch_size = 1001"),
            "queues.default.batch_size (set in Rocket.toml): \"1001\" is not allowed; allowed: a \
             whole number from 1 to 1000"
                .to_owned(),
        ),
        (
            queue("processor = \"workers\""),
            "queues.default.processor (set in Rocket.toml): \"workers\" is not allowed; allowed: \
             simulate, http"
                .to_owned(),
        ),
        (
            queue("processor = \"http\""),
            "queues.default.processor (set in Rocket.toml): \"http\" needs `upstream` beside it, \
             such as \"http://127.0.0.1:9000/items/{id}\""
                .to_owned(),
        ),
        (
            queue("upstream = \"http://h/{id}\""),
            "queues.default.upstream (set in Rocket.toml): is used only with processor = \
             \"http\", which is not set"
                .to_owned(),
        ),
        (
            queue("retry = { min_backoff = \"2s\", max_backoff = \"1s\" }"),
            "queues.default.retry.min_backoff (set in Rocket.toml): must not be longer than \
             max_backoff"
                .to_owned(),
        ),
        (
            "queues = 5".to_owned(),
            "queues (set in Rocket.toml): is a table of settings, not a single value".to_owned(),
        ),
        (
            "[default.tollgate.queues.Mail]\nbatch_size = 1".to_owned(),
            "queues.Mail (set in Rocket.toml): \"Mail\" is no queue name: 1 to 64 of a-z, 0-9, - \
             and _ are allowed"
                .to_owned(),
        ),
        (
            "max_body = \"12 parsecs\"".to_owned(),
            "max_body (set in Rocket.toml): \"12 parsecs\" is not allowed; allowed: a size from \
             1KiB to 1GiB, such as \"64KiB\" or 65536"
                .to_owned(),
        ),
        (
            "retention = \"10m\"".to_owned(),
            "retention (set in Rocket.toml): retention must not be shorter than keep_ended"
                .to_owned(),
        ),
        (
            "log_level = \"loud\"".to_owned(),
            "log_level (set in Rocket.toml): \"loud\" is not allowed; allowed: error, warn, info, \
             debug, trace"
                .to_owned(),
        ),
    ];
    for (file, message) in table {
        assert_eq!(load(&file, &[]).unwrap_err(), message, "{file}");
    }
}

#[test]
fn a_bad_variable_is_named() {
    let table = [
        (
            ("TOLLGATE_QUEUES__DEFAULT__PACK_SLOTS", "yes"),
            "queues.default.pack_slots (set by TOLLGATE_QUEUES__DEFAULT__PACK_SLOTS): \"yes\" is \
             not allowed; allowed: true, false",
        ),
        (
            ("TOLLGATE_ACCEPT_LOSS__X", "true"),
            "accept_loss (set by TOLLGATE_ACCEPT_LOSS__X): a list or table is not allowed; \
             allowed: true, false",
        ),
        (
            ("TOLLGATE_", "1"),
            "tollgate (set by TOLLGATE_): is a table of settings, not a single value",
        ),
    ];
    for (variable, message) in table {
        assert_eq!(load("", &[variable]).unwrap_err(), message);
    }
}

#[test]
fn rocket_s_own_settings_are_checked_as_strictly() {
    let table = [
        (
            "[default]\nportt = 1",
            "portt (set in Rocket.toml): there is no such setting; allowed here: address, port, \
             workers, max_blocking, keep_alive, ident, ip_header, limits, temp_dir, log_level, \
             shutdown, cli_colors, tollgate",
        ),
        (
            "[default]\nport = 70000",
            "port (set in Rocket.toml): invalid value signed int `70000`, expected u16",
        ),
        (
            "[default",
            "the settings (set in Rocket.toml): TOML parse error at line 1, column 9: expected \
             `.`, `]`",
        ),
    ];
    for (file, message) in table {
        let error = load_whole(file, &[]).unwrap_err();
        assert!(!error.contains('\n'), "{error}");
        assert!(error.starts_with(message), "{error}\n{message}");
    }
}

#[test]
fn at_most_a_thousand_queues() {
    let file = |count: usize| {
        let tables: Vec<String> = (1..=count)
            .map(|n| format!("[default.tollgate.queues.q{n}]"))
            .collect();
        tables.join("\n")
    };
    assert_eq!(load(&file(999), &[]).unwrap().queues.len(), 1_000);
    let error = load(&file(1_000), &[]).unwrap_err();
    assert_eq!(
        error,
        "queues: at most 1000 queues are allowed, `default` included"
    );
    let error = load(&file(1_001), &[]).unwrap_err();
    assert!(error.contains("at most 1000 queues are allowed"), "{error}");
}

#[test]
fn the_bounds_of_events_can_be_set() {
    let settings = load(
        "[default.tollgate.events]\nmax_batch = 2",
        &[("TOLLGATE_EVENTS__MAX_PUBLISH", "1000000")],
    );
    let events = settings.unwrap().events;
    assert_eq!((events.max_batch, events.max_publish), (2, 1_000_000));
    let error = load("", &[("TOLLGATE_EVENTS__MAX_BULK", "0")]).unwrap_err();
    assert_eq!(
        error,
        "events.max_bulk (set by TOLLGATE_EVENTS__MAX_BULK): \"0\" is not allowed; \
         allowed: a whole number from 1 to 1000000"
    );
    let settings = load("[default.tollgate.events.retention]\nacme = \"90d\"", &[]);
    let retention = settings.unwrap().events.retention;
    assert_eq!(retention["acme"], Duration::from_hours(90 * 24));
    let error = load("[default.tollgate.events.retention]\nacme = \"1s\"", &[]).unwrap_err();
    assert!(error.starts_with("events.retention.acme"), "{error}");
    let error = load("[default.tollgate.events]\nbulk = 2", &[]).unwrap_err();
    assert!(error.starts_with("events.bulk"), "{error}");
}

#[test]
fn the_cold_tier_is_off_until_an_age_is_set() {
    let cold = |file: &str| {
        let settings = load(&format!("data_dir = \"d\"\n{file}"), &[])
            .map_err(|error| error.replace("events.cold.", ""));
        settings.map(|settings| settings.events.cold)
    };
    assert_eq!(cold(""), Ok(None));
    let after = |dir: &str| {
        Ok(Some(ColdSettings {
            after: DAY * 90,
            dir: dir.into(),
        }))
    };
    assert_eq!(cold("events.cold.after = \"90d\""), after("d/cold"));
    let both = "events.cold = { after = \"90d\", dir = \"/c\" }";
    assert_eq!(cold(both), after("/c"));
    let allowed = "is not allowed; allowed: a duration from 1d to 36500d, such as \"20ms\", \
                   \"5s\", \"1h 30m\" or \"30d\"";
    for (line, problem) in [
        ("after = \"23h\"", format!("\"23h\" {allowed}")),
        ("after = 90", format!("\"90\" {allowed}")),
        ("after = \"36501d\"", format!("\"36501d\" {allowed}")),
        (
            "dir = \"c\"",
            "is used only with after, which is not set".to_owned(),
        ),
        (
            "dir = \"\"",
            "\"\" is not allowed; a directory is".to_owned(),
        ),
        (
            "days = 90",
            "there is no such setting; allowed here: after, dir".to_owned(),
        ),
    ] {
        let (key, _) = line.split_once(' ').unwrap();
        let error = format!("{key} (set in Rocket.toml): {problem}");
        assert_eq!(cold(&format!("events.cold.{line}")), Err(error));
    }
}

#[test]
fn a_bus_is_set_by_its_url_and_never_shown_with_its_password() {
    assert_eq!(load("", &[]).unwrap().bus, None);
    let only = load("bus.url = \"nats://h\"", &[]).unwrap().bus.unwrap();
    assert_eq!(
        (only.replicas, only.max_bytes, only.max_deliver),
        (1, 1 << 30, 5)
    );
    let one = ("TOLLGATE_BUS__URL", "nats://me:secret@a:4222, tls://b");
    let settings = load("bus.max_bytes = \"2MiB\"\nbus.replicas = 3", &[one]).unwrap();
    let bus = settings.bus.unwrap();
    assert_eq!(bus.servers, ["nats://me:secret@a:4222", "tls://b"]);
    assert_eq!(
        (bus.replicas, bus.max_bytes, bus.max_deliver),
        (3, 2 << 20, 5)
    );
    assert!(!format!("{bus:?}").contains("secret"));
    for url in [
        "",
        "http://me:secret@a",
        "nats://me:secret@a,",
        "me:secret@a:4222",
    ] {
        let refused = load("", &[("TOLLGATE_BUS__URL", url)]).unwrap_err();
        assert!(
            refused.starts_with("bus.url (set by TOLLGATE_BUS__URL): is no URL"),
            "{refused}"
        );
        assert!(!refused.contains("secret"), "{refused}");
    }
    assert_eq!(
        load("bus.replicas = 3", &[]).unwrap_err(),
        "bus.replicas (set in Rocket.toml): is used only with url, which is not set"
    );
}
