//! How an event is laid out inside a block.
