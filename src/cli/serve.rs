//! `tollgate serve`: options become the last layer of the settings, and the service runs.

use std::net::IpAddr;
use std::time::Duration;

use clap::Args;
use rocket::figment::Figment;

use super::Failure;
use crate::config::{self, Settings};
use crate::{app, telemetry};

/// What `serve --help` ends with.
const SETTINGS: &str = "\
Queues and all else are settings: in Rocket.toml here (every key with its default is in the one
that comes with the source), or in the environment, which wins, and options win over both:

  TOLLGATE_QUEUES__MAIL__INTERVAL=2s tollgate serve      a second queue, named mail
  ROCKET_PORT=9000 TOLLGATE_DATA_DIR=/srv/tollgate tollgate serve

While it runs: /dashboard to watch and submit, /docs for the API. Ctrl-C stops it gracefully.";

/// How long threads that still run at the end are waited for.
const STRAGGLERS: Duration = Duration::from_millis(500);

/// The options of `serve`; each wins over the environment and the file.
#[derive(Debug, Default, Args)]
#[command(after_help = SETTINGS)]
pub(super) struct ServeArgs {
    #[arg(
        long,
        value_name = "URL",
        help = "Request each id of the default queue from this URL, such as http://host/items/{id}"
    )]
    pub(super) upstream: Option<String>,
    /// Where the store is [default: ./data]
    #[arg(long, value_name = "DIR")]
    pub(super) data_dir: Option<String>,
    /// The port to listen on [default: 8000]
    #[arg(long)]
    pub(super) port: Option<u16>,
    /// The IP address to listen on, 0.0.0.0 for all [default: 127.0.0.1]
    #[arg(long, value_name = "IP")]
    pub(super) address: Option<IpAddr>,
    /// Start although acknowledged writes are missing from the store
    #[arg(long)]
    pub(super) accept_loss: bool,
}

impl ServeArgs {
    fn over(self, mut figment: Figment) -> Figment {
        if let Some(url) = self.upstream {
            let (by, queue) = ("--upstream", "tollgate.queues.default");
            figment = config::set(figment, by, &format!("{queue}.processor"), "http");
            figment = config::set(figment, by, &format!("{queue}.upstream"), url);
        }
        if let Some(dir) = self.data_dir {
            figment = config::set(figment, "--data-dir", "tollgate.data_dir", dir);
        }
        if let Some(port) = self.port {
            figment = config::set(figment, "--port", "port", port);
        }
        if let Some(address) = self.address {
            figment = config::set(figment, "--address", "address", address.to_string());
        }
        if self.accept_loss {
            figment = config::set(figment, "--accept-loss", "tollgate.accept_loss", true);
        }
        figment
    }
}

/// Runs the service until a signal.
pub(super) fn run(args: ServeArgs) -> Result<(), Failure> {
    let failed = |error: &dyn std::fmt::Display| Failure::Failed(error.to_string());
    let (figment, settings) =
        Settings::load(args.over(config::figment())).map_err(|error| failed(&error))?;
    telemetry::log::init(settings.log, settings.log_level);
    let rocket: rocket::Config = figment.extract().map_err(|error| failed(&error))?;
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(rocket.workers.max(1))
        .max_blocking_threads(rocket.max_blocking.max(1))
        .thread_name("tollgate")
        .enable_all()
        .build()
        .map_err(|error| failed(&error))?;
    let done = runtime.block_on(app::run(settings, figment));
    // By now all is on disk: a thread that hangs must not keep the process.
    runtime.shutdown_timeout(STRAGGLERS);
    done.map_err(|error| failed(&error))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::queue::{ProcessorSettings, QueueName};

    #[test]
    fn options_win_over_all_else() {
        let args = ServeArgs {
            upstream: Some("http://h/{id}".to_owned()),
            data_dir: Some("/elsewhere".to_owned()),
            port: Some(9),
            address: Some([0, 0, 0, 0].into()),
            accept_loss: true,
        };
        let (figment, settings) = Settings::load(args.over(config::figment())).unwrap();
        assert_eq!(settings.data_dir.to_str(), Some("/elsewhere"));
        assert!(settings.accept_loss);
        let queue = &settings.queues[&QueueName::try_from("default".to_owned()).unwrap()];
        assert!(matches!(&queue.processor, ProcessorSettings::Http(http)
            if http.upstream.as_str() == "http://h/{id}"));
        let rocket: rocket::Config = figment.extract().unwrap();
        assert_eq!(
            (rocket.port, rocket.address.to_string().as_str()),
            (9, "0.0.0.0")
        );
    }
}
