//! A client's bucket in Redis.

use std::time::Duration;

use super::Redis;
use crate::model::quota::Rate;
use crate::quota::{Client, Verdict};

/// Takes one request out of bucket `KEYS[1]`, which holds `ARGV[1]` and gains one in `ARGV[2]`
/// microseconds. The value is what was in it and when, by the server's clock; it expires when the
/// bucket is full, since a full one is as good as none. A clock that was set back adds nothing.
pub(super) const TAKE: &str = r"
local time = redis.call('TIME')
local now = time[1] * 1000000 + time[2]
local most, step = tonumber(ARGV[1]), tonumber(ARGV[2])
local held = most
local kept = redis.call('GET', KEYS[1])
if kept then
  local was, at = string.match(kept, '^(%S+) (%S+)$')
  held = math.min(most, tonumber(was) + math.max(0, now - tonumber(at)) / step)
end
local allowed = 0
if held > 0.999999 then
  held = math.max(0, held - 1)
  allowed = 1
  local full = math.ceil((most - held) * step / 1000)
  redis.call('SET', KEYS[1], string.format('%.17g %.0f', held, now), 'PX', math.max(1, full))
end
return {allowed, math.floor(held), math.ceil((most - held) * step), math.ceil((1 - held) * step)}
";

/// What the script returns: whether, how many more, and in microseconds until it is full and until
/// there is one.
pub(super) type Taken = (u8, u32, u64, i64);

/// A bucket that no client has.
pub(super) const PROBE: &str = "tollgate:probe";

impl Redis {
    /// Takes one request out of the client's bucket, if there is one in it; `None` if Redis doesn't
    /// say.
    pub(in crate::quota) async fn take(&self, rate: Rate, client: &Client) -> Option<Verdict> {
        let key = format!("tollgate:quota:{:032x}", client.bucket);
        let most = rate.requests.to_string();
        let step = (rate.per.as_secs_f64() * 1e6 / f64::from(rate.requests.get())).to_string();
        let taken: Taken = self
            .run(&self.0.scripts.take, &key, &[&most, &step])
            .await?;
        let (allowed, remaining, full_in, retry_in) = taken;
        let allowed = allowed == 1;
        Some(Verdict {
            allowed,
            remaining,
            full_in: Duration::from_micros(full_in),
            retry_in: if allowed {
                Duration::ZERO
            } else {
                Duration::from_micros(u64::try_from(retry_in).unwrap_or_default())
            },
        })
    }
}
