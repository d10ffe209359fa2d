//! What is asked, of everyone: as a path of ours, and as SQL.

/// One question.
pub(crate) struct Question {
    pub(crate) name: &'static str,
    pub(crate) target: &'static str,
    pub(crate) path: &'static str,
    /// In words that both databases know; empty where it would be the same question. Times are seconds
    /// since the epoch; the second column of the only row is compared.
    pub(crate) sql: &'static str,
    /// What ours counts, to compare: the name of the number in each entry of the answer.
    pub(crate) counts: &'static str,
    /// How often it is asked of Tollgate.
    pub(crate) times: u64,
}

/// The last 30 days, in seconds since the epoch: 2026-03-02 to 2026-03-31.
const LAST_30: &str = "at >= 1772409600 AND at < 1775001600";

/// Every question of the table of targets. The days are the last 30 of the 90.
pub(crate) const QUESTIONS: &[Question] = &[
    Question {
        name: "a day of minute buckets for a tenant",
        target: "p99 under 5 ms",
        path: "/metrics?tenant_id=shop-07&bucket_size=minute&from=2026-02-10T00:00:00Z&to=2026-02-11T00:00:00Z",
        sql: "SELECT sum(n), sum(u) FROM (SELECT {minute}, count(*) AS n, count(DISTINCT usr) AS u FROM events
              WHERE tenant = 7 AND at >= 1770681600 AND at < 1770768000 GROUP BY 1) AS q",
        counts: "unique_users",
        times: 2_000,
    },
    Question {
        name: "DAU over 30 days, one tenant",
        target: "p99 under 5 ms",
        path: "/stats/dau?tenant_id=shop-07&from=2026-03-02&to=2026-03-31",
        sql: "SELECT sum(u), sum(u) FROM (SELECT {day}, count(DISTINCT usr) AS u FROM events
              WHERE tenant = 7 AND {30} GROUP BY 1) AS q",
        counts: "dau",
        times: 2_000,
    },
    Question {
        name: "DAU over 30 days, all tenants",
        target: "p99 under 5 ms",
        path: "/stats/dau?from=2026-03-02&to=2026-03-31",
        sql: "SELECT sum(u), sum(u) FROM (SELECT {day}, count(DISTINCT usr) AS u FROM events
              WHERE {30} GROUP BY 1) AS q",
        counts: "dau",
        times: 2_000,
    },
    Question {
        name: "the same in Europe/Kyiv",
        target: "p99 under 10 ms",
        path: "/stats/dau?from=2026-03-02&to=2026-03-31&tz=Europe/Kyiv",
        sql: "",
        counts: "dau",
        times: 1_000,
    },
    Question {
        name: "the same of one tenant in Europe/Kyiv",
        target: "p99 under 10 ms",
        path: "/stats/dau?tenant_id=shop-07&from=2026-03-02&to=2026-03-31&tz=Europe/Kyiv",
        sql: "",
        counts: "dau",
        times: 1_000,
    },
    Question {
        name: "MAU over 30 days, all tenants",
        target: "p99 under 5 ms",
        path: "/stats/mau?from=2026-03-02&to=2026-03-31",
        sql: "SELECT sum(u), sum(u) FROM (SELECT d.day, count(DISTINCT e.usr) AS u
              FROM (SELECT DISTINCT {day} AS day FROM events WHERE tenant = 7 AND {30}) AS d
              JOIN events AS e ON e.at >= d.day * 86400 - 29 * 86400 AND e.at < d.day * 86400 + 86400
              GROUP BY 1) AS q",
        counts: "mau",
        times: 1_000,
    },
    Question {
        name: "MAU over 30 days, all tenants, in Europe/Kyiv",
        target: "p99 under 10 ms",
        path: "/stats/mau?from=2026-03-02&to=2026-03-31&tz=Europe/Kyiv",
        sql: "",
        counts: "mau",
        times: 1_000,
    },
    Question {
        name: "retention, 30 daily cohorts by 30 windows, all tenants",
        target: "p99 under 20 ms",
        path: "/stats/retention?start_date=2026-01-02&windows=30&window_type=daily",
        sql: "WITH first AS (SELECT usr, min(at) / 86400 AS cohort FROM events GROUP BY usr),
                   active AS (SELECT DISTINCT usr, at / 86400 AS day FROM events)
              SELECT count(*), count(*) FROM first JOIN active USING (usr)
              WHERE cohort >= 20455 AND cohort < 20485 AND day >= cohort AND day < cohort + 30",
        counts: "retained",
        times: 1_000,
    },
    Question {
        name: "top events over 90 days",
        target: "p99 under 5 ms",
        path: "/stats/top-events?limit=10",
        sql: "SELECT sum(u), sum(u) FROM (SELECT type, count(*) AS n, count(DISTINCT usr) AS u FROM events
              GROUP BY 1) AS q",
        counts: "unique_users",
        times: 1_000,
    },
    Question {
        name: "top events over 90 days in Europe/Kyiv",
        target: "p99 under 5 ms",
        path: "/stats/top-events?from=2026-01-01&to=2026-03-31&tz=Europe/Kyiv",
        sql: "",
        counts: "unique_users",
        times: 1_000,
    },
    Question {
        name: "DAU of properties.country=UA over a tenant's 30 days",
        target: "p99 under 500 ms",
        path: "/stats/dau?tenant_id=shop-07&from=2026-03-02&to=2026-03-31&segment=properties.country=UA",
        sql: "SELECT sum(u), sum(u) FROM (SELECT {day}, count(DISTINCT usr) AS u FROM events
              WHERE tenant = 7 AND {30} AND {country} = 'UA' GROUP BY 1) AS q",
        counts: "dau",
        times: 100,
    },
];

impl Question {
    /// For a database that says these so.
    pub(crate) fn sql(&self, country: &str) -> Option<String> {
        let sql = self
            .sql
            .replace("{30}", LAST_30)
            .replace("{day}", "at / 86400");
        let sql = sql
            .replace("{minute}", "at / 60")
            .replace("{country}", country);
        (!sql.is_empty()).then_some(sql)
    }
}
