//! What reading an event for an answer takes.

use super::*;

/// 2 million events of 20 tenants over 9 days, as dense as 20 million over 90: a tenant's 3 days
/// are then 33,000 events, and its 9 days 100,000.
#[tokio::test]
#[ignore = "takes a minute and a release build: cargo nextest run --release --run-ignored only analytics::tests::figure"]
async fn the_time_for_an_event() {
    let dir = tempfile::tempdir().unwrap();
    let store = open(dir.path());
    let mut random = fastrand::Rng::with_seed(1);
    let start = time("2026-08-01T00:00:00Z").micros.as_micros();
    let (count, span) = (2_000_000_i64, 9 * 86_400_000_000_i64);
    let note: String = (0..4096).map(|_| random.alphanumeric()).collect();
    let mut id = 0_i64;
    while id < count {
        let events: Vec<_> = (0..5_000)
            .map(|_| {
                id += 1;
                let country = ["UA", "PL", "DE", "US", "FR"][random.usize(..5)];
                let at = random.usize(..4000);
                let payload = format!(
                    r#"{{"path":"/shop/item/{}","amount":{}.5,"currency":"EUR","country":"{country}","note":"{}"}}"#,
                    random.u32(..100_000),
                    random.u32(..1000),
                    &note[at..at + 48],
                );
                let mut event = event(0, &format!("user-{}", random.u32(..50_000)), "2026-08-01T00:00:00Z", payload);
                event.id = uuid::Uuid::from_u128(random.u128(..)).to_string().into();
                event.tenant = format!("tenant-{:02}", random.u32(..20)).into();
                let micros = start + span / count * id + random.i64(0..1_000_000);
                event.time.micros = Timestamp::from_micros(micros);
                event
            })
            .collect();
        append(&store, &events).await;
    }
    while store.pack().await.unwrap() {}
    let clock = Clock::system();
    let analytics = Analytics::new(store, clock.clone());
    for (what, tenant, days) in [
        ("a tenant's 3 days", Some("tenant-07"), 3),
        ("a tenant's 9 days", Some("tenant-07"), 9),
        ("all tenants' 3 days", None, 3),
        ("all tenants' 9 days", None, 9),
    ] {
        let range = (
            Some(time("2026-08-01T00:00:00Z")),
            Some(time(&format!("2026-08-{:02}T00:00:00Z", days + 1))),
        );
        let mut took = Vec::new();
        let mut counted = 0;
        for _ in 0..20 {
            let scope = Scope {
                tenant: tenant.map(str::to_owned),
                ..of_country("UA")
            };
            let begun = clock.now().mono;
            let answer = analytics.buckets(scope, range, BucketSize::Day, TimeZone::UTC);
            counted = answer.await.unwrap().iter().map(|it| it.count).sum();
            took.push(clock.now().mono.saturating_sub(begun));
        }
        took.sort_unstable();
        let of = 5 * counted;
        let each = took[10].as_nanos() / u128::from(of);
        let (middle, worst) = (took[10], took[19]);
        eprintln!("{what}: {counted} of {of} match, {middle:?}, at most {worst:?}, {each} ns each");
    }
}
