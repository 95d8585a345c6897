//! Looks at what a guest sends before anything decodes it.
//!
//! Decoding multiplies: an empty message within another is two bytes on the wire and hundreds in memory, and a field that
//! the contract does not have is kept too. So the encoded form is looked at first, and what would grow beyond its bounds is
//! never decoded.
//!
//! - [`fields`]: counts what an encoded message has;
//! - [`frame`]: collects frames;
//! - [`responses`]: bounds of the answers to unary calls;
//! - [`stream`]: a connection whose frames are inspected one by one, and are read at a bounded rate.

pub mod fields;
pub mod frame;
pub mod responses;
pub mod stream;
