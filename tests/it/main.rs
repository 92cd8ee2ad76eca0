//! Integration tests: one binary, many themes.
#![allow(clippy::unwrap_used, clippy::expect_used, reason = "a test may panic")]

mod crash;
mod disk;
mod worker;
