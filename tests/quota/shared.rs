//! Buckets and `Idempotency-Key`s without a server around them, in the process and in a real Redis.

use std::time::Duration;

use tollgate::clock::Clock;
use tollgate::model::id::IngestionId;
use tollgate::model::quota::{QuotaSettings, Rate, RedisSettings, RedisUrl};
use tollgate::quota::claim::{Answer, Claim, Claimed};
use tollgate::quota::{Client, Quota, Shared};
use tollgate::telemetry::Metrics;

use crate::backing::Backing;
use crate::{PATIENCE, command, url};

async fn shared(redis: &Backing) -> Shared {
    let settings = QuotaSettings {
        rate: None,
        redis: Some(RedisSettings {
            url: RedisUrl::parse(&url(redis)).unwrap(),
            patience: PATIENCE,
        }),
    };
    let shared = Shared::connect(&settings, &Clock::system(), &Metrics::new()).unwrap();
    for _ in 0..6_000 {
        if shared.is_up() == Some(true) {
            return shared;
        }
        // sleep: the pause between two polls.
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    panic!("Redis is not found");
}

async fn claim(shared: &Shared, key: u128) -> Claim {
    match shared.claim(key).await {
        Claimed::Mine(claim) => claim,
        Claimed::InFlight => panic!("in flight"),
        Claimed::Answered(answer) => panic!("{answer:?}"),
    }
}

#[tokio::test]
async fn one_of_two_nodes_has_a_key() {
    let Some(redis) = Backing::redis() else {
        return;
    };
    let (a, b) = (shared(&redis).await, shared(&redis).await);
    let answer = Answer {
        body: 5,
        ingestion: IngestionId::new(uuid::Uuid::now_v7()),
    };
    let mine = claim(&a, 1).await;
    assert!(matches!(b.claim(1).await, Claimed::InFlight));
    claim(&b, 2).await.release().await;
    mine.release().await;
    let mine = claim(&b, 1).await;
    mine.answered(answer, Duration::from_mins(1)).await;
    assert!(matches!(a.claim(1).await, Claimed::Answered(found) if found == answer));

    // One whose marker has expired doesn't take the key from the next.
    let late = claim(&a, 3).await;
    assert_eq!(command(&redis, "FLUSHALL"), "+OK");
    let next = claim(&b, 3).await;
    late.release().await;
    assert!(matches!(a.claim(3).await, Claimed::InFlight));
    next.answered(answer, Duration::from_mins(1)).await;
    assert!(matches!(a.claim(3).await, Claimed::Answered(_)));

    // A node that dies leaves a marker that expires, and an answer does as well.
    let _dead = claim(&a, 4).await;
    let lasting = "EVAL \"for _, k in ipairs(redis.call('KEYS', 'tollgate:key:*')) do \
        local t = redis.call('PTTL', k) if t < 1 or t > 60000 then return k end end \
        return redis.status_reply('OK')\" 0";
    assert_eq!(command(&redis, lasting), "+OK");
}

fn quota(shared: &Shared, requests: u32) -> Quota {
    let rate = Rate {
        requests: requests.try_into().unwrap(),
        per: Duration::from_hours(24),
    };
    Quota::new(Some(rate), shared, &Clock::system())
}

/// What holds wherever the buckets are.
async fn conforms(shared: &Shared) {
    let day = Duration::from_hours(24);
    for requests in [1, 5, 1_000] {
        let quota = quota(shared, requests);
        let client = Client::new(Some(&format!("burst of {requests}")), None);
        for left in (0..requests).rev() {
            let verdict = quota.take(&client).await.unwrap();
            assert!(verdict.allowed);
            assert_eq!(
                (verdict.remaining, verdict.retry_in),
                (left, Duration::ZERO)
            );
            assert!(verdict.full_in > Duration::ZERO && verdict.full_in <= day);
        }
        for _ in 0..2 {
            let refused = quota.take(&client).await.unwrap();
            assert!(!refused.allowed);
            assert_eq!(refused.remaining, 0);
            assert!(refused.retry_in > Duration::ZERO && refused.retry_in <= day / requests);
            assert!(refused.full_in >= refused.retry_in && refused.full_in <= day);
        }
        let other = Client::new(Some(&format!("another of {requests}")), None);
        assert_eq!(quota.take(&other).await.unwrap().remaining, requests - 1);
    }
    // As many as there are, whoever asks at the same moment.
    let quota = quota(shared, 20);
    let client = Client::new(Some("crowd"), None);
    let takers = [(); 8].map(|()| {
        let quota = quota.clone();
        tokio::spawn(async move {
            let mut allowed = 0;
            for _ in 0..5 {
                allowed += u32::from(quota.take(&client).await.unwrap().allowed);
            }
            allowed
        })
    });
    let mut allowed = 0;
    for taker in takers {
        allowed += taker.await.unwrap();
    }
    assert_eq!(allowed, 20);
}

#[tokio::test(flavor = "multi_thread")]
async fn buckets_of_the_process_conform() {
    conforms(&Shared::Nothing).await;
    let off = Quota::new(None, &Shared::Nothing, &Clock::system());
    assert_eq!(off.take(&Client::new(None, None)).await, None);
}

#[tokio::test(flavor = "multi_thread")]
async fn buckets_in_redis_conform() {
    let Some(redis) = Backing::redis() else {
        return;
    };
    conforms(&shared(&redis).await).await;
}
