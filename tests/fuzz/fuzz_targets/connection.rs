//! [`rolegate_fuzz::connection`] for any input.
#![no_main]

libfuzzer_sys::fuzz_target!(|input: &[u8]| rolegate_fuzz::connection(input));
