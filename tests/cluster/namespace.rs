//! A network of its own for a node, over a link that can be set down.

use std::fs;
use std::io::Write as _;
use std::net::Ipv4Addr;
use std::path::Path;
use std::process::{Command, Stdio};

/// Their names begin with this; the number of the process follows.
const PREFIX: &str = "tollgate-test-";

/// A network namespace with one way out; both go when this is dropped.
pub(crate) struct Namespace {
    name: String,
    /// This end of the way.
    link: String,
    /// Of this end.
    pub(crate) here: Ipv4Addr,
    /// Of the end inside.
    pub(crate) there: Ipv4Addr,
}

impl Namespace {
    /// Where that isn't allowed, the test is skipped, and says so.
    pub(crate) fn new() -> Option<Self> {
        remove_left_over();
        let process = std::process::id();
        // A network of four addresses for each process.
        let [_, _, high, low] = (process % (1 << 14) * 4).to_be_bytes();
        let made = Self {
            name: format!("{PREFIX}{process}"),
            link: format!("tg{process}h"),
            here: Ipv4Addr::new(10, 213, high, low + 1),
            there: Ipv4Addr::new(10, 213, high, low + 2),
        };
        let (name, link, inner) = (&made.name, &made.link, format!("tg{process}n"));
        let network = |address: Ipv4Addr| format!("{address}/30");
        let steps = [
            format!("netns add {name}"),
            format!("link add {link} type veth peer name {inner} netns {name}"),
            format!("address add {} dev {link}", network(made.here)),
            format!("-n {name} address add {} dev {inner}", network(made.there)),
            format!("link set {link} up"),
            format!("-n {name} link set {inner} up"),
            format!("-n {name} link set lo up"),
        ];
        for step in steps {
            if let Err(why) = ip(&step) {
                let test = std::thread::current().name().unwrap_or("?").to_owned();
                // Not `eprintln`: that is shown of failed tests only.
                let said = format!("skipped {test}: no network namespaces here: {why}\n");
                let _ = std::io::stderr().write_all(said.as_bytes());
                return None;
            }
        }
        Some(made)
    }

    /// Its name.
    pub(crate) fn name(&self) -> &str {
        &self.name
    }

    /// Nothing gets in or out from now on, or all does.
    pub(crate) fn cut(&self, cut: bool) {
        let state = if cut { "down" } else { "up" };
        ip(&format!("link set {} {state}", self.link)).unwrap();
    }
}

impl Drop for Namespace {
    fn drop(&mut self) {
        // It may not have come so far.
        let _ = ip(&format!("link delete {}", self.link));
        let _ = ip(&format!("netns delete {}", self.name));
    }
}

/// Runs `ip`; `Err` says why it can't.
fn ip(arguments: &str) -> Result<(), String> {
    let mut command = Command::new("ip");
    let output = command
        .args(arguments.split(' '))
        .stdin(Stdio::null())
        .output()
        .map_err(|error| format!("ip: {error} (apt install iproute2)"))?;
    let why = String::from_utf8_lossy(&output.stderr);
    let why = format!("ip {arguments}: {}", why.trim_end().replace('\n', ", "));
    output.status.success().then_some(()).ok_or(why)
}

/// What processes left behind that were killed.
fn remove_left_over() {
    let there = fs::read_dir("/run/netns").into_iter().flatten().flatten();
    for name in there.filter_map(|it| it.file_name().into_string().ok()) {
        let process = name.strip_prefix(PREFIX);
        if process.is_some_and(|process| !Path::new("/proc").join(process).exists()) {
            // Its links go with it; another process may be doing the same.
            let _ = ip(&format!("netns delete {name}"));
        }
    }
}
