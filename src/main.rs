//! The command line of firedrill; everything is in the library.

fn main() -> std::process::ExitCode {
    firedrill::cli::main()
}
