//! x
pub mod clock;
pub mod domain;
pub mod kv;
