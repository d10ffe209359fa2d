//! `tollgate verify`.

use std::path::PathBuf;

use clap::Args;
use serde_json::{Value, json};
use uuid::Uuid;

use super::table::Table;
use super::{Failure, directory, output};
use crate::rollups::TenantComparison;
use crate::store::{Check, Store, StoreError, Verified};

/// What `verify --help` ends with.
const EXAMPLES: &str = "\
Nothing is written but what every start writes. A server that uses the directory must be stopped first.
Of a database that nodes share, the others may run, if no events are accepted meanwhile; what is kept
in the directory of one that does not run is compared with it, if there is one.

Examples:
  tollgate verify
  tollgate verify --store-url postgres://tollgate@10.0.0.7/tollgate
  tollgate verify --data-dir /var/lib/tollgate --json";

/// The options of `verify`.
#[derive(Debug, Args)]
#[command(after_help = EXAMPLES)]
pub(super) struct VerifyArgs {
    /// The data directory of a server that does not run [default: data]
    #[arg(long, value_name = "DIR")]
    data_dir: Option<PathBuf>,
    /// The PostgreSQL that its node shares with others, if it does
    #[arg(long, value_name = "URL")]
    store_url: Option<String>,
    /// Print JSON
    #[arg(long)]
    json: bool,
}

pub(super) async fn run(args: VerifyArgs) -> Result<(), Failure> {
    let asked = args.data_dir.is_some() || args.store_url.is_none();
    let dir = args.data_dir.unwrap_or_else(|| "data".into());
    let is_there = dir.is_dir();
    if asked && !is_there {
        let dir = dir.display();
        return Err(Failure::Failed(format!("there is no directory {dir}")));
    }
    let (store, scratch) = match args.store_url {
        None => (directory::open(&dir)?, None),
        Some(url) if is_there => (shared(url, dir).await?, None),
        // What no node has kept here is made anew.
        Some(url) => {
            let scratch = std::env::temp_dir().join(format!("tollgate-{}", Uuid::new_v4()));
            (shared(url, scratch.clone()).await?, Some(scratch))
        }
    };
    let verified = store.verify().await;
    store.close().await;
    if let Some(scratch) = scratch {
        // What is left of it is nobody's.
        let _ = std::fs::remove_dir_all(scratch);
    }
    let verified = verified.map_err(|error| match error {
        StoreError::Busy if store.is_shared() => {
            Failure::Failed("events were accepted meanwhile: try again without them".to_owned())
        }
        error => Failure::Failed(error.to_string()),
    })?;
    let text = if args.json {
        format!("{}\n", as_json(&verified))
    } else {
        table(&verified).text(None)
    };
    output::text(&text)?;
    match wrong(&verified) {
        0 => Ok(()),
        1 => Err(Failure::Failed("1 line is not as it should be".to_owned())),
        more => Err(Failure::Failed(format!(
            "{more} lines are not as they should be"
        ))),
    }
}

/// What nodes share, as the one with this directory has it.
#[cfg(feature = "cluster")]
async fn shared(url: String, dir: PathBuf) -> Result<Store, Failure> {
    let settings = crate::model::shared::SharedSettings {
        url,
        read_url: None,
        dir,
    };
    let opened = Store::connect_to_look(&settings, crate::clock::Clock::system()).await;
    opened.map_err(|error| Failure::Failed(error.to_string()))
}

#[cfg(not(feature = "cluster"))]
fn shared(_: String, _: PathBuf) -> std::future::Ready<Result<Store, Failure>> {
    let text = format!("--store-url {}", crate::config::NOT_BUILT_IN);
    std::future::ready(Err(Failure::Failed(text)))
}

impl Check {
    const fn is_right(self) -> bool {
        self.expected == self.found
    }
}

fn wrong(verified: &Verified) -> usize {
    let checks = verified.checks.iter().filter(|check| !check.is_right());
    let tenants = verified.tenants.iter().filter(|it| !it.is_same());
    checks.count() + tenants.count()
}

/// A line for each check, and for each tenant three.
fn table(verified: &Verified) -> Table {
    let mut table = Table::new(&["what", "from the events", "kept", ""]);
    let mut line = |what: String, expected: u64, found: u64, right: bool| {
        let verdict = if right { "ok" } else { "DIFFERS" };
        table.row([
            what,
            expected.to_string(),
            found.to_string(),
            verdict.to_owned(),
        ]);
    };
    for check in &verified.checks {
        line(
            check.what.to_owned(),
            check.expected,
            check.found,
            check.is_right(),
        );
    }
    for it in &verified.tenants {
        let hours = format!("{}: hours with events", it.tenant);
        line(
            format!("{}: events counted", it.tenant),
            it.events.1,
            it.events.0,
            it.events.0 == it.events.1,
        );
        line(
            format!("{}: users", it.tenant),
            it.users.1,
            it.users.0,
            it.users.0 == it.users.1,
        );
        line(hours, it.hours.1, it.hours.0, it.is_same());
    }
    table
}

fn as_json(verified: &Verified) -> Value {
    let check = |it: &Check| json!({"what": it.what, "expected": it.expected, "found": it.found, "ok": it.is_right()});
    let pair = |(kept, events): (u64, u64)| json!({"expected": events, "found": kept});
    let tenant = |it: &TenantComparison| {
        json!({"tenant_id": it.tenant, "events": pair(it.events), "users": pair(it.users),
            "hours": pair(it.hours), "differing_hours": it.differing_hours, "ok": it.is_same()})
    };
    json!({
        "ok": wrong(verified) == 0,
        "checks": verified.checks.iter().map(check).collect::<Vec<_>>(),
        "tenants": verified.tenants.iter().map(tenant).collect::<Vec<_>>(),
    })
}
