//! The `tollgate` command.

use std::process::ExitCode;

/// Ingestions are millions of small pieces that live long, between requests that don't: the
/// system's allocator took a sixth more memory for them (and 14 MiB less when idle).
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

fn main() -> ExitCode {
    tollgate::cli::run()
}
