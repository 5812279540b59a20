//! [`rolegate_fuzz::patterns`] for any input.
#![no_main]

libfuzzer_sys::fuzz_target!(|input: &str| rolegate_fuzz::patterns(input));
