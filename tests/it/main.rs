//! Integration tests: one binary, many themes.

mod crash;
mod worker;
