//! The command line of firedrill; everything is in the library.

// A third of a rehearsal is small allocations; the C library's allocator takes a sixth longer for the whole.
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

fn main() -> std::process::ExitCode {
    firedrill::cli::main()
}
