//! (draft)
mod address;
mod sign;
mod target;
