//! Moves it, and shows how far it is.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use serde_json::{Value, json};

use super::super::import::progress::Progress;
use super::super::table::Table;
use super::super::{Failure, output};
use crate::clock::Clock;
use crate::model::shared::MigrationSettings;
use crate::rollups::TenantComparison;
use crate::store::migration::{Compared, Migrated, Moved, migrate};

pub(super) async fn run(settings: MigrationSettings, json: bool) -> Result<(), Failure> {
    let mut watch = Watch::new(json);
    let migrated = migrate(&settings, |moved| watch.show(moved)).await;
    watch.close();
    let migrated = migrated.map_err(|error| Failure::Failed(error.to_string()))?;
    let text = if json {
        format!("{}\n", as_json(&migrated))
    } else {
        table(&migrated).text(None)
    };
    output::text(&text)?;
    if migrated.is_same() {
        return Ok(());
    }
    Err(Failure::Failed(
        "the database has not what the directory has: begin anew with an empty one".to_owned(),
    ))
}

/// Shows how far it is, anew when it begins to compare.
struct Watch {
    clock: Clock,
    quiet: bool,
    read: Arc<AtomicU64>,
    shown: Option<(bool, Progress)>,
}

impl Watch {
    fn new(quiet: bool) -> Self {
        Self {
            clock: Clock::system(),
            quiet,
            read: Arc::default(),
            shown: None,
        }
    }

    fn show(&mut self, moved: Moved) {
        self.read.store(moved.rows, Ordering::Relaxed);
        match &mut self.shown {
            Some((comparing, progress)) if *comparing == moved.comparing => {
                progress.show(moved.rows);
            }
            _ => self.begin(moved),
        }
    }

    fn begin(&mut self, moved: Moved) {
        self.close();
        if !self.quiet {
            output::note(match (moved.comparing, moved.rows) {
                (true, _) => "comparing both sides",
                (false, 0) => "moving",
                (false, _) => "going on where it was interrupted",
            });
        }
        let (read, total) = (Arc::clone(&self.read), Some(moved.total));
        let progress = Progress::new(&self.clock, moved.rows, read, total, self.quiet);
        self.shown = Some((moved.comparing, progress));
    }

    fn close(&self) {
        if let Some((_, progress)) = &self.shown {
            progress.close();
        }
    }
}

/// A line for each kind of rows, and for each tenant one.
fn table(migrated: &Migrated) -> Table {
    let mut table = Table::new(&["what", "directory", "database", ""]);
    let mut line = |what: String, (from, to): (u64, u64), same: bool| {
        let verdict = if same { "ok" } else { "DIFFERS" };
        table.row([what, from.to_string(), to.to_string(), verdict.to_owned()]);
    };
    for it in &migrated.compared {
        line(it.what.to_owned(), it.rows, it.is_same());
    }
    for it in &migrated.tenants {
        let what = format!("{}: events in analytics", it.tenant);
        line(what, it.events, it.is_same());
    }
    table
}

fn as_json(migrated: &Migrated) -> Value {
    let compared = |it: &Compared| {
        json!({"what": it.what, "directory": it.rows.0, "database": it.rows.1,
            "ok": it.is_same()})
    };
    let tenant = |it: &TenantComparison| {
        json!({"tenant_id": it.tenant, "directory": it.events.0, "database": it.events.1,
            "ok": it.is_same()})
    };
    json!({
        "ok": migrated.is_same(),
        "compared": migrated.compared.iter().map(compared).collect::<Vec<_>>(),
        "tenants": migrated.tenants.iter().map(tenant).collect::<Vec<_>>(),
    })
}
