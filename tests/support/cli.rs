//! Running the command itself.

use std::{
    path::Path,
    process::{Command, Output},
};

/// Runs firedrill with a kubeconfig, in a folder where no environment lies about.
pub(crate) fn firedrill(kubeconfig: &Path, args: &[&str]) -> Output {
    let mut command = Command::new(env!("CARGO_BIN_EXE_firedrill"));
    command.args(args).env("KUBECONFIG", kubeconfig).env_remove("FIREDRILL_ENVIRONMENT").env("NO_COLOR", "1");
    command.current_dir(kubeconfig.parent().unwrap()).output().unwrap()
}

/// Standard error as text.
pub(crate) fn stderr(output: &Output) -> String {
    String::from_utf8(output.stderr.clone()).unwrap()
}
