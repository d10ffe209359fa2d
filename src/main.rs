//! The `tollgate` command.

use std::process::ExitCode;

/// Ingestions are millions of small pieces that live long, between requests that don't: the
/// system's allocator took a fifth more memory for them.
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

fn main() -> ExitCode {
    tollgate::cli::run()
}
