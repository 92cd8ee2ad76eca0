//! Standard output, for readers that may stop listening (`sluicegate list --all | head`).

use std::io::{self, Write};

/// Prints a line to standard output.
///
/// # Errors
/// Nobody reads it any more ([`is_closed_pipe`]), or it cannot be written.
pub(super) fn line(text: impl std::fmt::Display) -> io::Result<()> {
    writeln!(io::stdout().lock(), "{text}")
}

/// Tells whoever started a server that it runs. They may not read along; that is no reason not to serve.
pub(super) fn greeting(text: impl std::fmt::Display) {
    if let Err(error) = line(text) {
        tracing::debug!(%error, "nobody reads the greeting");
    }
}

/// Whether an error only says that the reader of our output has gone, which is its right.
pub fn is_closed_pipe(error: &anyhow::Error) -> bool {
    let closed = |error: &io::Error| error.kind() == io::ErrorKind::BrokenPipe;
    error.downcast_ref::<io::Error>().is_some_and(closed)
}
