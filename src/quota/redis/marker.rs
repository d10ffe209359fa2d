//! An `Idempotency-Key` in Redis: first a marker, `claim <token>`, then `answer <body> <ingestion>`.

use std::time::Duration;

use uuid::Uuid;

use super::Redis;
use crate::model::id::IngestionId;
use crate::quota::claim::{self, Answer, Claim, Claimed};

/// What stands at `KEYS[1]`; if nothing does, puts marker `ARGV[1]` there for `ARGV[2]` ms.
pub(super) const CLAIM: &str = r"
local found = redis.call('GET', KEYS[1])
if not found then redis.call('SET', KEYS[1], ARGV[1], 'PX', ARGV[2]) end
return found
";

/// Replaces marker `ARGV[1]` by answer `ARGV[2]` for `ARGV[3]` ms, also where it has expired; without
/// an answer removes it. A marker of another request stays.
pub(super) const SETTLE: &str = r"
local found = redis.call('GET', KEYS[1])
if found and found ~= ARGV[1] then return 0 end
if ARGV[2] then
  redis.call('SET', KEYS[1], ARGV[2], 'PX', ARGV[3])
else
  redis.call('DEL', KEYS[1])
end
return 1
";

/// The right to answer requests with a key, as far as Redis knows.
pub struct Marker {
    redis: Redis,
    key: String,
    value: String,
}

impl Redis {
    /// Claims a key among all nodes. Where Redis doesn't answer, the claim is given: the store says
    /// then whether there was an answer.
    pub(in crate::quota) async fn claim(&self, key: u128) -> Claimed {
        let marker = Marker {
            redis: self.clone(),
            key: format!("tollgate:key:{key:032x}"),
            value: format!("claim {}", Uuid::new_v4().simple()),
        };
        let expires = claim::CLAIM.as_millis().to_string();
        let arguments = [marker.value.as_str(), expires.as_str()];
        let script = &self.0.scripts.claim;
        let found: Option<Option<String>> = self.run(script, &marker.key, &arguments).await;
        match found.flatten() {
            None => Claimed::Mine(Claim::Redis(marker)),
            Some(found) => match parse(&found) {
                Some(answer) => Claimed::Answered(answer),
                None => Claimed::InFlight,
            },
        }
    }
}

impl Marker {
    /// Tells the others the answer.
    pub(in crate::quota) async fn answered(self, answer: Answer, keep: Duration) {
        let keep = keep.as_millis().to_string();
        self.settle(&[&self.value, &write(answer), &keep]).await;
    }

    /// Lets others have the key.
    pub(in crate::quota) async fn release(self) {
        self.settle(&[&self.value]).await;
    }

    /// If Redis doesn't answer, the marker expires.
    async fn settle(&self, arguments: &[&str]) {
        let script = &self.redis.0.scripts.settle;
        let _: Option<u8> = self.redis.run(script, &self.key, arguments).await;
    }
}

fn write(answer: Answer) -> String {
    format!("answer {:032x} {}", answer.body, answer.ingestion)
}

/// `None` for a marker.
fn parse(value: &str) -> Option<Answer> {
    let (body, ingestion) = value.strip_prefix("answer ")?.split_once(' ')?;
    Some(Answer {
        body: u128::from_str_radix(body, 16).ok()?,
        ingestion: IngestionId::parse(ingestion)?,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_answer_is_read_as_it_was_written() {
        for body in [0, 7, u128::MAX] {
            let answer = Answer {
                body,
                ingestion: IngestionId::new(Uuid::now_v7()),
            };
            assert_eq!(parse(&write(answer)), Some(answer));
        }
        for other in ["", "claim 12", "answer", "answer x y", "answer 12"] {
            assert_eq!(parse(other), None, "{other}");
        }
    }
}
