//! The `tollgate` command.

use std::process::ExitCode;

/// Ingestions are millions of small pieces that live long, between requests that don't: the
/// system's allocator took a sixth more memory for them.
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

fn main() -> ExitCode {
    // A huge page is in memory as a whole, 2 MiB, once a byte of it is used: 9 MiB of an idle
    // process, and a seventh of one with 20 million events, which takes in a tenth less for it. Where
    // the kernel knows of no such thing, nothing is lost.
    #[cfg(target_os = "linux")]
    let _ = rustix::thread::disable_transparent_huge_pages(true);
    tollgate::cli::run()
}
