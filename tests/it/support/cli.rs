//! The real binary, with nothing of this environment.

use std::process::Stdio;

use tokio::io::{AsyncBufReadExt, BufReader};
use tokio::process::{Child, Command};

use super::DEADLINE;

/// How a command ended.
#[derive(Debug)]
pub(crate) struct Ended {
    pub(crate) code: i32,
    pub(crate) out: String,
    pub(crate) err: String,
}

impl Ended {
    /// What it printed, if it ended with this code.
    #[track_caller]
    pub(crate) fn expect(self, code: i32) -> Self {
        assert_eq!(self.code, code, "{self:#?}");
        self
    }
}

/// The program, to be started in an empty environment.
pub(crate) fn command(words: &[&str]) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_sluicegate"));
    command
        .args(words)
        .env_clear()
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .kill_on_drop(true);
    command
}

/// Runs the program to its end, which has to come in time.
pub(crate) async fn run(words: &[&str]) -> Ended {
    let output = tokio::time::timeout(DEADLINE, command(words).output())
        .await
        .expect("ends in time")
        .expect("starts");
    Ended {
        code: output.status.code().expect("was not killed"),
        out: String::from_utf8(output.stdout).expect("UTF-8"),
        err: String::from_utf8(output.stderr).expect("UTF-8"),
    }
}

/// Starts a gateway by a command that serves, and answers where it listens.
pub(crate) async fn serve(command: &mut Command) -> (Child, String) {
    let mut process = command.stdout(Stdio::piped()).spawn().expect("starts");
    let output = process.stdout.take().expect("piped");
    let greeting = BufReader::new(output).lines().next_line().await.expect("reads");
    let greeting = greeting.expect("the gateway says where it listens");
    let address = greeting.rsplit(' ').next().expect("an address").to_owned();
    (process, address)
}
