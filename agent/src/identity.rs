//! Who is asking: address to pod. Placeholder.
