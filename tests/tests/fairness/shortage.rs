//! Descriptors run out: refuses, and comes back by itself.
