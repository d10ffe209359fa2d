//! Encrypted connections to the database, with authorities of the tests' own: who is who they say is
//! connected to, and nobody else.
#![allow(clippy::expect_used, clippy::unwrap_used, clippy::indexing_slicing)]

#[path = "support/backing.rs"]
mod backing;
#[path = "support/port.rs"]
mod port;

use std::fs;
use std::os::unix::fs::{PermissionsExt as _, chown};
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::Duration;

use backing::{Backing, database, installed, psql};
use std::os::unix::fs::MetadataExt as _;
use tempfile::TempDir;
use tollgate::clock::Clock;
use tollgate::store::{OpenError, SharedSettings, Store};

/// Keys of the newest kind that all sides know.
const KEYS: &str = "-newkey ec -pkeyopt ec_paramgen_curve:prime256v1 -nodes -days 2";

/// A database whose certificate is for `127.0.0.1`, made by the authority in `ca.pem` of a directory;
/// the one in `other.pem` has made none.
struct Encrypted {
    server: Backing,
    home: TempDir,
}

impl Encrypted {
    fn start() -> Option<Self> {
        installed("openssl", "openssl")?;
        let home = tempfile::tempdir().unwrap();
        for name in ["ca", "other"] {
            let files = format!("-keyout {name}.key -out {name}.pem -subj /CN={name}");
            openssl(home.path(), &format!("req -x509 {KEYS} {files}"));
        }
        let files = "-keyout server.key -out server.csr -subj /CN=server";
        openssl(home.path(), &format!("req -new {KEYS} {files}"));
        let says = "basicConstraints=CA:FALSE\nsubjectAltName=IP:127.0.0.1\n";
        fs::write(home.path().join("says"), says).unwrap();
        openssl(
            home.path(),
            "x509 -req -in server.csr -CA ca.pem -CAkey ca.key -CAcreateserial -days 2
             -extfile says -out server.crt",
        );
        let settings = ["listen_addresses=127.0.0.1", "ssl=on"];
        let server = Backing::postgres_with(&settings, |data| {
            let owner = fs::metadata(data).unwrap();
            for name in ["server.key", "server.crt"] {
                let copy = data.join(name);
                fs::copy(home.path().join(name), &copy).unwrap();
                fs::set_permissions(&copy, fs::Permissions::from_mode(0o600)).unwrap();
                chown(&copy, Some(owner.uid()), Some(owner.gid())).unwrap();
            }
        })?;
        Some(Self { server, home })
    }

    /// What to add to a URL, so that the authority is trusted that is in this file.
    fn trusting(&self, file: &str) -> String {
        let path = self.home.path().join(file);
        format!("sslrootcert={}", path.display())
    }
}

fn openssl(home: &Path, arguments: &str) {
    let mut command = Command::new("openssl");
    let output = command
        .args(arguments.split_whitespace())
        .current_dir(home)
        .stdin(Stdio::null())
        .output()
        .unwrap();
    let said = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "openssl {arguments}: {said}");
}

/// A node, for as long as `with` runs.
async fn connect(url: String, with: impl FnOnce()) -> Result<(), OpenError> {
    let dir = tempfile::tempdir().unwrap();
    let settings = SharedSettings {
        url,
        read_url: None,
        dir: dir.path().to_owned(),
    };
    let store = Store::connect(&settings, Clock::system(), |_| {}).await?;
    store.sync().await.unwrap();
    with();
    store.close().await;
    Ok(())
}

async fn refused(url: String) -> String {
    connect(url, || {}).await.unwrap_err().to_string()
}

/// Of the connections of nodes, how many are encrypted, and how many are not.
fn connections(url: &str) -> (u64, u64) {
    let counts = psql(
        url,
        "SELECT count(*) FILTER (WHERE ssl), count(*) FILTER (WHERE NOT ssl)
         FROM pg_stat_ssl JOIN pg_stat_activity USING (pid)
         WHERE application_name = 'tollgate' AND datname = current_database()",
    )
    .unwrap();
    let (encrypted, plain) = counts.split_once('|').unwrap();
    (encrypted.parse().unwrap(), plain.parse().unwrap())
}

/// Awaits the end of the connections of nodes before, which were encrypted: then only plain ones are left.
fn await_plain(url: &str) {
    for _ in 0..6_000 {
        let (encrypted, plain) = connections(url);
        if encrypted == 0 && plain > 0 {
            return;
        }
        // sleep: the pause between two polls.
        std::thread::sleep(Duration::from_millis(10));
    }
    panic!("still encrypted after a minute: {:?}", connections(url));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_server_that_a_trusted_authority_vouches_for_is_connected_to() {
    let Some(there) = Encrypted::start() else {
        return;
    };
    let url = there.server.new_database();
    for mode in ["require", "verify-full"] {
        let asked = format!("{url}?sslmode={mode}&{}", there.trusting("ca.pem"));
        let looked = connect(asked, || {
            let (encrypted, plain) = connections(&url);
            assert!(encrypted > 0 && plain == 0, "{encrypted}, {plain}");
        });
        looked.await.unwrap();
    }
    // Without being asked for, nothing is encrypted, also where the server could.
    for asked in [url.clone(), format!("{url}?sslmode=disable")] {
        let looked = connect(asked, || await_plain(&url));
        looked.await.unwrap();
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn whoever_nobody_vouches_for_is_refused() {
    let (Some(there), Some(plain)) = (Encrypted::start(), database()) else {
        return;
    };
    let url = there.server.new_database();
    for mode in ["require", "verify-full"] {
        let (right, wrong) = (there.trusting("ca.pem"), there.trusting("other.pem"));
        let error = refused(format!("{url}?sslmode={mode}&{wrong}")).await;
        assert!(error.contains("UnknownIssuer"), "{error}");
        // The authorities of the system know nothing of this one.
        let error = refused(format!("{url}?sslmode={mode}")).await;
        assert!(
            error.contains("UnknownIssuer") || error.contains("set sslrootcert"),
            "{error}"
        );
        let by_name = url.replace("127.0.0.1", "localhost");
        let error = refused(format!("{by_name}?sslmode={mode}&{right}")).await;
        assert!(error.contains("not valid for name"), "{error}");
        let error = refused(format!("{plain}?sslmode={mode}&{right}")).await;
        assert!(error.contains("server does not support TLS"), "{error}");
    }
    let error = refused(format!("{url}?sslmode=prefer")).await;
    assert!(error.contains("store.url: sslmode must be"), "{error}");
}
