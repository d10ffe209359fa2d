//! `tollgate migrate`.

#[cfg(feature = "cluster")]
mod moving;

use std::path::PathBuf;

use clap::Args;

use super::Failure;
use crate::model::shared::MigrationSettings;

/// What `migrate --help` ends with.
const EXAMPLES: &str = "\
The directory is only read and stays as it is. A server that uses it must be stopped first, and none
may run on the database. Whenever this is interrupted, the same command goes on where it was. At the
end both sides are read and compared; only then `tollgate serve` starts on the database. Files of the
cold tier (by default in the directory's folder cold) are not moved: keep them.

Examples:
  tollgate migrate --to postgres://tollgate@10.0.0.7/tollgate
  TOLLGATE_STORE__URL=postgres://... tollgate migrate --data-dir /var/lib/tollgate --json";

/// Where the database is, if no option says so: as for the server that will use it.
const URL_VARIABLE: &str = "TOLLGATE_STORE__URL";

/// The options of `migrate`.
#[derive(Debug, Args)]
#[command(after_help = EXAMPLES)]
pub(super) struct MigrateArgs {
    /// The data directory of a server that does not run
    #[arg(long, value_name = "DIR", default_value = "data")]
    data_dir: PathBuf,
    #[arg(
        long,
        value_name = "URL",
        help = "A PostgreSQL database without data of tollgate [default: the environment's TOLLGATE_STORE__URL]"
    )]
    to: Option<String>,
    /// Rows a transaction
    #[arg(long, value_name = "N", default_value_t = 10_000, value_parser = clap::value_parser!(u32).range(1..=100_000))]
    batch: u32,
    /// Print JSON
    #[arg(long)]
    json: bool,
}

pub(super) async fn run(args: MigrateArgs) -> Result<(), Failure> {
    let to = match args.to {
        Some(to) => to,
        None => std::env::var(URL_VARIABLE).map_err(|_| {
            Failure::Usage(format!("--to is missing, and {URL_VARIABLE} is not set"))
        })?,
    };
    if !to.starts_with("postgres://") && !to.starts_with("postgresql://") {
        let text = "--to must be postgres://user:password@host:port/database";
        return Err(Failure::Usage(text.to_owned()));
    }
    let settings = MigrationSettings {
        dir: args.data_dir,
        to,
        batch: usize::try_from(args.batch).unwrap_or(usize::MAX),
    };
    moving::run(settings, args.json).await
}

#[cfg(not(feature = "cluster"))]
mod moving {
    use super::{Failure, MigrationSettings};
    use crate::config::NOT_BUILT_IN;

    pub(super) fn run(_: MigrationSettings, _: bool) -> std::future::Ready<Result<(), Failure>> {
        let text = format!("migrate {NOT_BUILT_IN}");
        std::future::ready(Err(Failure::Failed(text)))
    }
}
